"""Writes a screenshot of each state of each page, phone and desktop, light and dark: build/screenshots/.

python -m tests.support.screenshots
"""

from __future__ import annotations

import logging
import shutil
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any
from urllib.parse import quote

import structlog
from playwright.sync_api import Browser, sync_playwright

from tests.config_rollback.databases import Sqlite
from tests.config_rollback.running import Clock, Service
from tests.config_rollback.test_alerts import alert, send
from tests.config_rollback.test_kpis import Prometheus
from tests.support.browser import ARGUMENTS

FOLDER = Path("build/screenshots")
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
PROMPT = (
    "You are the concierge of an online shop. Answer questions about orders, returns and delivery, in two or "
    "three sentences. {} Never promise a date that the order does not show. If a question is about something "
    "else, say so kindly and offer to pass it on to a colleague."
)
_NAMES = ("messages", "chat_messages", "out_of_scope", "llm_errors", "p95_latency_ms")
BAD = dict(zip(_NAMES, (184.0, 184.0, 53.0, 2.0, 2310.0), strict=True))
GOOD = dict(zip(_NAMES, (5210.0, 5210.0, 198.0, 31.0, 1480.0), strict=True))


class States:
    """A service, and the ways to bring it into each state that a page can be in."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.traffic = True
        self.prometheus = Prometheus()
        self._thread = threading.Thread(target=self.prometheus.server.serve_forever)
        self._thread.start()
        self.prometheus.answer = self._answer  # type: ignore[method-assign]
        self.service = Service(
            Sqlite(folder / "database"),
            self.clock,
            prometheus_url=self.prometheus.url,
            oidc_issuer="https://login.example.com",
            oidc_client_id="driftback",
        ).start()

    def close(self) -> None:
        """Ends both servers."""
        self.service.stop()
        self.prometheus.server.shutdown()
        self._thread.join()
        self.prometheus.server.server_close()

    def publish(self) -> None:
        """Three personas; the concierge's newest version drifts."""
        self.service.publish("coach", note="first version")
        self.service.publish("concierge", note="reviewed", system_prompt=PROMPT.format("Be exact."))
        self.clock.move(days=3)
        self.service.publish("R&D/«ж» 100%", note="<b>an odd name</b>")
        self.clock.move(hours=20)
        self.service.publish(
            "concierge",
            note="shorter prompt",
            system_prompt=PROMPT.format("Be brief and friendly."),
            allowed_topics=["orders"],
            temperature=0.9,
        )
        self.report(2, 2, 2)
        self.clock.move(minutes=40)
        self.report(2, 2, 2)
        send(self.service, alert())

    def report(self, *versions: int) -> None:
        """Processes that serve these versions."""
        for number, version in enumerate(versions):
            self.service.config("concierge", f"?client=chat-{number}&serving={version}")

    def _answer(self) -> bytes:
        query = self.prometheus.queries[-1]
        values = BAD if 'config_version="2"' in query else GOOD
        self.prometheus.values |= values if self.traffic else dict.fromkeys(values, 0.0)
        return Prometheus.answer(self.prometheus)


def main() -> int:
    """Returns 0 when all are written."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    FOLDER.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        states = States(Path(folder))
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
        try:
            for name, path, login in _walk(states):
                _shoot(browser, states.service, name, path, login)
                print(name, flush=True)
        finally:
            browser.close()
            states.close()
    return 0


def _walk(states: States) -> Any:
    """(name, path, role of the session or None), each in the state that it shows."""
    service, link = states.service, "/rollback/concierge?from=2&alert=OutOfScopeDrift"
    yield "login", f"/login?next={quote(link, safe='')}", None
    yield "login-link", service.login_link(next_path=link).removeprefix(service.url), None
    yield "overview-empty", "/", "ops"
    yield "audit-empty", "/audit", "ops"
    yield "alerts-empty", "/alerts", "ops"
    states.publish()
    yield "overview", "/", "ops"
    yield "alerts", "/alerts", "ops"
    yield "rollback", link, "ops"
    yield "not-allowed", link, "support"
    yield "no-earlier-version", "/rollback/coach", "ops"
    yield "version-gone", f"{link}&to=9", "ops"
    states.prometheus.raw = (503, b"")
    yield "prometheus-away", link, "ops"
    states.prometheus.raw = None
    states.traffic = False
    yield "no-traffic", link, "ops"
    states.traffic = True
    audit_id = service.roll_back(expected_version=2, reason="topics lost", alert="OutOfScopeDrift").json()[
        "data"
    ]["audit_id"]
    yield "result-converging", f"/rollback/concierge?result={audit_id}", "ops"
    states.report(1, 1, 1)
    yield "result", f"/rollback/concierge?result={audit_id}", "ops"
    yield "stale-link", link, "ops"
    yield "audit", "/audit", "ops"
    yield "audit-nothing-matches", "/audit?actor=nobody", "ops"
    yield "not-found", "/nothing", "ops"
    yield "session-over", link, "over"


def _shoot(browser: Browser, service: Service, name: str, path: str, login: str | None) -> None:
    for size, (width, height) in SIZES.items():
        for scheme in ("light", "dark"):
            context = browser.new_context(
                viewport={"width": width, "height": height},
                color_scheme=scheme,
                java_script_enabled=False,
            )
            if login is not None:
                cookie = "x" * 43 if login == "over" else service.browser(role=login).cookie
                context.add_cookies([{"name": service.cookie_name, "value": cookie, "url": service.url}])
            page = context.new_page()
            page.goto(service.url + path)
            page.screenshot(path=FOLDER / f"{name}-{size}-{scheme}.png", full_page=True)
            context.close()


if __name__ == "__main__":
    sys.exit(main())
