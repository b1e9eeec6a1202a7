"""The Recorder: counts finished messages and has them sent to an exporter, each exactly once."""

import atexit
import logging
import os
import sys
import threading
import weakref
from bisect import bisect_left
from collections.abc import Sequence
from types import TracebackType
from typing import Final, TypeVar

from driftback.contract import LATENCY_BOUNDS, OTHER, REASONS
from driftback.recorder import buffer
from driftback.recorder.buffer import EMPTY_TTFT, INPUT, LATENCY_SUM, OUTPUT, TTFT, TTFT_SUM, Buffer, Way
from driftback.recorder.message import Message, ServedConfig
from driftback.recorder.sender import Counts, Sender

MAX_SECONDS: Final = 1e9
MAX_TOKENS: Final = 10**9
MAX_WARNINGS: Final = 32
EXIT_SECONDS: Final = 2.0
START_SECONDS: Final = 1.0
"""How long to wait until a thread that was started runs: after that, the next message starts another one."""
CHILD_SECONDS: Final = 0.25
"""Longest flush interval in a forked child: many live shortly and end by `os._exit`, which tells nobody."""
LATE: Final = -10
"""Priority among multiprocessing's finalizers: after a service's own, which may still count."""

_Details = tuple[float, float | None, int | None, int | None]

_log = logging.getLogger("driftback")
_Recorder = TypeVar("_Recorder", bound="Recorder")  # Python 3.10 has no `Self`


