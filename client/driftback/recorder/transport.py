"""Sends one push and says what became of it.

http.client and not requests: a session of the latter costs several times as much CPU as all else in a flush.
"""

import contextlib
import http.client
import json
import selectors
from dataclasses import dataclass, field, replace
from enum import Enum

from driftback.connection import ask, authorization, connection_to

CONNECT_SECONDS = 2.0
READ_SECONDS = 10.0
MAX_ANSWER_BYTES = 1024 * 1024
MAX_REASON_LENGTH = 400

_DEFINITE = frozenset({400, 415, 422})
"""An exporter that says this, and not a proxy before it, will never take the push as it is."""

_STOPPING = "storage_busy"
"""Code of a 503 that is given before anything is written. The exporter's other 503 speak of a write that
failed, which a crash may yet turn into one that succeeded."""


class Verdict(Enum):
    """What is known of a push after an attempt."""

    ACKNOWLEDGED = "acknowledged"
    REFUSED = "refused"
    TOO_LARGE = "too large"
    NOT_TAKEN = "not taken"
    """This attempt counted nothing; the same push may be taken later, or by another exporter."""
    UNKNOWN = "unknown"
    """Perhaps counted, perhaps not: only this exporter can tell, when it gets the same bytes again."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of an attempt. `items` are the positions of the refused series, if known."""

    verdict: Verdict
    reason: str = ""
    journal: str = ""
    items: tuple[int, ...] = field(default=())
    is_exporters: bool = False
    """Whether a refusal has the form of an exporter's; else it is a proxy's."""
    duplicate: bool = True
    """Whether the exporter knew the number already, for all it says."""
    repeated: bool = False
    """Whether the push was sent twice in this attempt, so that it may itself be what it is a duplicate of."""


class Transport:
    """A connection to one exporter, kept open. Not thread-safe.

    Raises ValueError for a URL or a token that no request can carry.
    """

    def __init__(self, url: str, token: str) -> None:
        self._connection, prefix = connection_to(url, CONNECT_SECONDS)
        self.address = url
        """The exporter's, for the log."""
        self._path = f"{prefix}/v1/push"
        self._headers = {"Authorization": authorization(token), "Content-Type": "application/json"}

    def send(self, body: bytes) -> Answer:
        """POST a push. Never raises: whatever goes wrong, the same bytes may be sent again."""
        sent = doubtful = False
        try:
            if self._is_stale():
                self._connection.close()
            if self._connection.sock is not None:
                sent = True
                try:
                    return _judge(*self._post(body))
                except ConnectionError:
                    # Closed just now, as the exporter may any idle connection; or after it has read this.
                    self._connection.close()
                    doubtful = True
            _open(self._connection)
            sent = True
            answer = _judge(*self._post(body))
        except Exception as error:  # noqa: BLE001 (one that nobody thought of would leave no pause behind it)
            with contextlib.suppress(Exception):  # it has no socket any more, also if closing that failed
                self._connection.close()
            return Answer(Verdict.UNKNOWN if sent else Verdict.NOT_TAKEN, type(error).__name__)
        if doubtful and answer.verdict is not Verdict.ACKNOWLEDGED:
            return replace(answer, verdict=Verdict.UNKNOWN)
        return replace(answer, repeated=doubtful)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _is_stale(self) -> bool:
        """Whether the exporter has closed the connection: then nothing needs to be sent to find out."""
        if self._connection.sock is None:
            return False
        # Not select.poll, which not every platform has, nor eventlet.
        with selectors.DefaultSelector() as selector:
            selector.register(self._connection.sock, selectors.EVENT_READ)
            return bool(selector.select(0))

    def _post(self, body: bytes) -> tuple[int, bytes]:
        answer = ask(self._connection, "POST", self._path, self._headers, body, MAX_ANSWER_BYTES)
        return answer.status, answer.body


def _open(connection: http.client.HTTPConnection) -> None:
    connection.connect()
    connection.sock.settimeout(READ_SECONDS)


def _judge(status: int, content: bytes) -> Answer:
    answer = _json_object(content)
    if status == http.client.OK:
        data = _json_member(answer, "data")
        journal = data.get("journal")
        if isinstance(journal, str):
            duplicate = data.get("duplicate") is not False
            return Answer(Verdict.ACKNOWLEDGED, journal=journal, duplicate=duplicate)
        return Answer(Verdict.UNKNOWN, "the answer is not an exporter's")
    failure = _json_member(answer, "error")
    reason = _reason(status, failure)
    is_exporters = isinstance(failure.get("code"), str) and isinstance(answer.get("request_id"), str)
    if status == http.client.REQUEST_ENTITY_TOO_LARGE:
        return Answer(Verdict.TOO_LARGE, reason, is_exporters=is_exporters)
    if status in _DEFINITE and is_exporters:
        items = _json_member(failure, "details").get("items")
        positions = tuple(i for i in items if isinstance(i, int)) if isinstance(items, list) else ()
        return Answer(Verdict.REFUSED, reason, items=positions, is_exporters=True)
    # Below 500 nobody has done what was asked for (RFC 9110, section 15).
    not_taken = 300 <= status < 500 or failure.get("code") == _STOPPING
    return Answer(Verdict.NOT_TAKEN if not_taken else Verdict.UNKNOWN, reason)


def _reason(status: int, failure: dict[str, object]) -> str:
    """What the exporter says is wrong, and what it would take: that is what one can act on."""
    reason = f"{status} {failure.get('code', '')}: {failure.get('message', '')}".rstrip(": ")
    allowed = _json_member(failure, "details").get("allowed")
    return (f"{reason}; allowed: {allowed}" if allowed else reason)[:MAX_REASON_LENGTH]


def _json_object(body: bytes) -> dict[str, object]:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _json_member(content: dict[str, object], name: str) -> dict[str, object]:
    member = content.get(name)
    return member if isinstance(member, dict) else {}
