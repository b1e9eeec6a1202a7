"""The four KPI, read from the series that Prometheus' rules record, in one query with a bounded wait."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Literal, get_args

import msgspec
import requests
import structlog

from config_rollback.clock import Clock, isoformat
from config_rollback.errors import InvalidRequestError, MonitoringUnavailableError
from config_rollback.outgoing import sessions as outgoing
from config_rollback.outgoing.calls import Calls
from exporter.strict import check_json

Window = Literal["1h", "6h", "24h", "7d"]
WINDOWS: tuple[str, ...] = get_args(Window)

TOTAL_SECONDS = 4.0
MAX_CONCURRENT = 8
"""Threads that may wait for Prometheus at once."""
STALE_SECONDS = 180
"""Three evaluations at the shipped interval of a minute."""
LOW_SAMPLE_RATE = 30
LOW_SAMPLE_P95 = 20
"""Below this many messages a p95 is noise: its standard deviation is then some 16% of its value."""

_IDENTITY = "(journal, journey, persona, config_version)"
_CARRY = "6h"
"""How long the rules carry a last known value over a gap."""

MAX_VALUE = 2.0**53
"""Of a count, or of a time in milliseconds: up to here a float holds whole numbers exactly."""

P95 = 0.95
Z_95 = 1.959963984540054

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Selection:
    """Which messages: over what window, of which journey, persona and version (None: all)."""

    window: str
    journey: str | None = None
    persona: str | None = None
    config_version: str | None = None

    def __post_init__(self) -> None:
        if self.window not in WINDOWS:
            raise InvalidRequestError(f"window must be one of {', '.join(WINDOWS)}")
        if self.config_version is not None and self.persona is None:
            raise InvalidRequestError(
                "config_version needs persona: each persona has its own version numbers"
            )

    @property
    def scope(self) -> str:
        """The finest of the recorded scopes that has the labels asked for."""
        if self.config_version is not None:
            return "version"
        if self.persona is not None:
            return "persona"
        return "journey" if self.journey is not None else "total"

    @property
    def filters(self) -> dict[str, str]:
        """The labels asked for."""
        wanted = {"journey": self.journey, "persona": self.persona, "config_version": self.config_version}
        return {name: value for name, value in wanted.items() if value is not None}


@dataclass(frozen=True)
class Answer:
    """What Prometheus says to an `expression`."""

    values: dict[str, float]
    """Single values by name."""
    buckets: dict[float, float]
    """Messages by upper bound of their latency in seconds, cumulative, the last bound infinite."""
    journeys: list[str]
    """The journeys that have messages, if the call named one."""

    @classmethod
    def of(cls, samples: Iterable[tuple[Mapping[str, str], float]]) -> Answer:
        """Sorts the samples, each with its labels.

        Raises `KeyError` for a label that is missing, `ValueError` for what can be no count, time or share.
        """
        answer = cls({}, {}, [])
        for labels, value in samples:
            if not 0 <= value <= MAX_VALUE:  # nor is NaN
                raise ValueError(f"a KPI is {value}")
            if labels["kpi"] == "journey":
                answer.journeys.append(labels["journey"])
            elif labels["kpi"] == "latency_bucket":
                answer.buckets[float(labels["le"])] = value
            else:
                answer.values[labels["kpi"]] = value
        return answer


class _Row(msgspec.Struct):
    metric: dict[str, str]
    value: tuple[float, str]


class _Result(msgspec.Struct):
    result: list[_Row]


class _Body(msgspec.Struct):
    """The fields of a response of Prometheus' query API that this module reads."""

    status: Literal["success"]
    data: _Result


