"""How soon alerts about a version end once it no longer serves: the shipped files, evaluated by promtool."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import yaml

from rules.build import RULES
from rules_report import traffic
from rules_report.rows import Row

PERSONAS = 5
VOLUMES = (100, 500, 5_000)
BORN, STOPPED = 10, 100
"""The minutes in which version 2, of which 60% are out of scope, takes over from version 1 and gives back."""
AGE_SECONDS = 30 * 3600
"""How long version 1 has served before, so that there is a baseline."""
FIRING = 'ALERTS{alertstate="firing",config_version="2"}'
LIMIT_MINUTES = 15


def rows(promtool: Path, folder: Path, volumes: tuple[int, ...] = VOLUMES) -> Iterator[Row]:
    """The slowest of several personas at each volume, whether or not processes say what they serve."""
    for volume in volumes:
        for reported in (True, False):
            path = folder / f"end-{volume}-{reported}.yml"
            series = [line for run in range(PERSONAS) for line in _persona(run, volume, reported)]
            if not _holds(
                promtool, path, series, f"count by (alertname, severity) ({FIRING}) == {PERSONAS}", 0, 4
            ):
                raise RuntimeError(f"at {volume} msg/h the alerts about the bad version do not all fire")
            minute = next(
                (m for m in range(1, LIMIT_MINUTES) if _holds(promtool, path, series, FIRING, m, 0)),
                LIMIT_MINUTES,
            )
            how = "processes report their version" if reported else "seen from messages alone"
            yield Row(f"end after the version stops, {volume} msg/h, {how}", minute, "min", "most", 5)


def _persona(run: int, volume: int, reported: bool) -> Iterator[dict[str, str]]:
    rng = np.random.default_rng((run, volume))
    minutes = STOPPED + LIMIT_MINUTES
    sent = traffic.messages(rng, minutes, 1, volume)[:, 0]
    bad = np.zeros(minutes, bool)
    bad[BORN:STOPPED] = True
    for version, serves, share, before in (("1", ~bad, 0.03, 10_000), ("2", bad, 0.6, 0)):
        own = np.where(serves, sent, 0)
        labels = f'journal="J",journey="chat",persona="p{run}",config_version="{version}"'
        absent = ["_"] * (BORN if version == "2" else 0)
        created = BORN * 60 if version == "2" else -AGE_SECONDS
        counts = {
            "conversation_messages_total": own,
            "conversation_out_of_scope_total": rng.binomial(own, share),
        }
        for name, count in counts.items():
            start = before if name == "conversation_messages_total" else round(before * share)
            values = [str(start + total) for total in np.cumsum(count)]
            yield _series(name, labels, absent + values[len(absent) :])
        yield _series("conversation_created_timestamp_seconds", labels, [*absent, f"{created}x{minutes}"])
        if reported:
            served = f'persona="p{run}",config_version="{version}"'
            yield _series("config_clients", served, ["1" if serving else "0" for serving in serves])
    pair = f'persona="p{run}",config_version="2",predecessor="1"'
    yield _series("config_version_predecessor_info", pair, ["_"] * BORN + [f"1x{minutes - BORN}"])


def _series(name: str, labels: str, values: list[str]) -> dict[str, str]:
    return {"series": f"{name}{{{labels}}}", "values": " ".join(values)}


def _holds(
    promtool: Path, path: Path, series: list[dict[str, str]], expression: str, after: int, samples: int
) -> bool:
    """Whether the expression has this many samples so many minutes after the version's last one."""
    check = {
        "expr": f"count({expression})",
        "eval_time": f"{STOPPED - 1 + after}m",
        "exp_samples": [{"value": samples}] if samples else [],
    }
    document = {
        "rule_files": [str(RULES / name) for name in ("recording.yml", "drift.yml")],
        "evaluation_interval": "1m",
        "group_eval_order": ["kpi", "drift"],
        "tests": [{"interval": "1m", "input_series": series, "promql_expr_test": [check]}],
    }
    path.write_text(yaml.safe_dump(document, width=10**9), encoding="utf-8")
    done = subprocess.run([promtool, "test", "rules", path], capture_output=True, text=True)
    if done.returncode != 0 and "got:" not in done.stdout + done.stderr:
        raise RuntimeError((done.stdout + done.stderr)[-3000:])
    return done.returncode == 0
