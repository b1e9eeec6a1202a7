"""From a request body to counted messages: decode, recognise a retry, check, commit.

A batch counts whole or not at all.
"""

import asyncio
import hashlib
from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

import msgspec

from driftback import contract
from exporter.errors import IdempotencyKeyReusedError, InvalidRequestError, RequestRefusedError
from exporter.limits import Limits
from exporter.storage.clock import Moment
from exporter.storage.commit import GroupCommit
from exporter.storage.journal import Record
from exporter.storage.series import Key
from exporter.storage.state import (
    EXPIRY,
    EXPIRY_SECONDS,
    OBSERVATIONS,
    PUSH,
    Expiry,
    ObservationsBatch,
    State,
)
from exporter.wire import (
    HistogramDelta,
    Observation,
    Push,
    SeriesDelta,
    TokensDelta,
    decode_observations,
    decode_push,
)

T = TypeVar("T")


class Outcome(NamedTuple):
    """The result of a batch that was not refused."""

    duplicate: bool
    dropped: int = 0
    """Messages that the client dropped before, as reported for the first time by this batch."""


class Ingest:
    """Applies pushes to the state. Knows those that are being written, so it recognises their retries."""

    def __init__(self, state: State, limits: Limits, commit: GroupCommit) -> None:
        self._state = state
        self._limits = limits
        self._commit = commit
        self._pushes: dict[tuple[str, int], int] = {}
        self._keys: dict[str, str] = {}
        commit.on_failure(self._forget_pending)

    def push(self, body: bytes) -> "asyncio.Future[Outcome]":
        """Count a push. The future is done when it is on disk and counted, or raises StorageError.

        Raises RequestRefusedError or StorageError at once for what need not wait for the disk. Whenever one
        of them is raised, nothing of the push was counted.
        """
        push = decode_push(body)
        name = (push.client, push.epoch)
        if push.seq <= self._state.last_seq(*name):
            return _done(Outcome(duplicate=True))
        if push.seq <= self._pushes.get(name, 0):
            return self._commit.settled(Outcome(duplicate=True))
        _raise_first(_refusals(push.series, self._check))
        moved = self._admit(push.series)
        record = Record(PUSH, msgspec.json.encode(push) if moved else body)
        counted = self._commit.commit(record, lambda now: self._count_push(push, now))
        self._pushes[name] = push.seq
        return counted

    def observe(self, key: str, body: bytes) -> "asyncio.Future[Outcome]":
        """Count a batch of observations under an idempotency key. Raises as `push` does."""
        digest = hashlib.sha256(body).hexdigest()
        known = self._state.digest(key)
        if known is not None or key in self._keys:
            if (known or self._keys[key]) != digest:
                raise IdempotencyKeyReusedError("This Idempotency-Key was used for another batch")
            if known is None:
                return self._commit.settled(Outcome(duplicate=True))
            return _done(Outcome(duplicate=True))
        observations = decode_observations(body)
        self._check_observations(observations)
        series = _sum_up(observations)
        self._admit(series)
        batch = ObservationsBatch(key, digest, series)
        counted = self._commit.commit(
            Record(OBSERVATIONS, msgspec.json.encode(batch)), lambda now: self._count_observations(batch, now)
        )
        self._keys[key] = digest
        return counted

    async def expire(self, now: Moment) -> None:
        """Drop label sets untouched for 8 days of running time. Raises StorageError.

        It is written even if there are none: so the journal knows the time though nobody pushes.
        """
        expiry = Expiry(before=now.running - EXPIRY_SECONDS)
        record = Record(EXPIRY, msgspec.json.encode(expiry))
        await self._commit.commit(record, lambda _: self._expire(expiry))

    def _forget_pending(self) -> None:
        """What was on its way to the disk did not get there."""
        self._pushes.clear()
        self._keys.clear()
        self._limits.reset(self._state.table.keys())

    def _count_push(self, push: Push, now: Moment) -> Outcome:
        self._state.apply_push(push, now)
        name = (push.client, push.epoch)
        if self._pushes.get(name) == push.seq:
            del self._pushes[name]
        return Outcome(duplicate=False, dropped=push.dropped)

    def _count_observations(self, batch: ObservationsBatch, now: Moment) -> Outcome:
        self._state.apply_observations(batch, now)
        self._keys.pop(batch.key, None)
        return Outcome(duplicate=False)

    def _expire(self, expiry: Expiry) -> None:
        self._state.apply_expiry(expiry)
        self._limits.reset(self._state.table.keys())

    def _admit(self, series: list[SeriesDelta]) -> bool:
        """Admit checked items under their final labels. True if a label became `other`."""
        moved = False
        for delta in series:
            key = (delta.journey, delta.persona, delta.config_version)
            admitted = self._limits.admit(key)
            if admitted is not key:
                _, delta.persona, delta.config_version = admitted
                moved = True
        return moved

    def _check(self, delta: SeriesDelta) -> None:
        _check_text(delta.persona, delta.config_version)
        self._limits.check(delta.journey, delta.out_of_scope, delta.llm_errors)
        timed = sum(delta.latency.buckets.values()) if delta.latency is not None else 0
        if timed != delta.messages:
            raise InvalidRequestError(
                f"{delta.messages} messages, but {timed} latencies: every message has one"
            )
        failed = sum(delta.llm_errors.values())
        if delta.out_of_scope + failed > delta.messages:
            raise InvalidRequestError("There are more out-of-scope messages or errors than messages")

    def _check_observations(self, observations: Iterable[Observation]) -> None:
        """Check the labels of every message, once for all that have the same."""
        judged: dict[tuple[str | None, ...], RequestRefusedError | None] = {}
        refusals = []
        for position, message in enumerate(observations):
            labels = (
                message.journey,
                message.persona,
                message.config_version,
                message.outcome,
                message.reason,
            )
            if labels not in judged:
                judged[labels] = self._refusal(message)
            if (refusal := judged[labels]) is not None:
                refusals.append((position, refusal))
        _raise_first(refusals)

    def _refusal(self, message: Observation) -> RequestRefusedError | None:
        try:
            _check_text(message.persona, message.config_version)
            if message.outcome not in contract.OUTCOMES:
                raise InvalidRequestError(
                    f"Unknown outcome {message.outcome!r}", {"allowed": list(contract.OUTCOMES)}
                )
            if message.reason is not None and message.outcome != "llm_error":
                raise InvalidRequestError(
                    f"A reason belongs to the outcome llm_error, not to {message.outcome}"
                )
            reasons = [] if message.reason is None else [message.reason]
            self._limits.check(message.journey, message.outcome == "out_of_scope", reasons)
        except RequestRefusedError as refusal:
            return refusal
        return None