class Kpis:
    """Asks one Prometheus (or anything with its query API)."""

    def __init__(self, prometheus_url: str | None, clock: Clock) -> None:
        self._url = prometheus_url
        self._clock = clock
        self._calls = Calls(MAX_CONCURRENT)

    async def read(self, selection: Selection) -> dict[str, Any]:
        """The `data` of the KPI answer.

        Raises `MonitoringUnavailableError`, and `InvalidRequestError`, which names the journeys that
        there are, for another one.
        """
        answer = await self._answer(expression(selection))
        known = sorted(answer.journeys)
        if known and selection.journey not in known:
            raise InvalidRequestError(
                f"no messages of that journey: there are {', '.join(known)}", known=known
            )
        return {
            "window": selection.window,
            "aggregation_scope": selection.scope,
            "filters": selection.filters,
            "generated_at": isoformat(self._clock()),
            "coverage": answer.values.get("coverage"),
            "kpis": summarise(answer),
        }

    async def read_since(self, persona: str, config_version: str, moment: datetime) -> dict[str, Any]:
        """The four KPI of a version's messages from the moment on, to the accuracy of an evaluation.

        There is no window before. Raises `MonitoringUnavailableError`.
        """
        return summarise(await self._answer(expression_since(persona, config_version, moment)))

    async def _answer(self, query: str) -> Answer:
        if self._url is None:
            raise MonitoringUnavailableError(
                "no Prometheus is configured: set CONFIG_ROLLBACK_PROMETHEUS_URL"
            )
        try:
            return await self._calls.run(partial(_ask, f"{self._url}/api/v1/query", query), TOTAL_SECONDS)
        except TimeoutError as error:
            raise MonitoringUnavailableError("Prometheus did not answer in time") from error


def expression(selection: Selection) -> str:
    """One PromQL expression for all values, each under its name in the label `kpi`."""
    window = {"window": selection.window}
    recorded = _selector({"scope": selection.scope, **window, **selection.filters})
    buckets = f"kpi:latency_bucket:sum{_selector({**window, **selection.filters})}"
    messages = f"sum(kpi:messages_total{recorded})"
    before = f" offset {selection.window}"
    parts = {
        "messages": messages,
        "latency_bucket": f"sum by (le) ({buckets})",
        **_values(recorded, buckets),
        "previous_messages": f"sum(kpi:messages_total{recorded}{before})",
        **{f"previous_{name}": part for name, part in _values(recorded + before, buckets + before).items()},
        "coverage": f"max(kpi:coverage_ratio{_selector(window)})",
        **_health(selection.window),
    }
    if selection.journey is not None:
        parts["journey"] = (
            f"group by (journey) (kpi:messages_total{_selector({'scope': 'journey', **window})})"
        )
    return _named(parts)


def expression_since(persona: str, config_version: str, moment: datetime) -> str:
    """The same for a version since a moment: the count now minus the count then, as in the rules' windows."""
    chosen = _selector({"persona": persona, "config_version": config_version})
    then = f"{moment.timestamp():.3f}"

    def counted(counter: str) -> str:
        last = f"kpi:{counter}:last{chosen}"
        born = f"{_IDENTITY} kpi:created:last{chosen} > {then}"
        known = f"last_over_time({last}[{_CARRY}] @ {then})"
        return f"({last} - (0 * {last} and on {born} or {known} or kpi:{counter}:first{chosen}))"

    messages, buckets = counted("messages"), counted("latency_bucket")
    out_of_scope = counted("out_of_scope")
    parts = {
        "messages": f"sum({messages})",
        "latency_bucket": f"sum by (le) ({buckets})",
        "scoped_messages": f"sum({messages} and {out_of_scope})",
        "out_of_scope": f"sum({out_of_scope})",
        "llm_errors": f"sum({counted('llm_errors')})",
        "p95_latency_ms": _p95(buckets),
        **_health(WINDOWS[0]),
    }
    return _named(parts)


def _named(parts: Mapping[str, str]) -> str:
    return " or ".join(f'label_replace({part}, "kpi", "{name}", "", "")' for name, part in parts.items())


def _health(window: str) -> dict[str, str]:
    total = _selector({"scope": "total", "window": window})
    return {
        "age_seconds": f"time() - max(timestamp(kpi:messages_total{total}))",
        "exporter_up": f'max(max_over_time(up{{job="exporter"}}[{STALE_SECONDS}s]))',
    }


def _p95(buckets: str) -> str:
    return f"1000 * histogram_quantile({P95}, sum by (le) ({buckets})) >= 0"


def _values(recorded: str, buckets: str) -> dict[str, str]:
    return {
        "scoped_messages": f"sum(kpi:scoped_messages_total{recorded})",
        "out_of_scope": f"sum(kpi:out_of_scope_total{recorded})",
        "llm_errors": f"sum(kpi:llm_errors_total{recorded})",
        # From the buckets and not from the recorded p95: that of several journeys cannot be combined.
        "p95_latency_ms": _p95(buckets),
    }


