"""A Unix socket between a client and PostgreSQL that can break a connection at the COMMIT, or go silent."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path
from typing import Literal

Cut = Literal["request lost", "answer lost", "request withheld", "answer withheld"]
"""Which way the COMMIT goes missing: before PostgreSQL sees it, or after it has obeyed.

Lost: the connection ends. Withheld: it stays open, and nothing comes any more.
"""

_SOCKET = ".s.PGSQL.5432"


class Proxy:
    """Passes everything on; once armed, the next COMMIT ends or silences its connection, and disarms."""

    def __init__(self, folder: Path, server_folder: Path) -> None:
        self.silent = False
        """While this is set, whatever PostgreSQL says goes missing."""
        self._cut: Cut | None = None
        self._target = str(server_folder / _SOCKET)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / _SOCKET))
        self._listener.listen(64)
        self._clients: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def arm(self, cut: Cut) -> None:
        """From now on waits for a COMMIT."""
        self._cut = cut

    @property
    def armed(self) -> bool:
        """Whether no COMMIT came yet."""
        return self._cut is not None

    def close(self) -> None:
        """Ends the proxy and what is left: psycopg closes what it gave up once it is collected."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        for client in self._clients:
            _shut(client)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._clients.append(client)
            thread = threading.Thread(target=self._serve, args=(client,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server:
            server.connect(self._target)
            end, drop = threading.Event(), threading.Event()
            back = threading.Thread(target=self._answers, args=(server, client, end, drop))
            back.start()
            while data := client.recv(65536):
                if self._cut and b"COMMIT\0" in data:
                    cut, self._cut = self._cut, None
                    if cut == "request lost":
                        break
                    if cut == "request withheld":
                        continue
                    (end if cut == "answer lost" else drop).set()
                server.sendall(data)
            _shut(server)
            back.join()

    def _answers(
        self, server: socket.socket, client: socket.socket, end: threading.Event, drop: threading.Event
    ) -> None:
        try:
            while data := server.recv(65536):
                if end.is_set():
                    break
                if not (self.silent or drop.is_set()):
                    client.sendall(data)
        except OSError:
            pass  # one side is gone, which ends the other too
        _shut(client)


def _shut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it may be gone already
        end.shutdown(socket.SHUT_RDWR)
