"""The bodies that clients send, as types. Decoding checks shapes, types and ranges; `ingest` checks meaning.

A lone surrogate, NaN, a bool for a number, an unknown field: each is refused by the decoder, before anything
is counted. The journal holds the same types without the upper bounds: what is summed up from many items that
are each within them may be past them, and was acknowledged.
"""

import re
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Struct

from driftback import contract
from exporter.errors import InvalidJsonError, InvalidRequestError
from exporter.strict import check_json

MAX_COUNT = 10**12
MAX_SECONDS = 10**12

Label = Annotated[str, Meta(min_length=1, max_length=contract.MAX_LABEL_LENGTH)]
Count = Annotated[int, Meta(ge=0, le=MAX_COUNT)]
BucketIndex = Annotated[int, Meta(ge=0, lt=contract.BUCKETS)]
UnboundedCount = Annotated[int, Meta(ge=0)]
UnboundedSeconds = Annotated[float, Meta(ge=0)]
Milliseconds = Annotated[float, Meta(ge=0, le=MAX_SECONDS * 1000)]


class HistogramDelta(Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """Increments of a histogram: a count per bucket index (not cumulative), and a sum in seconds."""

    sum: UnboundedSeconds = 0.0
    buckets: dict[BucketIndex, UnboundedCount] = {}


class TokensDelta(Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """Increments of the token counters."""

    input: UnboundedCount = 0
    output: UnboundedCount = 0


class SeriesDelta(Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """Increments of one label set. With the labels alone it only makes the label set known, at zero."""

    journey: Label
    persona: Label
    config_version: Label
    messages: UnboundedCount = 0
    out_of_scope: UnboundedCount = 0
    llm_errors: dict[Label, UnboundedCount] = {}
    latency: HistogramDelta | None = None
    ttft: HistogramDelta | None = None
    tokens: TokensDelta | None = None


class Push(Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """Body of `POST /v1/push`. (client, epoch, seq) names it: what was counted once is not counted again."""

    client: Label
    epoch: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    seq: Annotated[int, Meta(ge=1, le=2**63 - 1)]
    dropped: Count = 0
    series: list[SeriesDelta] = []


class Observation(Struct, forbid_unknown_fields=True, gc=False):
    """One finished message, element of the array that `POST /v1/observations` takes."""

    journey: Label
    persona: Label
    config_version: Label
    outcome: Label
    latency_ms: Milliseconds
    reason: Label | None = None
    ttft_ms: Milliseconds | None = None
    input_tokens: Count | None = None
    output_tokens: Count | None = None


T = TypeVar("T")

_push_decoder = msgspec.json.Decoder(Push)
_observations_decoder = msgspec.json.Decoder(list[Observation])
_POSITION = re.compile(r"\$(?:\.series)?\[(\d+)\]")


def decode_push(body: bytes) -> Push:
    """Decode a push. Raises InvalidJsonError or InvalidRequestError."""
    push = _decode(_push_decoder, body)
    excessive = [position for position, delta in enumerate(push.series) if _is_excessive(delta)]
    if excessive:
        raise InvalidRequestError(
            f"A count is above {MAX_COUNT} or a sum above {MAX_SECONDS} seconds", {"items": excessive}
        )
    return push


def decode_observations(body: bytes) -> list[Observation]:
    """Decode a batch of observations. Raises InvalidJsonError or InvalidRequestError."""
    return _decode(_observations_decoder, body)


def _is_excessive(delta: SeriesDelta) -> bool:
    """Whether a number is past its bound. What `ingest` compares with `messages` is bounded by them."""
    tokens, latency, ttft = delta.tokens, delta.latency, delta.ttft
    return (
        delta.messages > MAX_COUNT
        or (tokens is not None and max(tokens.input, tokens.output) > MAX_COUNT)
        or (latency is not None and latency.sum > MAX_SECONDS)
        or (ttft is not None and (ttft.sum > MAX_SECONDS or sum(ttft.buckets.values()) > MAX_COUNT))
    )


def _decode(decoder: "msgspec.json.Decoder[T]", body: bytes) -> T:
    try:
        check_json(body)
    except ValueError as error:
        raise InvalidJsonError(f"The body is not JSON: {error}") from None
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        position = _POSITION.search(str(error))
        raise InvalidRequestError(str(error), {"items": [int(position[1])]} if position else {}) from None
