"""Follows the active configuration of a persona from inside a service.

    configs = ConfigClient("http://127.0.0.1:9811", token="...", persona="concierge", cache_dir=Path("cache"))
    configs.start()
    configs.wait_ready(10)
    configs.current.config["system_prompt"]

A daemon thread keeps one long poll open, so a change arrives within milliseconds. The last known good
configuration is on disk: a service starts and goes on when config_rollback is down.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from urllib.parse import quote, urlencode

from driftback.config.last_known_good import Active, LastKnownGood
from driftback.connection import ask, authorization, connection_to
from driftback.retry import pause_after

_log = logging.getLogger("driftback")

WAIT_SECONDS = 25
"""How long the server holds a request when nothing changes."""
READ_SECONDS = WAIT_SECONDS + 10
CONNECT_SECONDS = 3
MAX_ANSWER_BYTES = 16 * 1024 * 1024
EARLY_SECONDS = 1
"""What is answered before, without a change, was not held by the server."""
EARLY_ANSWERS = 5
"""So many of them in a row are worth a line in the log."""
RETRY_SECONDS = (0.2, 5.0)
"""First and longest pause after a failure."""


class NotReadyError(Exception):
    """No configuration is known yet: neither from the server nor from the cache."""


class ConfigClient:
    """Keeps `current` up to date. `on_change` is called in the client's thread, before `current` changes.

    Raises ValueError for a URL or a token that no request can carry.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str,
        persona: str,
        cache_dir: Path,
        client_id: str | None = None,
        on_change: Callable[[Active], None] | None = None,
    ) -> None:
        # Not requests: `close` must be able to end a read that would last as long as the poll.
        self._connection, prefix = connection_to(url, CONNECT_SECONDS)
        self._path = f"{prefix}/v1/personas/{quote(persona, safe='')}/config"
        self._authorization = authorization(token)
        self._persona = persona
        self._client_id = client_id or f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._on_change = on_change
        self._last_known_good = LastKnownGood(cache_dir, persona)
        self._current: Active | None = None
        self._etag: str | None = None
        self._wait = 0
        """Seconds that the server may hold the next request: none until it has answered one, for then it says
        at once that nobody published this persona."""
        self._trouble = ""
        """Why the last request brought nothing."""
        self._ready = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def current(self) -> Active | None:
        """What to serve now; None as long as nothing is known."""
        return self._current

    def start(self) -> None:
        """Loads the cache and begins to follow. Never blocks on the network."""
        if self._thread is not None:
            raise RuntimeError("already started")
        kept = self._last_known_good.load()
        if kept is not None:
            # With the tag: else a replica that lags behind the one that gave it would take this process back.
            active, self._etag = kept
            self._serve(active)
            self._ready.set()
        self._thread = threading.Thread(target=self._follow, name=f"config-{self._persona}", daemon=True)
        self._thread.start()

    def wait_ready(self, timeout: float) -> Active:
        """The configuration as soon as one is known; raises `NotReadyError` after `timeout` seconds."""
        self._ready.wait(timeout)
        return self._active_after(timeout)

    def close(self) -> None:
        """Stops following and interrupts the open request; `current` stays."""
        self._stopping.set()
        opened = self._socket
        if opened is not None:
            with contextlib.suppress(OSError):  # it may just have been closed
                opened.shutdown(socket.SHUT_RDWR)
        if self._thread is not None:
            self._thread.join(timeout=2 * CONNECT_SECONDS)

    def _active_after(self, seconds: float) -> Active:
        if self._current is None:
            why = self._trouble or "no answer yet"
            raise NotReadyError(f"no configuration of {self._persona!r} within {seconds} s: {why}")
        return self._current

    @property
    def _socket(self) -> socket.socket | None:
        return self._connection.sock

    def _follow(self) -> None:
        failures = early = 0
        while not self._stopping.is_set():
            started, wait = time.monotonic(), self._wait
            try:
                changed = self._poll(wait)
            except Exception as error:  # noqa: BLE001 (a thread that died would serve the same for ever)
                self._connection.close()
                self._note_trouble(f"{error}" or type(error).__name__)
                self._pause(failures)
                failures += 1
            else:
                self._trouble = ""
                failures = 0
                early = early + 1 if wait and time.monotonic() - started < EARLY_SECONDS else 0
                if early:
                    self._pause_early(early, changed=changed)
        self._connection.close()

    def _note_trouble(self, trouble: str) -> None:
        """Say it once, until it is another one or over."""
        if trouble != self._trouble and not self._stopping.is_set():
            _log.warning("no configuration from config_rollback; serving what is known: %s", trouble)
        self._trouble = trouble

    def _pause_early(self, early: int, *, changed: bool) -> None:
        """Do not ask in a frenzy who does not wait for a change, such as a server that is about to stop."""
        if early == EARLY_ANSWERS:
            _log.warning(
                "config_rollback answers at once, %d times in a row; a change may come %d s late. "
                "Does a proxy between drop ETag or If-None-Match, or change them by compression?",
                early,
                RETRY_SECONDS[1],
            )
        if not changed:
            self._pause(early - 1)
        elif early > 1:
            self._pause(0)

    def _pause(self, failures: int) -> None:
        self._stopping.wait(pause_after(failures, *RETRY_SECONDS))

    def _poll(self, wait: int) -> bool:
        """One request; True where it brought another configuration. A tag may get lost on the way."""
        query = {"wait": str(wait), "client": self._client_id}
        headers = {"Authorization": self._authorization}
        if self._current is not None:
            query["serving"] = str(self._current.version)
        if self._etag is not None:
            headers["If-None-Match"] = self._etag
        self._connect()
        target = f"{self._path}?{urlencode(query)}"
        answer = ask(self._connection, "GET", target, headers, None, MAX_ANSWER_BYTES)
        if answer.status < HTTPStatus.INTERNAL_SERVER_ERROR:  # else it may be a proxy that reaches no server
            self._wait = WAIT_SECONDS
        if answer.status == HTTPStatus.NOT_MODIFIED and self._current is not None:
            self._last_known_good.save(self._current, self._etag)
            return False
        if answer.status != HTTPStatus.OK:
            raise HTTPException(self._refusal(answer.status, answer.body))
        data = json.loads(answer.body)["data"]
        active = Active(self._persona, int(data["version"]), dict(data["config"]))
        changed = active != self._current
        self._serve(active)
        self._etag = answer.headers["ETag"]
        self._last_known_good.save(active, self._etag)
        self._ready.set()
        return changed

    def _refusal(self, status: int, body: bytes) -> str:
        """The server's code and message, and what to do about it; a proxy's page is not repeated."""
        try:
            error = json.loads(body)["error"]
            told = f"{status} {error['code']}: {error['message']}"[:300]
        except (ValueError, LookupError, TypeError, RecursionError):
            return f"status {status}, and not from config_rollback"
        if status == HTTPStatus.NOT_FOUND:
            return f"{told}: is the persona {self._persona!r} published, and its name right?"
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            return f"{told}: is `token` one of CONFIG_ROLLBACK_SERVICE_TOKENS?"
        return told

    def _connect(self) -> None:
        if self._socket is None:
            self._open()
        # `close` sets the flag, then looks for a socket; here it is the reverse, so one sees the other.
        if self._stopping.is_set():
            raise ConnectionAbortedError("closing")

    def _open(self) -> None:
        self._connection.connect()
        self._connection.sock.settimeout(READ_SECONDS)

    def _serve(self, active: Active) -> None:
        if active != self._current:
            self._tell(active)
            self._current = active

    def _tell(self, active: Active) -> None:
        if self._on_change is None:
            return
        try:
            self._on_change(active)
        except Exception:  # noqa: BLE001 (the service's code must not stop the client)
            _log.exception("on_change failed")
