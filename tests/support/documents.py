"""A small web server for the tests: fixed documents, counted, and switched off on request."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import parse_qsl


class Documents:
    """Serves `documents` by path; `fetched` and `posted` list the paths that were asked for.

    A form that is posted goes to `on_post` (path, fields, headers), which returns status and answer. While
    `answers` is cleared, questions are taken and nothing is said.
    """

    def __init__(self, **documents: bytes) -> None:
        self.documents = {f"/{name}": content for name, content in documents.items()}
        self.fetched: list[str] = []
        self.posted: list[str] = []
        self.down = False
        self.answers = threading.Event()
        self.answers.set()
        self.on_post: Callable[[str, dict[str, str], dict[str, str]], tuple[int, bytes]]
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                """Counts, then answers."""
                outer.fetched.append(self.path)
                outer.answers.wait(120)
                content = outer.documents.get(self.path)
                self.send_response(503 if outer.down else 404 if content is None else 200)
                self.end_headers()
                if content is not None and not outer.down:
                    self.wfile.write(content)

            def do_POST(self) -> None:
                """Hands the form to `on_post`."""
                form = parse_qsl(self.rfile.read(int(self.headers["Content-Length"])).decode())
                outer.posted.append(self.path)
                outer.answers.wait(120)
                status, content = outer.on_post(self.path, dict(form), dict(self.headers))
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Says nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.answers.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
