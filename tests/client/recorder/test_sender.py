"""A Recorder with several exporters: each message is counted by one of them, once, whatever fails.

The exporter that fails is a small server here, which says or hides what the test wants. Real ones that are
killed are in test_faults.py. That windows keep the counts of a replica that is gone for good is measured with
a real Prometheus by tests/rules_report/test_report.py ("replica removed").
"""

import itertools
import json
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from driftback import Recorder
from driftback.connection import Answer, ask
from driftback.recorder import sender, stream, transport
from driftback.recorder.sender import Counts, Sender
from tests.exporter.running import TOKEN, Clock, Running, settings_for, wait_for
from tests.support.stacks import free_port

LABELS: dict[str, Any] = {"journey": "chat", "persona": "concierge", "config_version": "1"}
ACKNOWLEDGED = (200, {"data": {"journal": "of-the-double"}})
CUT = None


class Double:
    """Stands for an exporter: keeps every body that it gets, and says `answer`, or CUT for nothing at all."""

    def __init__(self, port: int = 0, answer: tuple[int, Any] | None = ACKNOWLEDGED) -> None:
        self.bodies: list[bytes] = []
        """What was answered, or is about to be: no other answer will be given to it."""
        self.longest = 1_000_000
        """What is longer is refused as nginx does it."""
        self.answer = answer
        self.then: tuple[int, Any] | None = None
        """What it says from the next one on, if anything else."""
        double = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                received = self.rfile.read(int(self.headers["Content-Length"]))
                answer, double.answer = double.answer, double.then or double.answer
                double.bodies.append(received)
                if len(received) > double.longest:
                    answer = (413, b"<h1>413 Request Entity Too Large</h1>")
                self.close_connection = answer is None
                if answer is not None:
                    status, content = answer
                    body = content if isinstance(content, bytes) else json.dumps(content).encode()
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def messages(self) -> int:
        """Messages in all different bodies."""
        return sum(
            item.get("messages", 0) for body in set(self.bodies) for item in json.loads(body)["series"]
        )

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def double() -> Iterator[Callable[..., Double]]:
    """Starts doubles; all are stopped at the end."""
    doubles: list[Double] = []

    def start(*arguments: Any) -> Double:
        doubles.append(Double(*arguments))
        return doubles[-1]

    yield start
    for one in doubles:
        one.stop()


@pytest.fixture
def two(tmp_path: Path, clock: Clock) -> Iterator[Callable[..., Running]]:
    """Starts exporters with a state folder each. All are stopped at the end."""
    running: list[Running] = []

    def start(folder: str, **changes: Any) -> Running:
        running.append(Running(settings_for(tmp_path / folder, **changes), clock))
        return running[-1]

    yield start
    for one in running:
        one.stop()


@pytest.fixture
def recorder_for(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Recorder]]:
    """Makes recorders that begin with the first URL and flush on request. All are closed at the end."""
    monkeypatch.setattr(sender, "shuffled", list)
    recorders: list[Recorder] = []

    def make(*urls: str) -> Recorder:
        recorders.append(Recorder(urls, token=TOKEN, flush_interval=60))
        return recorders[-1]

    yield make
    for recorder in recorders:
        recorder.close(timeout=0.1)


def record(recorder: Recorder, messages: int) -> None:
    for _ in range(messages):
        recorder.record(**LABELS, latency_ms=5)


def come_to(recorder: Recorder, counts: Counts) -> None:
    """Flush until the counts are these, with something in doubt: sent, or about to be."""
    assert not recorder.flush(timeout=0.05)
    wait_for(lambda: recorder.counts() == counts)


