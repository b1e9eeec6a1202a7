"""Sends one push and says what became of it."""

from dataclasses import dataclass, field
from enum import Enum

import requests

CONNECT_SECONDS = 2.0
READ_SECONDS = 10.0

_DEFINITE = frozenset({400, 413, 415, 422})
"""The exporter has read the push and will never take it as it is."""


class Verdict(Enum):
    """What to do with a push after an attempt."""

    ACKNOWLEDGED = "acknowledged"
    REFUSED = "refused"
    TOO_LARGE = "too large"
    RETRY = "retry"


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of an attempt. `items` are the positions of the refused series, if known."""

    verdict: Verdict
    reason: str = ""
    journal: str = ""
    items: tuple[int, ...] = field(default=())


class Transport:
    """A connection to one exporter, kept open. Not thread-safe."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url.rstrip("/") + "/v1/push"
        self._session = requests.Session()
        # No proxy and no .netrc from the environment: the latter would silently replace the token.
        self._session.trust_env = False
        self._session.headers.update({"Authorization": f"Bearer {token}", "Content-Type": "application/json"})

    def send(self, body: bytes) -> Answer:
        """POST a push. Never raises for what the network or the exporter does."""
        try:
            response = self._session.post(
                self._url, data=body, timeout=(CONNECT_SECONDS, READ_SECONDS), allow_redirects=False
            )
        except requests.RequestException as error:
            return Answer(Verdict.RETRY, type(error).__name__)
        content = _json_object(response)
        if response.status_code == requests.codes.ok:
            journal = _json_member(content, "data").get("journal")
            if isinstance(journal, str):
                return Answer(Verdict.ACKNOWLEDGED, journal=journal)
            return Answer(Verdict.RETRY, "the answer is not an exporter's")
        failure = _json_member(content, "error")
        reason = f"{response.status_code} {failure.get('code', '')}".strip()
        if response.status_code not in _DEFINITE:
            return Answer(Verdict.RETRY, reason)
        if response.status_code == requests.codes.request_entity_too_large:
            return Answer(Verdict.TOO_LARGE, reason)
        items = _json_member(failure, "details").get("items")
        positions = tuple(i for i in items if isinstance(i, int)) if isinstance(items, list) else ()
        return Answer(Verdict.REFUSED, reason, items=positions)

    def close(self) -> None:
        """Close the connection."""
        self._session.close()


def _json_object(response: requests.Response) -> dict[str, object]:
    try:
        content = response.json()
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _json_member(content: dict[str, object], name: str) -> dict[str, object]:
    member = content.get(name)
    return member if isinstance(member, dict) else {}
