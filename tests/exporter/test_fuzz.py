"""Whatever bytes come in: counted whole or refused with a reason, and what is shown stays an exposition.

Four kinds of bodies: noise, JSON made of the words that the decoder knows, and sound bodies in which a value
or a few bytes were changed. `make soak` tries many more.
"""

import asyncio
import copy
import json
import re
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from driftback import contract
from exporter import catalogue
from exporter.errors import RequestRefusedError
from exporter.ingest import Ingest, Outcome
from exporter.limits import Limits, Policy
from exporter.metrics.render import View, render
from exporter.storage.clock import Moment
from exporter.storage.journal import Record, Recovery
from exporter.storage.series import SavedLabelSet
from exporter.storage.state import State
from tests.exporter.running import series

NOW = Moment(0.0, 1_700_000_000.0)
PUSH = {
    "client": "c",
    "epoch": 1,
    "seq": 1,
    "dropped": 0,
    "series": [
        series(messages=3, out_of_scope=1, llm_errors={"timeout": 1}, tokens={"input": 7, "output": 1}),
        series("guidance", messages=2, ttft={"sum": 0.5, "buckets": {"3": 1}}),
    ],
}
OBSERVATIONS = [
    {
        "journey": "chat",
        "persona": "p",
        "config_version": "1",
        "outcome": "llm_error",
        "reason": "timeout",
        "latency_ms": 5.5,
        "ttft_ms": 1,
        "input_tokens": 3,
        "output_tokens": 4,
    }
]
MANY = 10**12
AT_THE_BOUNDS = {
    **OBSERVATIONS[0],
    "latency_ms": 1e15,
    "ttft_ms": 1e15,
    "input_tokens": MANY,
    "output_tokens": MANY,
}
OBSERVATIONS_AT_THE_BOUNDS = [AT_THE_BOUNDS, AT_THE_BOUNDS, *OBSERVATIONS]
PUSH_AT_THE_BOUNDS = PUSH | {
    "series": 2
    * [
        series(
            messages=MANY,
            llm_errors={"timeout": MANY},
            latency={"sum": 1e12, "buckets": {"44": MANY}},
            ttft={"sum": 1e12, "buckets": {"44": MANY}},
            tokens={"input": MANY, "output": MANY},
        )
    ]
}
BODIES = [PUSH, OBSERVATIONS, PUSH_AT_THE_BOUNDS, OBSERVATIONS_AT_THE_BOUNDS]
WORDS = sorted(
    {word for body in (PUSH, OBSERVATIONS) for word in re.findall(r'"([^"]*)"', json.dumps(body))}
    | {*catalogue.JOURNEYS, *contract.REASONS, *contract.OUTCOMES, "\0h", "\n", '"', "\\", "é" * 128}
)
HOSTILE = [
    "\0h",
    "a\0t",
    "\n",
    '"',
    "\\",
    "%d",
    "",
    "x" * 129,
    -1,
    True,
    10**12 + 1,
    2**64,
    float("inf"),
    float("nan"),
]
LEAF = (
    st.none()
    | st.booleans()
    | st.integers(-1, 5)
    | st.integers()
    | st.floats()
    | st.sampled_from(WORDS)
    | st.text(max_size=5)
)
JSON = st.recursive(
    LEAF,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=3), inner, max_size=8)
    ),
    max_leaves=20,
)


@st.composite
def changed(draw: st.DrawFn) -> bytes:
    """A sound body in which one value is another."""
    body = copy.deepcopy(draw(st.sampled_from(BODIES)))
    parent, key = draw(st.sampled_from(list(places(body))))
    parent[key] = draw(st.sampled_from(HOSTILE) | JSON)
    return json.dumps(body).encode()


def places(inside: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a body where a value stands, as a container and a key of it."""
    for key in inside if isinstance(inside, dict) else range(len(inside)):
        yield inside, key
        if isinstance(inside[key], dict | list):
            yield from places(inside[key])


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A sound body in which a few places were overwritten."""
    body = bytearray(json.dumps(draw(st.sampled_from(BODIES))).encode())
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(body)))
        length = draw(st.integers(0, 6))
        pieces = [
            b"",
            b"-",
            b"1e999",
            b"NaN",
            b"null",
            b'"',
            b"\\ud800",
            b"\xff",
            b"\0",
            b"\\u0000",
            b"{",
            b"]",
        ]
        body[start : start + length] = draw(st.sampled_from(pieces) | st.binary(max_size=4))
    return bytes(body)


BODY = (
    st.binary(max_size=60)
    | JSON.map(lambda value: json.dumps(value).encode())
    | changed()
    | changed()
    | changed()
    | mutated()
)
SAMPLE = re.compile(r'[a-z_]+\{(?:[a-z_]+="(?:[^"\\\n\0]|\\["\\n])*",?)+\} [0-9.]+(?:e[+-][0-9]+)?')


class Memory:
    """Stands for the disk: what is handed over is written at once."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def on_failure(self, call: Callable[[], None]) -> None:
        """Nothing fails here."""

    def commit(self, record: Record, apply: Callable[[Moment], Outcome]) -> "asyncio.Future[Outcome]":
        self.records.append(record)
        counted: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        counted.set_result(apply(NOW))
        return counted


def saved(state: State) -> list[SavedLabelSet]:
    return state.table.save()


def take(body: bytes, call: Callable[[Ingest, bytes], Awaitable[Outcome]]) -> bool:
    """Send a body and check the result. Returns whether it was counted."""
    state = State()
    state.table.journal = "j"
    memory = Memory()
    ingest = Ingest(state, Limits(Policy(), lambda _: None), memory)  # type: ignore[arg-type]

    async def run() -> Outcome:
        return await call(ingest, body)

    try:
        asyncio.run(run())
    except RequestRefusedError as refusal:
        json.dumps(refusal.details)
        refusal.message.encode()
        assert memory.records == []
        assert saved(state) == []
        return False
    replayed = State()
    replayed.recover(Recovery("j", [(NOW, record) for record in memory.records], None, 0), NOW)
    assert saved(replayed) == saved(state)
    view = View(list(state.table), state.table.reasons, catalogue.OUT_OF_SCOPE_JOURNEYS)
    for line in "".join(render(view, openmetrics=False)).encode().decode().split("\n"):
        assert not line or line.startswith("# ") or SAMPLE.fullmatch(line), line
    return True


def push(ingest: Ingest, body: bytes) -> Awaitable[Outcome]:
    return ingest.push(body)


def observe(ingest: Ingest, body: bytes) -> Awaitable[Outcome]:
    return ingest.observe("key", body)


calls = pytest.mark.parametrize("call", [push, observe])


@pytest.mark.parametrize(
    ("call", "body"),
    [
        (push, PUSH),
        (push, PUSH_AT_THE_BOUNDS),
        (observe, OBSERVATIONS),
        (observe, OBSERVATIONS_AT_THE_BOUNDS),
    ],
)
def test_a_sound_body_is_counted(call: Callable[[Ingest, bytes], Awaitable[Outcome]], body: Any) -> None:
    assert take(json.dumps(body).encode(), call)


@calls
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(body=BODY)
def test_any_body(call: Callable[[Ingest, bytes], Awaitable[Outcome]], body: bytes) -> None:
    take(body, call)


@pytest.mark.soak
@calls
@settings(max_examples=100_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(body=BODY)
def test_very_many_bodies(call: Callable[[Ingest, bytes], Awaitable[Outcome]], body: bytes) -> None:
    take(body, call)
