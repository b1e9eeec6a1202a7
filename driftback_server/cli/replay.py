"""`driftback replay`: sends a trace of real arrivals through the exporter, and prints exact totals."""

from __future__ import annotations

import csv
import json
import math
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from driftback import Recorder
from driftback_server.cli import connection

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_BASE_SECONDS, _SECONDS_PER_TOKEN, _SIGMA = 0.4, 0.025, 0.25
_FLUSH_SECONDS = 60.0


class TraceError(Exception):
    """The trace cannot be read; the message names the file, the line and the column."""


@dataclass(frozen=True)
class Arrival:
    """A message of the trace, `at_seconds` after the first one."""

    at_seconds: float
    input_tokens: int
    output_tokens: int


def read_trace(path: Path) -> list[Arrival]:
    """All arrivals in order of time; raises TraceError before anything is sent."""
    arrivals: list[tuple[datetime, int, int]] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # Excel writes a byte order mark
            rows = csv.DictReader(file)
            missing = [column for column in COLUMNS if column not in (rows.fieldnames or ())]
            if missing:
                raise TraceError(f"{path}: line 1 has no column {', '.join(missing)}")
            arrivals.extend(_parsed(path, rows.line_num, row) for row in rows)
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(f"cannot read {path}: {connection.unreadable(error)}") from error
    except csv.Error as error:
        raise TraceError(f"{path}: {error}") from error
    if not arrivals:
        raise TraceError(f"{path}: contains no messages")
    arrivals.sort(key=lambda arrival: arrival[0])
    first = arrivals[0][0]
    return [Arrival((at - first).total_seconds(), given, made) for at, given, made in arrivals]


def _parsed(path: Path, line: int, row: dict[str, str | None]) -> tuple[datetime, int, int]:
    try:
        at = datetime.fromisoformat(row["TIMESTAMP"] or "")
    except ValueError:
        raise TraceError(f"{path}: line {line}: TIMESTAMP is not a time: {row['TIMESTAMP']!r}") from None
    at = at.replace(tzinfo=at.tzinfo or UTC)  # Azure's traces are in UTC; some do not say so
    tokens = []
    for column in COLUMNS[1:]:
        text = row[column] or ""
        if not text.isdecimal():
            raise TraceError(f"{path}: line {line}: {column} is not a whole number: {text!r}")
        tokens.append(int(text))
    return at, tokens[0], tokens[1]


@dataclass(frozen=True)
class Sent:
    """A message as it was recorded."""

    arrival: Arrival
    latency_seconds: float
    outcome: str
    reason: str | None


def messages(
    arrivals: list[Arrival], out_of_scope_rate: float, error_rate: float, seed: int
) -> Iterator[Sent]:
    """The messages of the trace, with simulated latencies and outcomes, which a trace does not have."""
    rng = random.Random(seed)  # noqa: S311 a simulation, not a secret
    for arrival in arrivals:
        latency = _BASE_SECONDS + _SECONDS_PER_TOKEN * arrival.output_tokens
        latency *= rng.lognormvariate(0.0, _SIGMA)
        draw = rng.random()
        if draw < error_rate:
            yield Sent(arrival, latency, "llm_error", "provider_error")
        elif draw < error_rate + out_of_scope_rate:
            yield Sent(arrival, latency, "out_of_scope", None)
        else:
            yield Sent(arrival, latency, "ok", None)


def exact_p95_ms(latencies_seconds: list[float]) -> float:
    """The 95th percentile by nearest rank, in milliseconds; the list must not be empty."""
    ordered = sorted(latencies_seconds)
    return 1000 * ordered[math.ceil(0.95 * len(ordered)) - 1]


def summary(sent: list[Sent]) -> dict[str, Any]:
    """The exact totals, rates and p95 of what was sent, named like the KPIs."""
    outcomes = Counter(message.outcome for message in sent)
    total = len(sent)
    return {
        "messages_total": total,
        "out_of_scope_total": outcomes["out_of_scope"],
        "out_of_scope_rate": outcomes["out_of_scope"] / total,
        "llm_errors_total": outcomes["llm_error"],
        "llm_error_rate": outcomes["llm_error"] / total,
        "p95_latency_ms": exact_p95_ms([message.latency_seconds for message in sent]),
        "input_tokens": sum(message.arrival.input_tokens for message in sent),
        "output_tokens": sum(message.arrival.output_tokens for message in sent),
    }


