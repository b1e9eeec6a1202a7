"""What a service and Driftback's servers say to each other: names, allowed values, bounds and shapes.

The servers import this module or are tested against it.
"""

from __future__ import annotations

from typing import Any, Final, TypedDict

LABEL_SET: Final = ("journey", "persona", "config_version")
"""What a client sends to say where a message belongs."""

OUTCOMES: Final = ("ok", "out_of_scope", "llm_error")
REASONS: Final = ("timeout", "rate_limited", "provider_error", "invalid_output", "content_filter", "other")
DIRECTIONS: Final = ("input", "output")

OTHER: Final = "other"
"""The label value that takes what is past a cardinality bound."""

MAX_LABEL_LENGTH: Final = 128
"""Longest label and longest name of a client, in characters."""


def _bounds(first: float, last: float, ratio: float) -> tuple[float, ...]:
    """Geometric bounds, rounded to three significant digits so that `le` stays readable, closed by `last`."""
    bounds = []
    bound = first
    while bound < last:
        bounds.append(float(f"{bound:.3g}"))
        bound *= ratio
    return (*bounds, last)


LATENCY_BOUNDS: Final = _bounds(first=0.05, last=120.0, ratio=1.2)
"""Upper bounds in seconds, without +Inf. A ratio of 1.2 keeps the error of a p95 near 2% of its value
where latencies spread, and below 20% where all of them are alike."""

BUCKETS: Final = len(LATENCY_BOUNDS) + 1
"""Buckets of a histogram with +Inf: the valid bucket indexes are 0 to BUCKETS - 1."""


class HistogramDelta(TypedDict):
    """Increments of a histogram: a count per bucket index (not cumulative), and a sum in seconds."""

    sum: float
    buckets: dict[int, int]


class TokensDelta(TypedDict, total=False):
    """Increments of the token counters."""

    input: int
    output: int


class LabelSet(TypedDict):
    """Where messages belong."""

    journey: str
    persona: str
    config_version: str


class SeriesDelta(LabelSet, total=False):
    """Increments of one label set. With the labels alone it only makes the label set known, at zero."""

    messages: int
    out_of_scope: int
    llm_errors: dict[str, int]
    """Count per reason."""
    latency: HistogramDelta
    ttft: HistogramDelta
    tokens: TokensDelta


class Push(TypedDict):
    """Body of `POST /v1/push`. (client, epoch, seq) names it: what was counted once is not counted again."""

    client: str
    epoch: int
    seq: int
    dropped: int
    series: list[SeriesDelta]


class ActiveConfig(TypedDict):
    """`data` of the answer to `GET /v1/personas/{persona}/config`, whose ETag names the activation."""

    persona: str
    version: int
    content_hash: str
    activated_at: str
    config: dict[str, Any]