def refusal(code: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": "no", "details": {}}, "request_id": "r"}


@pytest.mark.parametrize(
    "answer",
    [
        (302, b""),
        (401, refusal("token_invalid")),
        (404, refusal("not_found")),
        (408, refusal("body_incomplete")),
        (429, b"slow down"),
        (400, b"<h1>400 Bad Request</h1>"),
        (413, b"<h1>413 Request Entity Too Large</h1>"),
        (415, b""),
        (422, b"<h1>nginx</h1>"),
        (422, {"error": "a gateway's"}),
        (400, {"error": {"code": 400, "message": "a gateway's"}, "request_id": "r"}),
        (400, {"error": {"code": "BadRequest", "message": "a gateway's"}}),
        (503, refusal("storage_busy")),
    ],
    ids=str,
)
def test_what_an_exporter_did_not_take_goes_to_the_next(
    exporter: Running, double: Callable[..., Double], recorder_for: Callable[..., Recorder], answer: Any
) -> None:
    first = double()
    first.answer = answer
    recorder = recorder_for(first.url, exporter.url)
    record(recorder, 3)
    assert recorder.flush()
    assert exporter.value("conversation_messages_total") == 3
    assert recorder.counts() == Counts(acknowledged=3, waiting=0, in_doubt=0, dropped=0)


@pytest.mark.parametrize(
    "answer",
    [
        CUT,
        (200, b"<h1>Welcome to nginx!</h1>"),
        (500, refusal("internal_error")),
        (502, b"bad gateway"),
        (503, b"no server is available"),
        (503, refusal("storage_failed")),
        (503, refusal("storage_full")),
        (504, b"gateway time-out"),
    ],
    ids=str,
)
def test_what_an_exporter_may_have_counted_goes_to_no_other(
    exporter: Running, double: Callable[..., Double], recorder_for: Callable[..., Recorder], answer: Any
) -> None:
    first = double()
    first.answer = answer
    recorder = recorder_for(first.url, exporter.url)
    record(recorder, 3)
    come_to(recorder, Counts(acknowledged=0, waiting=0, in_doubt=3, dropped=0))
    record(recorder, 4)
    come_to(recorder, Counts(acknowledged=4, waiting=0, in_doubt=3, dropped=0))
    assert exporter.value("conversation_messages_total") == 4

    first.answer = ACKNOWLEDGED
    record(recorder, 5)
    assert recorder.flush()
    assert recorder.counts() == Counts(acknowledged=12, waiting=0, in_doubt=0, dropped=0)
    assert exporter.value("conversation_messages_total") == 9
    assert (len(set(first.bodies)), first.messages) == (1, 3)


def test_an_exporter_that_never_answers_is_in_doubt_and_holds_up_nothing_else(
    exporter: Running, recorder_for: Callable[..., Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "READ_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        recorder = recorder_for(f"http://127.0.0.1:{silent.getsockname()[1]}", exporter.url)
        record(recorder, 3)
        come_to(recorder, Counts(0, 0, 3, 0))
        for number in range(1, 4):
            record(recorder, 1)
            come_to(recorder, Counts(number, 0, 3, 0))
        assert exporter.value("conversation_messages_total") == 3


def test_a_push_in_doubt_waits_for_an_exporter_that_is_down(
    exporter: Running, double: Callable[..., Double], recorder_for: Callable[..., Recorder]
) -> None:
    port = free_port()
    first = double(port)
    first.answer = CUT
    recorder = recorder_for(first.url, exporter.url)
    record(recorder, 3)
    come_to(recorder, Counts(0, 0, 3, 0))
    wait_for(lambda: first.bodies)
    first.stop()
    # A connection that is refused now says nothing of the attempt before.
    for number in range(1, 4):
        record(recorder, 1)
        come_to(recorder, Counts(number, 0, 3, 0))
    again = double(port, (401, refusal("token_invalid")))
    wait_for(lambda: not recorder.flush(timeout=0.05) and again.bodies)
    assert recorder.counts().in_doubt == 3
    again.answer = ACKNOWLEDGED
    assert recorder.flush()
    assert set(again.bodies) == set(first.bodies)
    assert exporter.value("conversation_messages_total") == 3
    assert recorder.counts() == Counts(6, 0, 0, 0)


@pytest.mark.parametrize(
    "answer", [(401, "token_invalid"), (413, "body_too_large"), (422, "invalid_request")]
)
def test_a_refusal_on_a_new_connection_says_nothing_of_the_one_that_was_cut(
    exporter: Running,
    double: Callable[..., Double],
    recorder_for: Callable[..., Recorder],
    answer: tuple[int, str],
) -> None:
    first = double()
    recorder = recorder_for(first.url, exporter.url)
    record(recorder, 1)
    assert recorder.flush()  # the connection is kept
    first.then = (answer[0], refusal(answer[1]))
    first.answer = CUT
    record(recorder, 3)
    come_to(recorder, Counts(1, 0, 3, 0))
    wait_for(lambda: len(first.bodies) >= 3)
    assert exporter.value("conversation_messages_total") is None
    first.then = None
    first.answer = ACKNOWLEDGED
    assert recorder.flush()
    assert recorder.counts() == Counts(4, 0, 0, 0)


@pytest.mark.parametrize("status", [400, 413, 415, 422])
def test_a_refusal_that_is_no_exporters_loses_nothing(
    double: Callable[..., Double], recorder_for: Callable[..., Recorder], status: int
) -> None:
    proxy = double()
    proxy.answer = (status, b"<h1>nginx</h1>")
    recorder = recorder_for(proxy.url)
    record(recorder, 5)
    come_to(recorder, Counts(acknowledged=0, waiting=5, in_doubt=0, dropped=0))
    proxy.answer = ACKNOWLEDGED
    assert recorder.flush()
    assert recorder.counts() == Counts(acknowledged=5, waiting=0, in_doubt=0, dropped=0)


def test_what_is_too_large_for_a_proxy_is_split(
    double: Callable[..., Double], recorder_for: Callable[..., Recorder]
) -> None:
    proxy = double()
    proxy.longest = 600
    recorder = recorder_for(proxy.url)
    for number in range(20):
        recorder.record(**{**LABELS, "persona": f"p{number}"}, latency_ms=5)
    assert recorder.flush()
    recorder.record(**{**LABELS, "persona": "p" * 128}, latency_ms=5)
    proxy.longest = 200
    come_to(recorder, Counts(acknowledged=20, waiting=1, in_doubt=0, dropped=0))
    proxy.longest = 600
    assert recorder.flush()
    assert recorder.counts() == Counts(acknowledged=21, waiting=0, in_doubt=0, dropped=0)


@pytest.fixture
def lose(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Loses the answers to the pushes with these numbers, 1 is the next one. Lists those that were lost.

    What is in doubt then stays so until the test flushes: it is not tried again before.
    """
    monkeypatch.setattr(stream, "FIRST_BACK_OFF_SECONDS", 600.0)
    monkeypatch.setattr(stream, "LONGEST_BACK_OFF_SECONDS", 600.0)

    def lose(*numbers: int) -> list[int]:
        lost: list[int] = []
        count = itertools.count(1)

        def lossy(*request: Any) -> Answer:
            answer = ask(*request)
            number = next(count)
            if number in numbers:
                lost.append(number)
                raise TimeoutError
            return answer

        monkeypatch.setattr(transport, "ask", lossy)
        return lost

    return lose


SMALL = {"max_body_bytes": 1024}


def record_twenty(recorder: Recorder) -> None:
    """More than a small body holds."""
    for number in range(20):
        recorder.record(**{**LABELS, "persona": f"p{number}"}, latency_ms=5)


def test_a_push_that_was_counted_is_not_sent_in_halves_to_an_exporter_that_takes_less(
    two: Callable[..., Running], recorder_for: Callable[..., Recorder], lose: Callable[..., list[int]]
) -> None:
    first = two("1")
    recorder = recorder_for(first.url)
    lost = lose(1)
    record_twenty(recorder)
    come_to(recorder, Counts(0, 0, 20, 0))
    wait_for(lambda: lost)
    assert first.value("conversation_messages_total") == 20
    first.stop()
    first = two("1", port=int(first.url.rsplit(":", 1)[1]), **SMALL)
    record_twenty(recorder)
    assert recorder.flush(timeout=20)
    assert recorder.counts() == Counts(acknowledged=40, waiting=0, in_doubt=0, dropped=0)
    assert first.value("conversation_messages_total") == 40
    assert (first.value("exporter_rejected_total", reason="body_too_large") or 0) > 0


def test_a_push_whose_refusal_as_too_large_was_lost_is_sent_in_halves_once(
    exporter: Running,
    two: Callable[..., Running],
    recorder_for: Callable[..., Recorder],
    lose: Callable[..., list[int]],
) -> None:
    first = two("1", **SMALL)
    recorder = recorder_for(first.url, exporter.url)
    lost = lose(1)
    record_twenty(recorder)
    come_to(recorder, Counts(0, 0, 20, 0))
    wait_for(lambda: lost)
    record(recorder, 1)
    assert recorder.flush()
    # Nothing of it was counted, so that what is left may go to any exporter: to the one in use.
    assert first.value("conversation_messages_total") is None
    assert exporter.value("conversation_messages_total") == 21
    assert recorder.counts() == Counts(acknowledged=21, waiting=0, in_doubt=0, dropped=0)


def test_a_push_whose_refusal_was_lost_is_sent_without_what_was_refused(
    exporter: Running,
    two: Callable[..., Running],
    recorder_for: Callable[..., Recorder],
    lose: Callable[..., list[int]],
) -> None:
    first = two("1")
    recorder = recorder_for(first.url, exporter.url)
    lost = lose(1)
    record(recorder, 3)
    recorder.record(**{**LABELS, "journey": "moon"}, latency_ms=5)
    come_to(recorder, Counts(0, 0, 4, 0))
    wait_for(lambda: lost)
    record(recorder, 1)
    assert recorder.flush()
    assert first.value("conversation_messages_total") is None
    assert exporter.value("conversation_messages_total") == 4
    assert recorder.flush()
    assert exporter.value("exporter_client_dropped_total") == 1
    assert recorder.counts() == Counts(acknowledged=4, waiting=0, in_doubt=0, dropped=1)


@pytest.mark.parametrize("counted_before", [True, False])
def test_when_the_answer_to_the_question_for_a_number_is_lost_nobody_can_tell(
    two: Callable[..., Running],
    recorder_for: Callable[..., Recorder],
    lose: Callable[..., list[int]],
    caplog: pytest.LogCaptureFixture,
    counted_before: bool,
) -> None:
    first = two("1", **({} if counted_before else SMALL))
    recorder = recorder_for(first.url)
    lost = lose(1, 3)  # 2 is the refusal of the same bytes, 3 the question
    record_twenty(recorder)
    come_to(recorder, Counts(0, 0, 20, 0))
    wait_for(lambda: lost)
    first.stop()
    first = two("1", port=int(first.url.rsplit(":", 1)[1]), **SMALL)
    record(recorder, 1)
    wait_for(lambda: recorder.flush(timeout=1))
    assert recorder.counts() == Counts(acknowledged=1, waiting=0, in_doubt=20, dropped=0)
    assert first.value("conversation_messages_total") == (21 if counted_before else 1)
    assert "20 messages are in doubt for good" in caplog.text


def test_a_question_for_a_number_that_was_cut_off_and_repeated_is_no_proof(
    two: Callable[..., Running], recorder_for: Callable[..., Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = two("1", **SMALL)
    recorder = recorder_for(first.url)
    count = itertools.count(1)

    def lossy(*request: Any) -> Answer:
        answer = ask(*request)
        match next(count):
            case 1:
                raise TimeoutError
            case (
                3
            ):  # the question is sent on the connection that brought the refusal: it is sent again at once
                raise ConnectionResetError
        return answer

    monkeypatch.setattr(transport, "ask", lossy)
    record_twenty(recorder)
    assert recorder.flush(timeout=20)
    assert recorder.counts() == Counts(acknowledged=0, waiting=0, in_doubt=20, dropped=0)


def test_an_exporter_that_was_stopped_leaves_no_doubt_and_is_not_gone_back_to(
    two: Callable[..., Running], recorder_for: Callable[..., Recorder]
) -> None:
    first, second = two("1"), two("2")
    recorder = recorder_for(first.url, second.url)
    record(recorder, 1)
    assert recorder.flush()
    port = int(first.url.rsplit(":", 1)[1])
    first.stop()
    for _ in range(3):
        record(recorder, 1)
        assert recorder.flush()
    first = two("1", port=port)
    record(recorder, 1)
    assert recorder.flush()
    assert (first.value("conversation_messages_total"), second.value("conversation_messages_total")) == (1, 4)
    second.stop()
    record(recorder, 1)
    assert recorder.flush()
    assert first.value("conversation_messages_total") == 2
    assert recorder.counts() == Counts(6, 0, 0, 0)


def test_the_next_exporter_learns_all_label_sets(
    two: Callable[..., Running], recorder_for: Callable[..., Recorder]
) -> None:
    first, second = two("1"), two("2")
    recorder = recorder_for(first.url, second.url)
    recorder.declare(**{**LABELS, "config_version": "2"})
    assert recorder.flush()
    first.stop()
    record(recorder, 1)
    assert recorder.flush()
    assert recorder.flush()
    assert second.value("conversation_messages_total", config_version="2") == 0


def test_with_every_exporter_in_doubt_counts_add_up_in_place(
    double: Callable[..., Double], recorder_for: Callable[..., Recorder]
) -> None:
    doubles = [double(), double()]
    for one in doubles:
        one.answer = CUT
    recorder = recorder_for(*(one.url for one in doubles))
    for _ in range(2):
        record(recorder, 2)
        assert not recorder.flush(timeout=0.05)
        wait_for(lambda: recorder.counts().waiting == 0)
    wait_for(lambda: all(one.bodies for one in doubles))
    for number in range(20):
        record(recorder, 10)
        recorder.flush(timeout=0.01)
        # They are exact between two deliveries, and one may be under way.
        wait_for(lambda waiting=10 * (number + 1): recorder.counts().waiting == waiting)  # type: ignore[misc]
    assert len(recorder._sender._waiting) <= 1
    assert [len(set(one.bodies)) for one in doubles] == [1, 1]
    for one in doubles:
        one.answer = ACKNOWLEDGED
    assert recorder.flush()
    assert recorder.counts() == Counts(204, 0, 0, 0)
    assert sum(one.messages for one in doubles) == 204


def test_a_doubt_that_lasts_too_long_is_counted_and_said(
    exporter: Running,
    double: Callable[..., Double],
    recorder_for: Callable[..., Recorder],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    first = double()
    first.answer = CUT
    recorder = recorder_for(first.url, exporter.url)
    record(recorder, 3)
    come_to(recorder, Counts(0, 0, 3, 0))
    monkeypatch.setattr(stream, "DOUBT_SECONDS", 0.0)
    assert recorder.flush()
    assert recorder.counts() == Counts(acknowledged=0, waiting=0, in_doubt=3, dropped=0)
    assert "3 messages are in doubt for good" in caplog.text
    sent = len(first.bodies)
    record(recorder, 1)
    first.answer = ACKNOWLEDGED
    assert recorder.flush()
    assert recorder.counts() == Counts(acknowledged=1, waiting=0, in_doubt=3, dropped=0)
    # The number was used up: were it used again, an exporter that had counted it would take it for a retry.
    assert [json.loads(body)["seq"] for body in first.bodies[sent - 1 :]] == [1, 2]


AT_EXIT = """
import logging, sys
from driftback import Recorder
logging.basicConfig(format="%(levelname)s %(message)s", stream=sys.stdout, level="ERROR")
recorder = Recorder(sys.argv[1], token=sys.argv[2], flush_interval=60)
for _ in range(3):
    recorder.record(journey="chat", persona="p", config_version=1, latency_ms=5)
recorder.flush(timeout=1)
recorder.record(journey="chat", persona="p", config_version=1, latency_ms=5)
"""


def test_at_exit_what_is_left_is_said(double: Callable[..., Double]) -> None:
    first = double()
    first.answer = CUT
    command = [sys.executable, "-W", "error", "-c", AT_EXIT, first.url, TOKEN]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == (
        "ERROR closed with 1 messages that no exporter took, and 3 in doubt: sent, and not answered\n"
    )


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_of_a_fork_leaves_the_doubt_to_its_parent(
    exporter: Running, double: Callable[..., Double], recorder_for: Callable[..., Recorder]
) -> None:
    first = double()
    first.answer = CUT
    recorder = recorder_for(first.url, exporter.url)
    record(recorder, 3)
    come_to(recorder, Counts(0, 0, 3, 0))
    wait_for(lambda: first.bodies)
    first.answer = (401, refusal("token_invalid"))
    child = os.fork()
    if child == 0:
        record(recorder, 4)
        os._exit(0 if recorder.flush() and recorder.counts() == Counts(4, 0, 0, 0) else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    first.answer = ACKNOWLEDGED
    assert recorder.flush()
    assert recorder.counts() == Counts(3, 0, 0, 0)
    assert exporter.value("conversation_messages_total") == 4


def test_two_urls_of_one_exporter_count_once(
    exporter: Running, recorder_for: Callable[..., Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = recorder_for(exporter.url, exporter.url + "/")
    for sent in range(1, 6):
        record(recorder, 1)
        assert recorder.flush()
        recorder._sender._streams.rotate(1)
        assert exporter.value("conversation_messages_total") == sent


def test_clients_spread() -> None:
    urls = [f"http://127.0.0.{number}:9810" for number in range(1, 4)]
    firsts = {Sender(urls, TOKEN, None)._streams[0]._transport.address for _ in range(200)}  # type: ignore[arg-type]
    assert firsts == set(urls)


def test_urls_are_a_list_or_separated_by_commas(exporter: Running, caplog: pytest.LogCaptureFixture) -> None:
    away = [f"http://127.0.0.1:{free_port()}" for _ in range(2)]
    for urls in (f" {away[0]}, {exporter.url} ,,{away[1]}", [*away, exporter.url]):
        with Recorder(urls, token=TOKEN, flush_interval=60) as recorder:
            record(recorder, 1)
    assert exporter.value("conversation_messages_total") == 2
    assert not [line for line in caplog.records if line.levelno > logging.WARNING]


@pytest.mark.parametrize("urls", ["", " , ", [], ["http://127.0.0.1:1", "127.0.0.1:2"]], ids=str)
def test_urls_that_name_no_exporter_are_an_error(urls: Any) -> None:
    with pytest.raises(ValueError, match="url must"):
        Recorder(urls, token=TOKEN)