def replay(
    trace: Annotated[Path, typer.Argument(help="CSV file with the columns " + ", ".join(COLUMNS) + ".")],
    journey: Annotated[str, typer.Option(help="Count the messages as this journey of the label policy.")],
    persona: Annotated[str, typer.Option(help="Count the messages for this persona.")] = "replay",
    config_version: Annotated[int, typer.Option(min=1, help="Count them for this config version.")] = 1,
    speed: Annotated[
        float, typer.Option(min=0.01, help="Speed factor: 1 is real time, 60 replays a minute in a second.")
    ] = 1.0,
    exporter: Annotated[
        str | None,
        typer.Option(help="URL of the exporter; by default that of the running stack.", show_default=False),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(help="The ingest token; by default that of the running stack.", envvar="EXPORTER_TOKEN"),
    ] = None,
    state_dir: Annotated[
        Path | None,
        typer.Option(help="The state folder of the running stack.", show_default=False, file_okay=False),
    ] = None,
    out_of_scope_rate: Annotated[
        float, typer.Option(min=0, max=1, help="Share of messages out of scope, for a journey that can be.")
    ] = 0.0,
    error_rate: Annotated[
        float, typer.Option(min=0, max=1, help="Share of messages that are LLM errors.")
    ] = 0.01,
    seed: Annotated[int, typer.Option(help="The same seed gives the same latencies and outcomes.")] = 1,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON line.")] = False,
) -> None:
    """Replay a trace of arrivals through the exporter, and print the exact totals, rates and p95 sent.

    Traces have no latency. The simulated latency is 0.4 s + 25 ms x GeneratedTokens, times a lognormal factor
    with sigma 0.25 from a seeded generator. The same generator draws the outcomes, at the given rates.
    """
    notes = connection.err
    if out_of_scope_rate + error_rate > 1:
        raise typer.BadParameter("--out-of-scope-rate and --error-rate add up to more than 1")
    try:
        arrivals = read_trace(trace)
    except TraceError as error:
        connection.fail(str(error), connection.USAGE)
    token = connection.unless_exported(token, "EXPORTER_TOKEN", state_dir)
    if exporter is None or token is None:
        stack = connection.running_stack(state_dir, "give --exporter and --token")
        exporter = exporter or stack["urls"]["exporter"]
        token = token or stack["ingest_token"]
    planned = list(messages(arrivals, out_of_scope_rate, error_rate, seed))
    try:
        recorder = Recorder(exporter, token=token)
    except ValueError as error:
        connection.fail(f"--exporter, --token: {error}", connection.USAGE)
    try:
        _send(planned, recorder, journey, persona, str(config_version), speed, notes)
        if not recorder.flush(timeout=_FLUSH_SECONDS):
            connection.fail(
                f"{exporter} did not acknowledge everything within {_FLUSH_SECONDS:.0f} s",
                connection.UNREACHABLE,
            )
    finally:
        recorder.close()
    dropped = recorder.counts().dropped
    if dropped:
        connection.fail(
            f"the exporter refused {dropped} messages, so the replay stopped; see the lines above",
            connection.REFUSED,
        )
    result = {
        "trace": str(trace),
        "journey": journey,
        "persona": persona,
        "config_version": str(config_version),
        **summary(planned),
    }
    if json_output:
        print(json.dumps(result))  # noqa: T201 the command's output
    else:
        for name, value in result.items():
            print(f"{name:20} {value}")  # noqa: T201 the command's output


def _send(
    planned: list[Sent],
    recorder: Recorder,
    journey: str,
    persona: str,
    config_version: str,
    speed: float,
    notes: Console,
) -> None:
    columns = (TextColumn("replaying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    recorder.declare(journey=journey, persona=persona, config_version=config_version)
    started = time.monotonic()
    with Progress(*columns, console=notes) as progress:
        task = progress.add_task("replay", total=len(planned))
        for message in planned:
            early = message.arrival.at_seconds / speed - (time.monotonic() - started)
            if early > 0:
                time.sleep(early)
            recorder.record(
                journey=journey,
                persona=persona,
                config_version=config_version,
                latency_ms=message.latency_seconds * 1000,
                outcome=message.outcome,
                reason=message.reason,
                input_tokens=message.arrival.input_tokens,
                output_tokens=message.arrival.output_tokens,
            )
            progress.advance(task)
            if recorder.counts().dropped:
                return
