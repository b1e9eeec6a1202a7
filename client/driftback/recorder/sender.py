"""Delivers what a buffer holds to one of several exporters, each message to one of them, once.

A push that certainly was not taken goes to the next exporter. One that perhaps was counted stays with the
exporter that may have counted it, and what comes after it goes to the next.
"""

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

from driftback.recorder.buffer import Buffer
from driftback.recorder.stream import Parcel, Stream
from driftback.recorder.transport import Answer, Verdict

MAX_ITEMS_PER_PUSH: Final = 250
MAX_REFUSALS: Final = 32
"""Different reasons of refusals that are logged."""

_log = logging.getLogger("driftback")


class Counts(NamedTuple):
    """What became of every message that was recorded; their sum is the number of calls of `record`."""

    acknowledged: int
    """Counted by an exporter, on its disk."""
    waiting: int
    """Counted by no exporter yet."""
    in_doubt: int
    """Sent, but the answer has not come: counted by that exporter, or not."""
    dropped: int
    """Made no sense, were refused, or came after the end."""


def shuffled(urls: Sequence[str]) -> list[str]:
    """An order of its own for each client: so they spread, and over the others when one exporter is away."""
    return random.SystemRandom().sample(urls, len(urls))


class Sender:
    """Sticks to one exporter as long as it takes pushes.

    `drop`, `counts` and `is_settled` are for any thread, the rest for one. Raises ValueError for URLs or a
    token that no request can carry.
    """

    def __init__(self, urls: Sequence[str], token: str, buffer: Buffer) -> None:
        if not urls:
            raise ValueError("url must name an exporter")
        self._streams = deque(Stream(url, token) for url in shuffled(urls))
        """The first is the one to stick to."""
        self._buffer = buffer
        self._waiting: deque[Parcel] = deque()
        self._journal = ""
        self._lock = threading.RLock()  # among those that drop: a signal's handler may be one of them
        self._dropped = 0
        self._refused = 0
        self._reported = 0
        """Of the messages dropped and refused, those that a push has told an exporter of."""
        self._acknowledged = 0
        self._given_up = 0
        self._refusals: set[str] = set()

    def drop(self, messages: int) -> None:
        """Count `messages` as dropped, and report them with the next push."""
        with self._lock:
            self._dropped += messages

    def counts(self) -> Counts:
        """What became of the messages so far; between two deliveries the four agree."""
        doubtful = [stream.in_doubt for stream in list(self._streams)]
        in_doubt = self._given_up + sum(parcel.messages for parcel in doubtful if parcel is not None)
        waiting = self._buffer.pending() + sum(parcel.messages for parcel in list(self._waiting))
        return Counts(self._acknowledged, waiting, in_doubt, self._dropped + self._refused)

    def is_settled(self) -> bool:
        """Whether nothing is left to send, between two deliveries."""
        counts = self.counts()
        return counts.waiting == 0 and counts.in_doubt == self._given_up

    def deliver(self, *, at_once: bool = False) -> bool:
        """Send what waits, then what was counted since. True if all is settled, False to try later.

        Exporters that failed a moment ago are left alone, unless `at_once`. Whatever is raised, the next
        delivery waits as after any failure.
        """
        try:
            return self._deliver(at_once)
        except Exception as error:
            for stream in self._streams:
                stream.back_off(type(error).__name__)
            raise

    def pause(self, interval: float) -> float:
        """Seconds to the next delivery: `interval`, or less to try again what failed."""
        due = [stream.due for stream in self._streams if self._waiting or stream.in_doubt]
        if not due:
            return interval
        retry = max(0.0, min(due) - time.monotonic())
        return retry if self._waiting else min(interval, retry)

    def close(self) -> None:
        """Close the connections."""
        for stream in self._streams:
            stream.close()

    def _deliver(self, at_once: bool) -> bool:
        doubtful = [stream for stream in self._streams if stream.in_doubt is not None]
        # First what can go elsewhere: an exporter that does not answer takes its time.
        sent = self._send_all(at_once)
        settled = [self._settle_doubt(stream) for stream in doubtful if at_once or stream.is_due()]
        if any(settled):
            sent = self._send_all(at_once)
        return sent and not any(stream.in_doubt for stream in self._streams)

    def _send_all(self, at_once: bool) -> bool:
        if not self._send_waiting(at_once):
            self._buffer.fold()  # what is counted stays where it is, but not in one place for every thread
            return False
        items = self._buffer.take()
        self._waiting.extend(
            Parcel(items[i : i + MAX_ITEMS_PER_PUSH]) for i in range(0, len(items), MAX_ITEMS_PER_PUSH)
        )
        if self._unreported() and not self._waiting:
            self._waiting.append(Parcel([]))
        return self._send_waiting(at_once)

    def _unreported(self) -> int:
        return self._dropped + self._refused - self._reported

    def _send_waiting(self, at_once: bool) -> bool:
        while self._waiting:
            if not any(self._send_to(stream) for stream in self._candidates(at_once)):
                return False
        return True

    def _candidates(self, at_once: bool) -> list[Stream]:
        free = [stream for stream in self._streams if stream.in_doubt is None]
        return [stream for stream in free if at_once or stream.is_due()]

    def _send_to(self, stream: Stream) -> bool:
        """Send the first parcel that waits. False if this exporter takes nothing now."""
        if not self._waiting:
            return True
        parcel = self._waiting.popleft()
        unreported = self._unreported()
        parcel.dropped += unreported
        self._reported += unreported
        answer = stream.send(parcel)
        if answer.verdict is Verdict.NOT_TAKEN:
            self._waiting.appendleft(parcel)
        elif answer.verdict is not Verdict.UNKNOWN:
            self._stick_to(stream)
            self._settled(stream, parcel, answer)
            return True
        return False

    def _stick_to(self, stream: Stream) -> None:
        if stream is not self._streams[0]:
            self._streams.rotate(-self._streams.index(stream))
            self._journal = ""
            # It may know none of the label sets, and those without a message would be shown by nobody.
            self._buffer.declare_again()

    def _settle_doubt(self, stream: Stream) -> bool:
        """Send again what is in doubt. True if it is no longer so."""
        parcel = stream.in_doubt
        if parcel is None:
            return False
        if stream.is_too_old():
            stream.end_doubt()
            answer = Answer(Verdict.UNKNOWN, "not answered in time")
        else:
            answer = stream.retry()
        if stream.in_doubt is not None:
            return False
        self._settled(stream, parcel, answer)
        return True

    def _settled(self, stream: Stream, parcel: Parcel, answer: Answer) -> None:
        if answer.verdict is Verdict.ACKNOWLEDGED:
            self._acknowledged += parcel.messages
            if stream is self._streams[0]:
                self._note_journal(answer.journal)
        elif answer.verdict is Verdict.UNKNOWN:
            self._given_up += parcel.messages
            _log.error("%d messages are in doubt for good: sent, and %s", parcel.messages, answer.reason)
        elif answer.verdict is Verdict.TOO_LARGE and len(parcel.items) > 1:
            self._split(parcel)
        else:
            self._leave_out(parcel, answer.reason, set(answer.items))

    def _note_journal(self, journal: str) -> None:
        """Declare all label sets anew to an exporter that lost its state."""
        if self._journal and journal != self._journal:
            self._buffer.declare_again()
        self._journal = journal

    def _split(self, parcel: Parcel) -> None:
        """Send the two halves one after the other."""
        middle = len(parcel.items) // 2
        first = Parcel(parcel.items[:middle], parcel.dropped)
        self._waiting.extendleft((Parcel(parcel.items[middle:]), first))

    def _leave_out(self, parcel: Parcel, reason: str, positions: set[int]) -> None:
        """Leave out what the exporter will never take."""
        kept = [item for position, item in enumerate(parcel.items) if position not in positions]
        if not positions or len(kept) == len(parcel.items):
            kept = []
        rest = Parcel(kept)
        lost = parcel.messages - rest.messages
        self._reported -= parcel.dropped
        self._refused += lost
        if kept:
            self._waiting.appendleft(rest)
        if reason not in self._refusals and len(self._refusals) < MAX_REFUSALS:
            self._refusals.add(reason)
            _log.error(
                "the exporter refused %d series items with %d messages, and drops all such (said once): %s. "
                "Count what its label policy allows, or change the policy",
                len(parcel.items) - len(kept),
                lost,
                reason,
            )
