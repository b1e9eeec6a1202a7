"""The pushes to one exporter: numbered from 1, at most one of them with an unknown outcome."""

import json
import logging
import time
import uuid
from dataclasses import dataclass, replace
from typing import Final

from driftback.contract import Push, SeriesDelta
from driftback.recorder.transport import Answer, Transport, Verdict
from driftback.retry import pause_after

FIRST_BACK_OFF_SECONDS: Final = 0.25
LONGEST_BACK_OFF_SECONDS: Final = 10.0
DOUBT_SECONDS: Final = 7 * 86_400.0
"""How long a push in doubt is kept: a day less than an exporter remembers which pushes it has counted."""

_REFUSALS: Final = (Verdict.REFUSED, Verdict.TOO_LARGE)

_log = logging.getLogger("driftback")


@dataclass(slots=True, eq=False)
class Parcel:
    """What one push carries. `dropped` messages are reported with it."""

    items: list[SeriesDelta]
    dropped: int = 0

    @property
    def messages(self) -> int:
        """Number of messages in it."""
        return sum(item.get("messages", 0) for item in self.items)


class Stream:
    """(client, epoch) at one exporter. For one thread, but `in_doubt`, which any may read."""

    def __init__(self, url: str, token: str) -> None:
        self._transport = Transport(url, token)
        # A name of its own at each exporter, so that two URLs of one exporter are two clients to it.
        self._client = uuid.uuid4().hex
        self._seq = 1
        self._body = b""
        self._since = 0.0
        self._failures = 0
        self._trouble = ""
        self._refusal: Answer | None = None
        """What was said to the parcel in doubt; from then on the question is whether its number is known."""
        self._asked = False
        """Whether this question was sent without an answer."""
        self.due = 0.0
        """Monotonic time before which an attempt makes little sense."""
        self.in_doubt: Parcel | None = None
        """Sent without an answer that settles it: this exporter gets it again, and nothing else before."""

    def send(self, parcel: Parcel) -> Answer:
        """Send a parcel under the next number. It is in doubt afterwards if the outcome is unknown."""
        try:
            self._body = self._push(parcel.items, parcel.dropped)
        except (TypeError, ValueError) as error:  # now and for ever, at every exporter
            return Answer(Verdict.REFUSED, str(error))
        except Exception as error:  # noqa: BLE001 (the parcel must not get lost, for want of memory or else)
            self.back_off(type(error).__name__)
            return Answer(Verdict.NOT_TAKEN, type(error).__name__)
        self._since = time.monotonic()
        self._refusal, self._asked = None, False
        self.in_doubt = parcel  # already now: the process may end before the answer comes
        answer = self._attempt(self._body, parcel)
        if answer.verdict is Verdict.ACKNOWLEDGED:
            self.end_doubt()
        elif answer.verdict is not Verdict.UNKNOWN:  # nothing was counted, and the number is free
            self.in_doubt = None
        return answer

    def retry(self) -> Answer:
        """Find out what became of the parcel in doubt. If it is no longer so, the answer is of all attempts.

        The same bytes are sent again. A refusal of them says nothing of the attempts before, for a limit or
        the policy may have changed since. Then an empty push takes their number: it is a duplicate if they
        were counted, and if not they never will be. UNKNOWN without doubt is that nobody can tell any more,
        because the answer to the empty push was lost too.
        """
        if self.in_doubt is None:
            raise ValueError("nothing is in doubt")
        if self._refusal is None:
            answer = self._attempt(self._body, self.in_doubt)
            if answer.verdict is Verdict.ACKNOWLEDGED:
                self.end_doubt()
            if answer.verdict not in _REFUSALS:
                return answer
            self._refusal = answer
        answer = self._attempt(self._push([], 0), None)
        if answer.verdict is Verdict.ACKNOWLEDGED:
            self.end_doubt()
            if not answer.duplicate:
                return self._refusal
            if self._asked or answer.repeated:
                return Answer(Verdict.UNKNOWN, "an answer was lost twice")
        elif answer.verdict is Verdict.UNKNOWN:
            self._asked = True
        return answer

    def is_due(self) -> bool:
        """Whether enough time has passed since the last failure."""
        return self.due <= time.monotonic()

    def back_off(self, reason: str) -> None:
        """Wait after a failure."""
        self._failures += 1
        pause = pause_after(self._failures, FIRST_BACK_OFF_SECONDS, LONGEST_BACK_OFF_SECONDS)
        self.due = time.monotonic() + pause
        self._note_trouble(reason)

    def is_too_old(self) -> bool:
        """Whether the parcel in doubt can be sent no more: the exporter may have forgotten its number."""
        return time.monotonic() - self._since > DOUBT_SECONDS

    def end_doubt(self) -> None:
        """End the doubt. The number of the parcel is used up."""
        self.in_doubt = None
        self._seq += 1

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    def _push(self, items: list[SeriesDelta], dropped: int) -> bytes:
        push: Push = {
            "client": self._client,
            "epoch": 1,  # there is one of each name: no clock decides
            "seq": self._seq,
            "dropped": dropped,
            "series": items,
        }
        return json.dumps(push, separators=(",", ":")).encode()

    def _attempt(self, body: bytes, parcel: Parcel | None) -> Answer:
        answer = self._transport.send(body)
        if answer.verdict in _REFUSALS and not self._is_final(answer, parcel):
            answer = replace(answer, verdict=Verdict.NOT_TAKEN)
        if answer.verdict in (Verdict.NOT_TAKEN, Verdict.UNKNOWN):
            self.back_off(answer.reason)
        else:
            self._failures, self.due = 0, 0.0
            self._note_trouble("")
        return answer

    def _is_final(self, answer: Answer, parcel: Parcel | None) -> bool:
        """Whether a refusal decides: not of a question, and a proxy's only if the push can be divided."""
        return parcel is not None and (answer.is_exporters or len(parcel.items) > 1)

    def _note_trouble(self, reason: str) -> None:
        """Say it once when the exporter goes away, and once when it is back."""
        address = self._transport.address
        if reason and not self._trouble:
            _log.warning("the exporter does not take pushes, will retry: %s, %s", address, reason)
        elif self._trouble and not reason:
            _log.info("the exporter takes pushes again: %s", address)
        self._trouble = reason