def summarise(answer: Answer) -> dict[str, dict[str, Any]]:
    """The four KPI of the contract, each with what it rests on and its value in the window before.

    `interval` names the method of the 95% interval from `low` to `high`: `wilson` for rates,
    `order_statistic` for p95 (`p95_interval`), whose `high` is null where the messages do not bound it.
    """
    values = answer.values
    stale = values.get("age_seconds", 0.0) > STALE_SECONDS or values.get("exporter_up", 0.0) < 1
    messages = values.get("messages")
    p95 = values.get("p95_latency_ms")
    p95_low, p95_high = p95_interval(answer.buckets)
    return {
        "messages_total": {
            "value": messages or 0,
            "previous": values.get("previous_messages"),
            "data_status": _status(messages is not None, stale, low=False),
        },
        "out_of_scope_rate": _rate(values, "out_of_scope", "scoped_messages", stale),
        "llm_error_rate": _rate(values, "llm_errors", "messages", stale),
        "p95_latency_ms": {
            "value": p95,
            "denominator": messages or 0,
            "low": p95_low,
            "high": p95_high,
            "interval": "order_statistic",
            "previous": values.get("previous_p95_latency_ms"),
            "data_status": _status(p95 is not None, stale, low=(messages or 0) < LOW_SAMPLE_P95),
        },
    }


def p95_interval(buckets: Mapping[float, float]) -> tuple[float | None, float | None]:
    """95% interval of p95 in ms; an end is None if the messages do not bound it.

    Each is the far bound of the bucket that holds the message of rank n q -+ 1.96 sqrt(n q (1 - q)), where q
    is 0.95: where in its bucket a message lies is not known.
    """
    total = buckets.get(math.inf, 0.0)
    if not total:
        return None, None
    rank, margin = P95 * total, Z_95 * math.sqrt(total * P95 * (1 - P95))
    bounds = sorted(buckets)
    counts = [buckets[bound] for bound in bounds]
    first = bisect_left(counts, max(math.floor(rank - margin), 1))
    last = bisect_left(counts, math.ceil(rank + margin))
    low = 1000 * bounds[first - 1] if first > 0 else 0.0
    return low, 1000 * bounds[last] if last < len(bounds) - 1 else None


def wilson_interval(events: float, total: float) -> tuple[float, float]:
    """95% score interval of a proportion (Wilson, 1927); `total` is above 0.

    Unlike the normal approximation it stays within 0..1 and holds for few or no events. Rounding puts no end
    past the share itself.
    """
    share = min(events / total, 1.0)
    centre = share + Z_95**2 / (2 * total)
    margin = Z_95 * math.sqrt(share * (1 - share) / total + (Z_95 / total) * (Z_95 / total) / 4)
    scale = 1 + Z_95**2 / total
    low, high = (centre - margin) / scale, (centre + margin) / scale
    return max(min(low, share), 0.0), min(max(high, share), 1.0)


def _rate(values: dict[str, float], counted: str, of: str, stale: bool) -> dict[str, Any]:
    events, total = values.get(counted, 0.0), values.get(of, 0.0)
    earlier = values.get(f"previous_{of}")
    low, high = wilson_interval(events, total) if total else (None, None)
    return {
        "value": events / total if total else None,
        "numerator": events,
        "denominator": total,
        "low": low,
        "high": high,
        "interval": "wilson",
        "previous": values.get(f"previous_{counted}", 0.0) / earlier if earlier else None,
        "data_status": _status(total > 0, stale, low=total < LOW_SAMPLE_RATE),
    }


def _status(present: bool, stale: bool, *, low: bool) -> str:
    if not present:
        return "no_data"
    if stale:
        return "stale"
    return "low_sample" if low else "ok"


def _ask(url: str, query: str) -> Answer:
    asked = {"query": query, "timeout": f"{TOTAL_SECONDS:g}s"}
    try:
        body = outgoing.fetch(url, "POST", TOTAL_SECONDS, data=asked)
    except (requests.RequestException, ValueError) as error:
        raise MonitoringUnavailableError("Prometheus cannot be reached") from error
    try:
        check_json(body)
        rows = msgspec.json.decode(body, type=_Body).data.result
        return Answer.of((row.metric, float(row.value[1])) for row in rows)
    except (KeyError, ValueError) as error:
        log.warning("kpis_not_understood", error=str(error)[:200])
        raise MonitoringUnavailableError("the response of Prometheus cannot be read: see the log") from error


def _selector(labels: dict[str, str]) -> str:
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