def _done(outcome: Outcome) -> "asyncio.Future[Outcome]":
    future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    future.set_result(outcome)
    return future


def _check_text(persona: str, config_version: str) -> None:
    if "\0" in persona or "\0" in config_version:
        raise InvalidRequestError(
            "A label value contains a NUL character, which the text format cannot represent"
        )


def _refusals(items: Iterable[T], check: Callable[[T], None]) -> list[tuple[int, RequestRefusedError]]:
    refusals = []
    for position, item in enumerate(items):
        try:
            check(item)
        except RequestRefusedError as refusal:
            refusals.append((position, refusal))
    return refusals


def _raise_first(refusals: list[tuple[int, RequestRefusedError]]) -> None:
    """Raise the first refusal, with the positions of all refused items: a client can send the others."""
    if refusals:
        _, first = refusals[0]
        first.details["items"] = [position for position, _ in refusals]
        raise first


def _sum_up(observations: Iterable[Observation]) -> list[SeriesDelta]:
    """One delta per label set."""
    deltas: dict[Key, SeriesDelta] = {}
    for observation in observations:
        key = (observation.journey, observation.persona, observation.config_version)
        delta = deltas.get(key)
        if delta is None:
            delta = deltas[key] = SeriesDelta(*key, latency=HistogramDelta())
        _add(delta, observation)
    return list(deltas.values())


def _add(delta: SeriesDelta, observation: Observation) -> None:
    delta.messages += 1
    if observation.outcome == "out_of_scope":
        delta.out_of_scope += 1
    elif observation.outcome == "llm_error":
        reason = observation.reason or contract.OTHER
        delta.llm_errors[reason] = delta.llm_errors.get(reason, 0) + 1
    delta.latency = _observe(delta.latency, observation.latency_ms)
    if observation.ttft_ms is not None:
        delta.ttft = _observe(delta.ttft, observation.ttft_ms)
    if observation.input_tokens or observation.output_tokens:
        delta.tokens = delta.tokens or TokensDelta()
        delta.tokens.input += observation.input_tokens or 0
        delta.tokens.output += observation.output_tokens or 0


def _observe(histogram: HistogramDelta | None, milliseconds: float) -> HistogramDelta:
    histogram = histogram or HistogramDelta()
    seconds = milliseconds / 1000
    index = bisect_left(contract.LATENCY_BOUNDS, seconds)
    histogram.sum += seconds
    histogram.buckets[index] = histogram.buckets.get(index, 0) + 1
    return histogram
