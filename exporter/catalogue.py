"""The only definition of metric names and labels. Bounds and allowed values are in `driftback.contract`.

Everything that names a metric (the renderer, rules, dashboards, documentation) takes the name from here or is
tested against it.
"""

from typing import Final, Literal, NamedTuple

from driftback.contract import LABEL_SET, LATENCY_BOUNDS


class Metric(NamedTuple):
    """One metric family as Prometheus sees it (a counter's name includes `_total`)."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    help: str


CONVERSATION_LABELS: Final = ("journal", *LABEL_SET)

JOURNEYS: Final = ("chat", "guidance")
OUT_OF_SCOPE_JOURNEYS: Final = ("chat",)
"""Journeys whose messages can be out of scope: the denominator of the out-of-scope rate."""

TTFT_BOUNDS: Final = (*LATENCY_BOUNDS[:-1:4], LATENCY_BOUNDS[-1])
"""Upper bounds in seconds at which the time to first token is exported: no rule needs them closer."""

MESSAGES: Final = Metric(
    "conversation_messages_total",
    "counter",
    CONVERSATION_LABELS,
    "Messages that ended, whatever their outcome.",
)
OUT_OF_SCOPE: Final = Metric(
    "conversation_out_of_scope_total", "counter", CONVERSATION_LABELS, "Messages answered as out of scope."
)
LLM_ERRORS: Final = Metric(
    "conversation_llm_errors_total",
    "counter",
    (*CONVERSATION_LABELS, "reason"),
    "Messages that ended in an error of the language model.",
)
LATENCY: Final = Metric(
    "conversation_latency_seconds",
    "histogram",
    CONVERSATION_LABELS,
    "Time from a message to the end of its answer, errors included.",
)
TIME_TO_FIRST_TOKEN: Final = Metric(
    "conversation_time_to_first_token_seconds",
    "histogram",
    CONVERSATION_LABELS,
    "Time from a message to the first token of its streamed answer. A label set without one has no series.",
)
TOKENS: Final = Metric(
    "conversation_tokens_total",
    "counter",
    (*CONVERSATION_LABELS, "direction"),
    "Tokens read and written by the model.",
)
CREATED: Final = Metric(
    "conversation_created_timestamp_seconds",
    "gauge",
    CONVERSATION_LABELS,
    "When the counters of this label set were at zero, in Unix time.",
)

CONVERSATION_METRICS: Final = (
    MESSAGES,
    OUT_OF_SCOPE,
    LLM_ERRORS,
    LATENCY,
    TIME_TO_FIRST_TOKEN,
    TOKENS,
    CREATED,
)

PUSHES: Final = Metric(
    "exporter_pushes_total", "counter", ("result",), "Pushes and observation batches received, by result."
)
REJECTED: Final = Metric(
    "exporter_rejected_total",
    "counter",
    ("reason",),
    "Requests refused, by error code, and label sets put under 'other', by the bound that was reached.",
)
EVICTED: Final = Metric(
    "exporter_evicted_total",
    "counter",
    ("kind",),
    "Connections and scrapes that were ended to make room for new ones: their peers kept us waiting longest.",
)
CLIENT_DROPPED: Final = Metric(
    "exporter_client_dropped_total",
    "counter",
    (),
    "Messages that clients report to have dropped before sending.",
)
SERIES: Final = Metric("exporter_series", "gauge", (), "Label sets (journey, persona, config_version) held.")
SERIES_LIMIT: Final = Metric(
    "exporter_series_limit", "gauge", (), "Label sets allowed before new ones become 'other'."
)
POLICY_RELOADED: Final = Metric(
    "exporter_policy_last_reload_successful",
    "gauge",
    (),
    "Whether the label policy was valid when it was read last: 0 means that the one before is in force.",
)
RECOVERIES: Final = Metric(
    "exporter_journal_recoveries_total",
    "counter",
    ("fault",),
    "Starts that found this fault in the journal: all but a torn tail mean lost state and a new journal id.",
)
CLOCK_JUMPS: Final = Metric(
    "exporter_clock_jumps_total",
    "counter",
    ("direction",),
    "Jumps of the system's clock, against a monotonic clock or, at a start, the journal's last write.",
)
TOKENS_RELOADED: Final = Metric(
    "exporter_tokens_last_reload_successful",
    "gauge",
    (),
    "Whether the file of tokens was usable when it was read last: 0 means that those before are in force.",
)
BUILD_INFO: Final = Metric("exporter_build_info", "gauge", ("version",), "Version of the running exporter.")

SELF_METRICS: Final = (
    PUSHES,
    REJECTED,
    EVICTED,
    CLIENT_DROPPED,
    SERIES,
    SERIES_LIMIT,
    POLICY_RELOADED,
    RECOVERIES,
    TOKENS_RELOADED,
    CLOCK_JUMPS,
    BUILD_INFO,
)

PUSH_RESULTS: Final = ("accepted", "duplicate", "rejected", "failed")
AHEAD: Final = "ahead"
BEHIND: Final = "behind"
JUMPS: Final = (AHEAD, BEHIND)
CONNECTION: Final = "connection"
SCRAPE: Final = "scrape"
OVERFLOWS: Final = ("persona_overflow", "version_overflow", "series_overflow")
