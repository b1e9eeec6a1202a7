"""A service for tests: the real server on a free port, in a thread, with the test's clock."""

from __future__ import annotations

import asyncio
import socket
import threading
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, unquote

import requests
from pydantic import SecretStr

from config_rollback.app import create_app
from config_rollback.auth.sessions import cookie_name
from config_rollback.auth.tokens import mint_access_token, mint_login_link
from config_rollback.server import AsgiServer
from config_rollback.settings import Settings
from exporter.http.server import Server
from tests.config_rollback.databases import Database

SECRET = "a secret of at least thirty-two bytes"
SERVICE_TOKEN = "a-service-token-for-tests"
ALERTMANAGER_TOKEN = "an-alertmanager-token-for-tests"
CONFIG: dict[str, Any] = {
    "model": "swift-1",
    "system_prompt": "You help.",
    "allowed_topics": ["orders", "returns"],
    "temperature": 0.3,
    "max_output_tokens": 400,
    "timeout_ms": 8000,
}
JSON_TYPE = {"Content-Type": "application/json"}


class Clock:
    """A time that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
        self._passed = 0.0

    def __call__(self) -> datetime:
        return self.now

    def monotonic(self) -> float:
        """The seconds that have passed; setting `now` alone is a jump of the system's clock."""
        return self._passed

    def move(self, **by: float) -> None:
        """Goes on by a `timedelta`."""
        self.now += timedelta(**by)
        self._passed += timedelta(**by).total_seconds()


