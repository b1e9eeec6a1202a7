"""Delivers what a buffer holds, push by push, each under one sequence number until it is settled."""

import json
import logging
import threading
import time
import uuid
from collections import deque
from typing import Final

from exporter.client.buffer import Buffer, Item
from exporter.client.transport import Transport, Verdict

MAX_ITEMS_PER_PUSH: Final = 250

_log = logging.getLogger("exporter.client")


class Sender:
    """One stream of pushes, (client, epoch), with sequence numbers from 1.

    `deliver` and `close` are for one thread, `drop` for any.
    """

    def __init__(self, url: str, token: str, buffer: Buffer) -> None:
        self._transport = Transport(url, token)
        self._buffer = buffer
        self._client = uuid.uuid4().hex
        self._epoch = time.time_ns() // 1_000_000
        self._seq = 1
        self._waiting: deque[list[Item]] = deque()
        self._body: bytes | None = None
        self._reported = 0
        self._dropped = 0
        self._lock = threading.Lock()
        self._journal = ""
        self._trouble = ""

    def drop(self, messages: int) -> None:
        """Report `messages` as dropped with the next push."""
        with self._lock:
            self._dropped += messages

    def deliver(self) -> bool:
        """Send what waits, then what was counted since. True if all is settled, False to try later."""
        if not self._send_waiting():
            return False
        items = self._buffer.take()
        self._waiting.extend(
            items[i : i + MAX_ITEMS_PER_PUSH] for i in range(0, len(items), MAX_ITEMS_PER_PUSH)
        )
        if self._dropped and not self._waiting:
            self._waiting.append([])
        return self._send_waiting()

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    def _send_waiting(self) -> bool:
        while self._waiting:
            answer = self._transport.send(self._encode(self._waiting[0]))
            self._note_trouble(answer.reason if answer.verdict is Verdict.RETRY else "")
            if answer.verdict is Verdict.RETRY:
                return False
            if answer.verdict is Verdict.ACKNOWLEDGED:
                self._acknowledged(answer.journal)
            elif answer.verdict is Verdict.TOO_LARGE and len(self._waiting[0]) > 1:
                self._split()
            else:
                self._refused(answer.reason, set(answer.items))
        return True

    def _encode(self, items: list[Item]) -> bytes:
        """The body, made once: every attempt under a sequence number sends the same bytes."""
        if self._body is None:
            with self._lock:
                self._reported = self._dropped
            push = {
                "client": self._client,
                "epoch": self._epoch,
                "seq": self._seq,
                "dropped": self._reported,
                "series": items,
            }
            self._body = json.dumps(push, separators=(",", ":")).encode()
        return self._body

    def _acknowledged(self, journal: str) -> None:
        self._waiting.popleft()
        self._body = None
        self._seq += 1
        with self._lock:
            self._dropped -= self._reported
        if self._journal and journal != self._journal:
            self._buffer.declare_again()
        self._journal = journal

    def _split(self) -> None:
        """Send the two halves one after the other. Nothing was counted: the number is free."""
        items = self._waiting.popleft()
        self._body = None
        middle = len(items) // 2
        self._waiting.extendleft((items[middle:], items[:middle]))

    def _refused(self, reason: str, positions: set[int]) -> None:
        """Leave out what the exporter will never take. Nothing was counted: the number is free."""
        items = self._waiting.popleft()
        self._body = None
        kept = [item for position, item in enumerate(items) if position not in positions]
        if not positions or len(kept) == len(items):
            kept = []
        lost = sum(item.get("messages", 0) for item in items) - sum(item.get("messages", 0) for item in kept)
        self.drop(lost)
        if kept:
            self._waiting.appendleft(kept)
        _log.error(
            "the exporter refused %d series items with %d messages: %s", len(items) - len(kept), lost, reason
        )

    def _note_trouble(self, reason: str) -> None:
        """Say it once when the exporter goes away, and once when it is back."""
        if reason and not self._trouble:
            _log.warning("the exporter does not take pushes, will retry: %s", reason)
        elif self._trouble and not reason:
            _log.info("the exporter takes pushes again")
        self._trouble = reason
