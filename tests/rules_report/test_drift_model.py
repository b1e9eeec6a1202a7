"""The Python model of the drift rules gives what the rules give, on random traces evaluated by promtool."""

import subprocess
from pathlib import Path

import numpy as np
import yaml

from rules_report import traffic
from rules_report.drift_model import DAY, Counts, drift, parameters, regression
from tests.rules.files import RULES

KPI = parameters()["kpis"][0]
PAST = DAY + 1
"""Minutes before the first evaluation. Their messages all come in the first one, which no rule looks into."""
LABELS = 'journal="J",journey="chat",persona="{}",config_version="{}"'


def _series(name: str, labels: str, values: list[str]) -> dict[str, str]:
    return {"series": f"{name}{{{labels}}}", "values": " ".join(values)}


def _version(
    name: str, messages: Counts, events: Counts, born: int, persona: str = "p", past: int = 0
) -> list[dict[str, str]]:
    """The counters of one version of one run, one sample a minute; absent before it is born.

    The first `past` minutes are before the first evaluation.
    """
    labels = LABELS.format(persona, name)
    absent = ["_"] * born
    return [
        _series(metric, labels, absent + [str(int(count)) for count in np.cumsum(counts)[past + born :]])
        for metric, counts in (
            ("conversation_messages_total", messages),
            ("conversation_out_of_scope_total", events),
        )
    ] + [
        _series(
            "conversation_created_timestamp_seconds",
            labels,
            absent + [str(60 * (born - past))] * (len(messages) - past - born),
        )
    ]


def _evaluate(
    promtool: Path, folder: Path, series: list[dict[str, str]], checks: list[tuple[str, int]]
) -> None:
    """Asserts that each expression gives exactly one sample, 1, at its minute."""
    document = {
        "rule_files": [str(RULES / name) for name in ("recording.yml", "drift.yml")],
        "evaluation_interval": "1m",
        "group_eval_order": ["kpi", "drift"],
        "tests": [
            {
                "interval": "1m",
                "input_series": series,
                "promql_expr_test": [
                    {"expr": f"count({expr})", "eval_time": f"{minute}m", "exp_samples": [{"value": 1}]}
                    for expr, minute in checks
                ],
            }
        ],
    }
    path = folder / "model.yml"
    path.write_text(yaml.safe_dump(document, width=10**9), encoding="utf-8")
    done = subprocess.run([promtool, "test", "rules", path], capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]


def test_drift_model_gives_what_the_rules_give(promtool: Path, tmp_path: Path) -> None:
    """One persona with few messages, and one with many."""
    minutes = 12 * 60
    share = np.full(minutes, 0.03)
    share[240:480] = 0.12
    series, checks = [], []
    for per_hour in (120, 1_500):
        rng = np.random.default_rng(per_hour)
        sent = traffic.messages(rng, minutes, 1, per_hour)
        happened = traffic.events(rng, sent, share, 0.3)
        sent[0] = happened[0] = 0
        messages, events = (np.zeros((PAST + minutes, 1), np.int64) for _ in range(2))
        messages[0], messages[PAST:] = 24 * per_hour, sent
        events[0], events[PAST:] = 24 * per_hour * 3 // 100, happened
        persona = f"p{per_hour}"
        series += _version("1", messages[:, 0], events[:, 0], 0, persona=persona, past=PAST)
        found = _drift_checks(messages, events, f'{{kpi="{KPI["kpi"]}",persona="{persona}"}}')
        assert len(found) > 200
        checks += found
    _evaluate(promtool, tmp_path, series, checks)


def _drift_checks(messages: Counts, events: Counts, selector: str) -> list[tuple[str, int]]:
    """What the model says of each fifth minute, as expressions about the rules' series."""
    trace = drift(messages, events, KPI["floor"], start=PAST)
    assert trace.on[PAST + 240 : PAST + 480].any()
    checks = []
    for minute in range(0, len(messages) - PAST, 5):
        i = PAST + minute
        if np.isnan(trace.baseline[i, 0]) or messages[i - 1 : i + 1].sum() == 0:
            continue
        evidence, baseline = float(trace.evidence[i, 0]), float(trace.baseline[i, 0])
        checks += [
            (f"abs(kpi:drift:evidence{selector} - {evidence!r}) < 1e-6", minute),
            (f"abs(kpi:drift:baseline{selector} - {baseline!r}) < 1e-9", minute),
            (f"kpi:drift:on{selector} == {int(trace.on[i, 0])}", minute),
        ]
    return checks


def test_regression_model_gives_what_the_rules_give(promtool: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    births, minutes = [0, 150, 290], 500
    share = np.full(minutes, 0.03)
    share[290:340] = 0.09
    messages = traffic.messages(rng, minutes, 1, 600)
    events = traffic.events(rng, messages, share, 0.2)
    messages[0] = events[0] = 0
    found = regression(messages, events, births, minutes)
    worse, severe = found.worse[2, :, 0], found.severe[2, :, 0]
    assert 0 < severe.sum() < worse.sum() < minutes - births[2], "a ticket, a page, and the end of both"
    series = []
    checks: list[tuple[str, int]] = []
    for version, born in enumerate(births):
        end = [*births, minutes][version + 1]
        mask = np.zeros(minutes, np.int64)
        mask[born:end] = 1
        series += _version(str(version + 1), messages[:, 0] * mask, events[:, 0] * mask, born)
        if version:
            predecessor = f'persona="p",config_version="{version + 1}",predecessor="{version}"'
            series.append(
                _series(
                    "config_version_predecessor_info", predecessor, ["_"] * born + ["1"] * (minutes - born)
                )
            )
            for severity, flags in (("ticket", found.worse), ("page", found.severe)):
                alert = (
                    f'ALERTS{{alertname="ConfigVersionRegression",alertstate="firing",severity="{severity}",'
                    f'kpi="{KPI["kpi"]}",config_version="{version + 1}"}}'
                )
                checks += [
                    (alert if flags[version, i, 0] else f"vector(1) unless on () ({alert})", i)
                    for i in range(born + 3, end)
                ]
    assert len(checks) > 600
    _evaluate(promtool, tmp_path, series, checks)