class Recorder:
    """Counts messages in the caller's thread and sends them from a background thread.

    No method but the constructor raises, and `record` and `declare` never wait. What the exporter has not
    acknowledged is sent again under the same sequence number, so it is counted once however often it arrives.
    While the exporter is away counts add up in place: nothing is dropped and memory stays as it is. Safe
    under threads, asyncio, fork, multiprocessing and Celery. The thread starts with the first message. What
    is left is sent when the process ends; where a signal or `os._exit` ends it without `close`, the messages
    of the last `flush_interval` are lost, in a forked child those of the last 0.25 seconds.

    `url` is the exporter's base URL, or several, in a sequence or separated by commas: then one of them is
    chosen at random and kept until it takes no push (see docs/exporter.md, "Several exporters"). `token` is
    an ingest token of all of them, `flush_interval` in seconds.
    """

    def __init__(self, url: str | Sequence[str], token: str, flush_interval: float = 1.0) -> None:
        if not flush_interval > 0:
            raise ValueError("flush_interval must be above 0 seconds")
        urls = url.split(",") if isinstance(url, str) else url
        self._urls = [stripped for one in urls if (stripped := one.strip())]
        self._token = token
        self._flush_interval = flush_interval
        self._begin()
        itself = weakref.ref(self)
        atexit.register(_close_at_exit, itself)
        os.register_at_fork(after_in_child=lambda: _begin_in_child(itself))
        _follow_multiprocessing(self)
        _follow_celery(self)

    def _begin(self) -> None:
        """Start empty: at first, and in the child of a fork, whose counts so far are the parent's to send."""
        self._buffer = Buffer()
        self._local = self._buffer.local
        self._sender = Sender(self._urls, self._token, self._buffer)
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._stopping = False
        self._poked = False
        self._requested = 0
        self._completed = 0
        self._warnings: set[str] = set()

    def declare(self, *, journey: str, persona: str, config_version: str | int) -> None:
        """Make a label set known, so that it is exported at zero before its first message."""
        try:
            self._buffer.declare(journey, persona, config_version)
            self._start()
        except Exception as error:  # noqa: BLE001 (metrics must not break the service)
            self._warn_once("a label set was not declared", error)

    def record(
        self,
        *,
        journey: str,
        persona: str,
        config_version: str | int,
        latency_ms: float,
        outcome: str = "ok",
        reason: str | None = None,
        ttft_ms: float | None = None,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
    ) -> None:
        """Count a finished message. Times are in milliseconds.

        `outcome` is `ok`, `out_of_scope` or `llm_error`, the last with a `reason` of `contract.REASONS`.
        A message that makes no sense (a negative latency, an unknown outcome) is dropped and counted as
        dropped.
        """
        try:
            cell = self._local.cells[journey, persona, config_version, outcome, reason]
            # Everything that can fail comes before the first change: a message counts whole or not at all.
            seconds = latency_ms / 1000.0
            if seconds.__class__ is not float:
                seconds = float(seconds)  # numpy's, say: JSON cannot write them
            if not 0.0 <= seconds <= MAX_SECONDS:
                raise ValueError(f"latency_ms must be from 0 to {MAX_SECONDS * 1000:g}, and not {latency_ms}")
            bucket = bisect_left(LATENCY_BOUNDS, seconds)
            if ttft_ms is not None or input_tokens is not None or output_tokens is not None:
                _add_details(cell, ttft_ms, input_tokens, output_tokens)
            cell[LATENCY_SUM] += seconds
            cell[bucket] += 1
        except Exception as error:  # noqa: BLE001 (the first message of its kind, or one that makes no sense)
            way = (journey, persona, config_version, outcome, reason)
            self._record_slowly(way, (latency_ms, ttft_ms, input_tokens, output_tokens), error)

    def message(
        self,
        *,
        journey: str,
        persona: str | None = None,
        config_version: str | int | None = None,
        config: ServedConfig | None = None,
    ) -> Message:
        """A context manager, sync and async, that times a message and counts it at its end.

        Persona and version are given, or taken from `config`, such as `ConfigClient.current`; take it once
        per message, for the version may change while one is answered. Without either, the message is dropped
        and counted as dropped.
        """
        if config is not None:
            persona = getattr(config, "persona", None) if persona is None else persona
            config_version = getattr(config, "version", None) if config_version is None else config_version
        labels = {"journey": journey, "persona": persona, "config_version": config_version}
        return Message(self.record, labels)

    def counts(self) -> Counts:
        """What became of every message recorded in this process.

        Exact while no delivery is under way and no thread counts its first message.
        """
        return self._sender.counts()

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until everything recorded so far is acknowledged, at most `timeout` seconds. True if it is."""
        with self._changed:
            if self._thread is None and (self._sender.is_settled() or not self._start()):
                return self._sender.is_settled()
            self._requested += 1
            mine = self._requested
            self._poked = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._completed >= mine or self._stopping, timeout)
            return self._completed >= mine or self._sender.is_settled()

    def close(self, timeout: float = 5.0) -> bool:
        """Flush and end the background thread. True if all was acknowledged. Later messages are dropped.

        What was not acknowledged is in the log, and stays in `counts`. A signal's handler may call it, also
        while another call of it goes on.
        """
        self._closing = True
        self._local = buffer.Local()  # from here on `record` finds no cell
        flushed = self.flush(timeout)
        with self._changed:
            is_first = not self._stopping
            self._stopping = self._poked = True
            self._changed.notify_all()
            # No join: a frame that a handler interrupts may hold the lock, and to wait gives it away.
            ended = self._changed.wait_for(lambda: self._thread is None, timeout)
            # The answer to what was under way may have come since.
            flushed = flushed or (ended and self._sender.is_settled())
        if is_first and not flushed:
            left = self.counts()
            _log.error(
                "closed with %d messages that no exporter took, and %d in doubt: sent, and not answered",
                left.waiting,
                left.in_doubt,
            )
        return flushed

    def __enter__(self: _Recorder) -> _Recorder:
        """Use as a context manager to close at the end."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _record_slowly(self, way: Way, details: _Details, error: Exception) -> None:
        """Make what a message is counted in and record it again, or drop it."""
        journey, persona, config_version, outcome, reason = way
        latency_ms, ttft_ms, input_tokens, output_tokens = details
        try:
            if isinstance(error, KeyError) and not self._closing and error.args[0] == way:
                if outcome == "llm_error" and reason is not None and reason not in REASONS:
                    # Not kept under its own text, of which there may be any number, of any length.
                    self._warn_once(
                        f"a reason that is none of {', '.join(REASONS)} counts as 'other'", reason
                    )
                    reason = OTHER
                    way = (journey, persona, config_version, outcome, reason)
                if way not in self._buffer.local.cells:
                    self._buffer.make_cell(way)
                started = self._start()
                self.record(
                    journey=journey,
                    persona=persona,
                    config_version=config_version,
                    latency_ms=latency_ms,
                    outcome=outcome,
                    reason=reason,
                    ttft_ms=ttft_ms,
                    input_tokens=input_tokens,
                    output_tokens=output_tokens,
                )
                if not started:  # the next message of its kind comes this way again, and tries again
                    self._local.cells.pop(way, None)
                return
        except Exception as unusable:  # noqa: BLE001 (labels nobody would take)
            error = unusable
        if self._closing:
            self._drop("it came after close()", way)
        elif isinstance(error, ValueError):  # it names the argument
            self._drop(f"{error}", details)
        else:
            self._drop("labels must be texts, times and tokens numbers", error)

    def _drop(self, why: str, detail: object) -> None:
        self._sender.drop(1)
        self._warn_once(f"a message was dropped: {why}", detail)

    def _start(self) -> bool:
        """Start the background thread, if there is none yet. False if none can be started.

        A signal may come at any moment, and its handler declare, record, close or raise. So the thread itself
        says that it is the one, and a second one ends at once.
        """
        with self._changed:
            if self._thread is None and not self._stopping:
                try:
                    threading.Thread(target=self._run, name="driftback-recorder", daemon=True).start()
                except Exception as error:  # noqa: BLE001 (at a limit of threads, or while Python ends)
                    self._warn_once("the background thread could not be started, will retry", error)
                    return False
                self._changed.wait_for(lambda: self._thread or self._stopping, START_SECONDS)
            return not self._stopping

    def _run(self) -> None:
        """Deliver once per interval, at once when asked, and after failures less and less often."""
        with self._changed:
            if self._thread is not None:
                return
            self._thread = threading.current_thread()
            self._changed.notify_all()
        while True:
            pause = self._sender.pause(self._flush_interval)
            with self._changed:
                self._changed.wait_for(lambda: self._poked or self._stopping, pause)
                poked, self._poked = self._poked, False
                requested, stopping = self._requested, self._stopping
            delivered = not stopping and self._deliver(at_once=poked)
            with self._changed:
                if delivered:
                    self._completed = requested
                    self._changed.notify_all()
            if stopping:
                self._sender.close()
                with self._changed:
                    self._thread = None
                    self._changed.notify_all()
                return

    def _deliver(self, *, at_once: bool) -> bool:
        try:
            return self._sender.deliver(at_once=at_once)
        except Exception as error:  # noqa: BLE001 (a thread that died would lose everything from then on)
            self._warn_once("a delivery failed", error)
            return False

    def _warn_once(self, what: str, detail: object) -> None:
        """Log a kind of mistake the first time; the count of dropped messages tells the rest."""
        kind = what[:40]  # without the value, of which there may be many
        if kind not in self._warnings and len(self._warnings) < MAX_WARNINGS:
            self._warnings.add(kind)
            _log.warning("%.300s: %.300r (said once)", what, detail)