class Service:
    """A running service and the ways to call it."""

    def __init__(self, database: Database, clock: Clock, port: int = 0, **settings: Any) -> None:
        self.clock = clock
        self.database = database
        # With its protocol named, for else asyncio leaves Nagle's algorithm on: 40 ms per answer.
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", port))
        self._socket.listen()
        self.port = int(self._socket.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        given: dict[str, Any] = {
            "database_url": SecretStr(database.url),
            "jwt_secret": SecretStr(SECRET),
            "service_tokens": (SecretStr("an-older-service-token"), SecretStr(SERVICE_TOKEN)),
            "alertmanager_tokens": (SecretStr(ALERTMANAGER_TOKEN),),
            "external_url": self.url,
            # Tests call as one user, faster than any person.
            **{f"rate_limit_{name}": "100000/minute" for name in ("user", "role", "global")},
        }
        self.app = create_app(Settings(**(given | settings)), clock, clock.monotonic)
        metrics = self.app.state.dependencies.metrics
        self._application = AsgiServer(self.app, metrics)
        self._max_connections = self.app.state.dependencies.settings.max_connections
        self._serving = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self.cookie_name = cookie_name(self.url)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._server = Server(self._application, self._max_connections)
        async with self.app.router.lifespan_context(self.app):
            self._serving.set()
            await self._server.serve(self._socket, 20)

    def start(self) -> Service:
        """Returns when requests are answered."""
        self._thread.start()
        assert self._serving.wait(20), "the service did not start"
        return self

    def stop(self) -> None:
        """Stops, with long polls let go as `__main__` does."""
        if not self._thread.is_alive():
            return

        def stop() -> None:
            self.app.state.dependencies.delivery.close()
            self._server.stop()

        self._loop.call_soon_threadsafe(stop)
        self._thread.join(20)
        assert not self._thread.is_alive(), "the service did not stop"
        self._socket.close()

    def token(self, role: str = "ops", subject: str = "ann", **changes: Any) -> str:
        """An access token, valid now by the test's clock."""
        given = {"lifetime_seconds": 3600, "now": self.clock().timestamp()} | changes
        return mint_access_token(SECRET, subject=subject, role=role, **given)

    def request(
        self, method: str, path: str, *, token: str | None = "", **arguments: Any
    ) -> requests.Response:
        """A call of the API, by default with an ops token and a key of its own; None is for none."""
        headers = {"Idempotency-Key": uuid.uuid4().hex, **arguments.pop("headers", {})}
        if token is not None:
            headers["Authorization"] = f"Bearer {token or self.token()}"
        with requests.Session() as session:
            session.trust_env = False  # the developer's ~/.netrc would replace the token
            return session.request(method, self.url + path, headers=headers, timeout=30, **arguments)

    def publish(self, persona: str = "concierge", note: str = "", **changes: Any) -> int:
        """Publishes `CONFIG` with changes; returns the version."""
        answer = self.request(
            "POST",
            f"/v1/ops/personas/{quote(persona, safe='')}/versions",
            json={"config": CONFIG | changes, "note": note},
        )
        assert answer.status_code == 201, answer.text
        return int(answer.json()["data"]["version"])

    def roll_back(
        self, persona: str = "concierge", *, key: str | None = "", token: str | None = "", **body: Any
    ) -> requests.Response:
        """Asks for a rollback; by default with a key of its own, None for none."""
        headers = {} if key == "" else {"Idempotency-Key": key}
        path = f"/v1/ops/personas/{quote(persona, safe='')}/rollback"
        return self.request("POST", path, json=body, headers=headers, token=token)

    def active_version(self, persona: str = "concierge") -> int:
        """What is active, by the API."""
        rows = self.request("GET", "/v1/ops/personas").json()["data"]
        return int(next(row["active_version"] for row in rows if row["persona"] == persona))

    def version(self, number: int, persona: str = "concierge") -> dict[str, Any]:
        """A version with its configuration, by the API."""
        answer = self.request("GET", f"/v1/ops/personas/{quote(persona, safe='')}/versions/{number}")
        data: dict[str, Any] = answer.json()["data"]
        return data

    def audit(self) -> list[dict[str, Any]]:
        """All audit rows, oldest first."""
        rows: list[dict[str, Any]] = self.request("GET", "/v1/ops/audit?limit=1000").json()["data"]
        return rows[::-1]

    def config(self, persona: str = "concierge", query: str = "", **headers: str) -> requests.Response:
        """Fetches a configuration as a service does."""
        path = f"/v1/personas/{quote(persona, safe='')}/config{query}"
        return self.request("GET", path, token=SERVICE_TOKEN, headers=headers)

    def login_link(self, next_path: str = "/", role: str = "ops", subject: str = "ann") -> str:
        """A one-time login link, valid now by the test's clock."""
        return mint_login_link(
            SECRET,
            subject=subject,
            role=role,
            external_url=self.url,
            next_path=next_path,
            now=self.clock().timestamp(),
        )

    def browser(self, **login: Any) -> Browser:
        """A browser that is logged in."""
        browser = Browser(self)
        link = self.login_link(**login)
        answer = browser.post("/login", {"token": unquote(link.partition("token=")[2].partition("&")[0])})
        assert answer.status_code == 303, answer.text
        return browser


class Browser:
    """A browser at the level of HTTP: keeps cookies, sends what browsers send, follows no redirect."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.headers.update({"Accept": "text/html,application/xhtml+xml"})

    def get(self, path: str, **arguments: Any) -> requests.Response:
        """Opens a page."""
        return self.session.get(self.service.url + path, allow_redirects=False, timeout=30, **arguments)

    def post(
        self, path: str, form: dict[str, str], headers: dict[str, str | None] | None = None
    ) -> requests.Response:
        """Sends a form of the service's own page; a header of None is left out."""
        sent = {"Sec-Fetch-Site": "same-origin", "Origin": self.service.url} | (headers or {})
        return self.session.post(
            self.service.url + path, data=form, headers=sent, allow_redirects=False, timeout=30
        )

    @property
    def cookie(self) -> str:
        """The session's secret."""
        return str(self.session.cookies[self.service.cookie_name])

    def close(self) -> None:
        """Closes its connections."""
        self.session.close()


def fields(page: str) -> dict[str, str]:
    """The hidden fields of the page's last form."""
    form = page.rpartition("<form")[2]
    found = {}
    for part in form.split('<input type="hidden" ')[1:]:
        name, value = part.partition('name="')[2].split('"')[0], part.partition('value="')[2].split('"')[0]
        found[name] = value.replace("&amp;", "&").replace("&#34;", '"').replace("&#39;", "'")
    return found
