from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from driftback_server import cli
from driftback_server.cli.replay import (
    TraceError,
    exact_p95_ms,
    messages,
    read_trace,
    summary,
)
from tests.exporter.running import TOKEN, Clock, Running, settings_for

HEAD = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
ROW = "2023-11-16 18:15:46.6805900,374,44\n"


def _trace(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    return path


def test_arrivals_are_relative_to_the_first_and_in_order(tmp_path: Path) -> None:
    arrivals = read_trace(_trace(tmp_path, HEAD + "2023-11-16 18:15:48.1805900,1,2\n" + ROW))
    assert [(arrival.at_seconds, arrival.output_tokens) for arrival in arrivals] == [(0.0, 44), (1.5, 2)]


def test_times_with_and_without_a_zone_or_a_fraction_go_together(tmp_path: Path) -> None:
    times = (
        "00:00:00.009930+00:00",
        "00:00:01+00:00",
        "00:00:01.5+00:00",
        "02:00:02.2599300+02:00",
        "00:00:03",
    )
    rows = "".join(f"2024-05-10 {time},1,2\n" for time in times)
    mark_of_excel = "\ufeff"
    arrivals = read_trace(_trace(tmp_path, mark_of_excel + HEAD + rows))
    assert [round(arrival.at_seconds, 2) for arrival in arrivals] == [0.0, 0.99, 1.49, 2.25, 2.99]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("a,b\n1,2\n", "line 1 has no column TIMESTAMP, ContextTokens", id="no header"),
        pytest.param(HEAD, "contains no messages", id="empty"),
        pytest.param(HEAD + ROW + "soon,1,2\n", "line 3: TIMESTAMP is not a time: 'soon'", id="bad time"),
        pytest.param(HEAD + ROW.replace("44", "-4"), "line 2: GeneratedTokens is not a whole", id="negative"),
        pytest.param(HEAD + "2023-11-16 18:15:46\n", "line 2: ContextTokens is not a whole", id="cut row"),
    ],
)
def test_a_bad_trace_names_the_line_and_the_column(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        read_trace(_trace(tmp_path, text))


def test_an_absent_trace_is_named(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"nowhere\.csv"):
        read_trace(tmp_path / "nowhere.csv")


def test_the_same_seed_sends_the_same(tmp_path: Path) -> None:
    arrivals = read_trace(_trace(tmp_path, HEAD + ROW * 50))
    first, second, other = (list(messages(arrivals, 0.1, 0.1, seed)) for seed in (1, 1, 2))
    assert first == second != other


def test_the_summary_counts_what_was_sent(tmp_path: Path) -> None:
    sent = list(messages(read_trace(_trace(tmp_path, HEAD + ROW * 200)), 0.2, 0.1, 1))
    result = summary(sent)
    assert result["messages_total"] == 200
    assert result["out_of_scope_total"] == sum(message.outcome == "out_of_scope" for message in sent)
    assert result["llm_error_rate"] == sum(message.outcome == "llm_error" for message in sent) / 200
    assert result["output_tokens"] == 200 * 44


@pytest.mark.parametrize(("count", "expected"), [(1, 1000.0), (20, 19_000.0), (100, 95_000.0)])
def test_p95_is_the_nearest_rank(count: int, expected: float) -> None:
    assert exact_p95_ms([float(value) for value in range(count, 0, -1)]) == expected


def _replay(*arguments: str) -> Result:
    return CliRunner().invoke(cli._app, ["replay", "--journey", "chat", "--token", "t", *arguments])


@pytest.mark.parametrize(
    ("exporter", "message"),
    [("localhost:9810", "--exporter, --token: url must begin with http://"), ("http://", "name a host")],
)
def test_an_exporter_that_is_no_url_is_wrong_usage(tmp_path: Path, exporter: str, message: str) -> None:
    result = _replay(str(_trace(tmp_path, HEAD + ROW)), "--exporter", exporter)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_bad_trace_in_a_folder_that_looks_like_markup_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "a[" / "b]"
    folder.mkdir(parents=True)
    result = _replay(str(_trace(folder, "x\n")), "--exporter", "http://127.0.0.1:1")
    assert result.exit_code == 2
    assert "a[/b]/trace.csv: line 1 has no column" in result.stderr


def test_messages_that_were_not_taken_are_no_success(tmp_path: Path) -> None:
    result = _replay(
        str(_trace(tmp_path, HEAD + ROW)), "--exporter", "http://127.0.0.1:1", "--persona", "x" * 200
    )
    assert (result.exit_code, result.stdout) == (1, "")
    assert "the exporter refused 1 messages" in result.stderr


@pytest.fixture
def exporter(tmp_path: Path) -> Iterator[Running]:
    """An exporter whose label policy has journeys of its own."""
    policy = tmp_path / "policy.yml"
    policy.write_text("journeys: {support: {out_of_scope: true}, sales: {}}")
    running = Running(settings_for(tmp_path / "state", policy_file=policy), Clock())
    yield running
    running.stop()


def _replay_as(journey: str, exporter: Running, trace: Path, rate: str = "0") -> Result:
    options = (
        "--journey",
        journey,
        "--exporter",
        exporter.url,
        "--token",
        TOKEN,
        "--out-of-scope-rate",
        rate,
    )
    return CliRunner().invoke(cli._app, ["replay", str(trace), *options, "--speed", "100", "--json"])


def test_the_journeys_are_those_of_the_exporters_label_policy(tmp_path: Path, exporter: Running) -> None:
    trace = _trace(tmp_path, HEAD + ROW * 20)
    support = _replay_as("support", exporter, trace, rate="0.9")
    assert support.exit_code == 0, support.stderr
    count = json.loads(support.stdout)["out_of_scope_total"]
    assert exporter.value("conversation_out_of_scope_total", journey="support") == count > 0
    assert _replay_as("sales", exporter, trace).exit_code == 0
    assert exporter.value("conversation_messages_total", journey="sales") == 20


@pytest.mark.parametrize(("journey", "rate"), [("chat", "0"), ("sales", "0.99")])
def test_a_replay_that_the_label_policy_refuses_stops_at_once(
    tmp_path: Path, exporter: Running, journey: str, rate: str
) -> None:
    hours = "".join(f"2023-11-17 {n // 60:02}:{n % 60:02}:00,1,2\n" for n in range(24 * 60))
    refused = _replay_as(journey, exporter, _trace(tmp_path, HEAD + hours), rate)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "messages, so the replay stopped" in refused.stderr


def test_without_a_stack_the_hint_names_the_options_of_replay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DRIFTBACK_STATE_DIR", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    result = _replay(str(_trace(tmp_path, HEAD + ROW)))
    assert result.exit_code == 3
    assert "or give --exporter and --token" in result.stderr