def _add_details(
    cell: buffer.Cell, ttft_ms: float | None, input_tokens: int | None, output_tokens: int | None
) -> None:
    """Add time to first token and tokens, all or nothing. Raises ValueError or TypeError."""
    read, written = int(input_tokens or 0), int(output_tokens or 0)
    if not (0 <= read <= MAX_TOKENS and 0 <= written <= MAX_TOKENS):
        raise ValueError(f"input_tokens and output_tokens must be from 0 to {MAX_TOKENS}")
    if ttft_ms is not None:
        seconds = float(ttft_ms / 1000.0)
        if not 0 <= seconds <= MAX_SECONDS:
            raise ValueError(f"ttft_ms must be from 0 to {MAX_SECONDS * 1000:g}, and not {ttft_ms}")
        if len(cell) == TTFT:
            cell.extend(EMPTY_TTFT)
        cell[TTFT + bisect_left(LATENCY_BOUNDS, seconds)] += 1
        cell[TTFT_SUM] += seconds
    cell[INPUT] += read
    cell[OUTPUT] += written


def _close_at_exit(reference: "weakref.ref[Recorder]") -> None:
    recorder = reference()
    if recorder is not None:
        recorder.close(EXIT_SECONDS)


def _begin_in_child(reference: "weakref.ref[Recorder]") -> None:
    recorder = reference()
    if recorder is not None:
        recorder._flush_interval = min(recorder._flush_interval, CHILD_SECONDS)
        recorder._begin()
        _follow_multiprocessing(recorder)
        _follow_celery(recorder)


def _follow_multiprocessing(recorder: Recorder) -> None:
    """Close in the children of multiprocessing too, which end by `os._exit`, after finalizers of its own.

    When such a child begins it forgets all finalizers, and then calls what was registered to follow that.
    """
    util = sys.modules.get("multiprocessing.util")
    if util is not None:  # it is there before the first child is
        util.register_after_fork(recorder, _close_with_child)
        if sys.modules["multiprocessing.process"].parent_process() is not None:  # has begun already
            _close_with_child(recorder)


def _close_with_child(recorder: Recorder) -> None:
    finalize = sys.modules["multiprocessing.util"].Finalize
    finalize(None, _close_at_exit, args=(weakref.ref(recorder),), exitpriority=LATE)


def _follow_celery(recorder: Recorder) -> None:
    """Close in the children of Celery too: its signal is the last that happens in one before `os._exit`."""
    signals = sys.modules.get("celery.signals")
    if signals is not None:
        reference = weakref.ref(recorder)
        signals.worker_process_shutdown.connect(lambda **_: _close_at_exit(reference), weak=False)
