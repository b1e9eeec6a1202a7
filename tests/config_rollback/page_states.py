"""Every state that a page can be in, one after the other: for screenshots and for tests of how pages look."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from playwright.sync_api import Browser, Page

from tests.config_rollback.databases import Sqlite
from tests.config_rollback.evidence.test_alerts import alert, send
from tests.config_rollback.evidence.test_kpis import Prometheus
from tests.config_rollback.running import Clock, Service

LINK = "/rollback/concierge?from=2&alert=OutOfScopeDrift"
LONG_NAME = "concierge-" * 12 + "desk"
PROMPT = (
    "You are the concierge of an online shop. Answer questions about orders, returns and delivery, in two or "
    "three sentences. {} Never promise a date that the order does not show. If a question is about something "
    "else, say so kindly and offer to pass it on to a colleague."
)
SUMMARY = "The out-of-scope rate of persona concierge has drifted (chat, version 2)"
DESCRIPTION = (
    "In the last hour, 53 of 184 messages of version 2 in chat were out of scope. At the persona's usual "
    "rate (3.8%) we would expect 7.0. The rate has been higher since about 2026-03-05 08:11 "
    "UTC. In simulations, a persona without drift had such an alert up to once in two weeks."
)
_NAMES = (
    "messages",
    "scoped_messages",
    "out_of_scope",
    "llm_errors",
    "p95_latency_ms",
    "p95_low",
    "p95_high",
)
BAD = dict(zip(_NAMES, (184.0, 184.0, 53.0, 2.0, 2310.0, 1990.0, 2870.0), strict=True))
GOOD = dict(zip(_NAMES, (5210.0, 5210.0, 198.0, 31.0, 1480.0, 1440.0, 1530.0), strict=True))

Who = Literal["nobody", "ops", "support", "somebody whose session is over"]


@dataclass(frozen=True)
class State:
    """A page as `who` sees it; `then` is what happens once it is open."""

    name: str
    path: str
    who: Who = "ops"
    then: Callable[[Page], None] | None = None


class Site:
    """A service with a Prometheus, and the ways to bring it into each state."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.traffic = True
        self.prometheus = Prometheus()
        self._thread = threading.Thread(target=self.prometheus.server.serve_forever)
        self._thread.start()
        self.prometheus.values_of = self._values_of  # type: ignore[method-assign]
        self.service = Service(
            Sqlite(folder / "database"),
            self.clock,
            prometheus_url=self.prometheus.url,
            alertmanager_url="http://127.0.0.1:9093",
            grafana_url="http://127.0.0.1:3000",
            oidc_issuer="https://login.example.com",
            oidc_client_id="driftback",
        ).start()

    def close(self) -> None:
        """Ends both servers."""
        self.service.stop()
        self.prometheus.server.shutdown()
        self._thread.join()
        self.prometheus.server.server_close()

    def states(self) -> Iterator[State]:
        """The states; while one is held, the site is in it."""
        service = self.service
        yield State("login", f"/login?next={quote(LINK, safe='')}", "nobody")
        yield State("login-link", service.login_link(next_path=LINK).removeprefix(service.url), "nobody")
        yield State("login-link-expired", self._expired_link(), "nobody")
        yield State("overview-empty", "/")
        yield State("audit-empty", "/audit")
        yield State("alerts-empty", "/alerts")
        self._publish()
        yield State("overview-quiet", "/")
        send(service, alert(annotations=self._annotations(), startsAt="2026-03-05T08:31:00Z"))
        yield State("overview", "/")
        yield State("alerts", "/alerts")
        yield State("rollback", LINK)
        yield State("not-allowed", LINK, "support")
        yield State("no-earlier-version", "/rollback/coach")
        yield State("version-gone", f"{LINK}&to=9")
        yield State("active-already", f"{LINK}&to=2")
        self.prometheus.raw = (503, b"")
        yield State("prometheus-away", LINK)
        self.prometheus.raw = None
        self.traffic = False
        yield State("no-traffic", LINK)
        self.traffic = True
        service.publish("coach", note="second version", temperature=0.5)
        yield State("changed-meanwhile", "/rollback/coach", then=self._publish_and_press)
        yield State("reason-refused", "/rollback/coach", then=self._paste_colours)
        yield State("session-over-meanwhile", "/rollback/coach", then=self._lose_session_and_press)
        yield from self._after_the_rollback()

    def _after_the_rollback(self) -> Iterator[State]:
        service = self.service
        done = service.roll_back(expected_version=2, reason="topics lost", alert="OutOfScopeDrift").json()[
            "data"
        ]
        result = f"/rollback/concierge?result={done['audit_id']}"
        self._report(1, 2, 2)
        yield State("result-converging", result)
        self.clock.move(minutes=6)
        self._report(1, 1, 2)
        yield State("result-not-followed", result)
        self._report(1, 1, 1)
        yield State("result", result)
        yield State("already-rolled-back", LINK)
        ended = {"status": "resolved", "endsAt": "2026-03-05T08:45:00Z", "startsAt": "2026-03-05T08:31:00Z"}
        send(service, alert(annotations=self._annotations(), **ended))
        yield State("alerts-resolved", "/alerts")
        service.publish("concierge", note="topics are back", system_prompt=PROMPT.format("Be brief."))
        yield State("result-superseded", result)
        yield State("stale-link", LINK)
        yield State("alert-ended", "/rollback/concierge?from=3&alert=OutOfScopeDrift")
        send(service, alert(annotations=self._annotations(), labels=self._labels(3)))
        self.clock.move(hours=6)
        yield State("alerts-not-heard-of", "/alerts")
        yield State("overview-not-heard-of", "/")
        service.publish(LONG_NAME, note="a" * 200)
        service.publish(LONG_NAME, note="words " * 30, system_prompt="https://example.com/" + "a" * 300)
        yield State("long-names-overview", "/")
        yield State("long-names-rollback", f"/rollback/{LONG_NAME}")
        yield State("audit", "/audit")
        yield State("audit-nothing-matches", "/audit?actor=nobody")
        yield State("not-found", "/nothing")
        yield State("session-over", LINK, "somebody whose session is over")

    def _publish(self) -> None:
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
        self.clock.move(minutes=40)
        self._report(2, 2, 2)

    def _report(self, *versions: int) -> None:
        """Processes that serve these versions."""
        for number, version in enumerate(versions):
            self.service.config("concierge", f"?client=chat-{number}&serving={version}")

    def _expired_link(self) -> str:
        link = self.service.login_link()
        self.clock.move(minutes=16)
        return link.removeprefix(self.service.url)

    def _labels(self, version: int) -> dict[str, str]:
        labels: dict[str, str] = alert()["labels"]
        return labels | {"config_version": str(version)}

    def _annotations(self) -> dict[str, str]:
        runbook = "https://github.com/driftback/driftback/blob/main/rules/runbooks/OutOfScopeDrift.md"
        dashboard = "http://127.0.0.1:3000/d/driftback-persona?var-persona=concierge"
        return {
            "summary": SUMMARY,
            "description": DESCRIPTION,
            "runbook_url": runbook,
            "dashboard_url": dashboard,
        }

    def _publish_and_press(self, page: Page) -> None:
        self.service.publish("coach", note="while somebody looks", temperature=0.7)
        self._press(page)

    def _paste_colours(self, page: Page) -> None:
        page.locator("#reason").fill("\x1b[31mERROR\x1b[0m the answer was about another order\n" * 9)
        self._press(page)

    def _lose_session_and_press(self, page: Page) -> None:
        page.context.clear_cookies()
        self._give_cookie(page, "somebody whose session is over")
        self._press(page)

    def _press(self, page: Page) -> None:
        with page.expect_navigation():  # until the next page is there, with its style
            page.get_by_test_id("rollback-button").click()

    def _give_cookie(self, page: Page, who: Who) -> None:
        if who == "nobody":
            return
        ended = who == "somebody whose session is over"
        value = "x" * 43 if ended else self.service.browser(role=who).cookie
        page.context.add_cookies(
            [{"name": self.service.cookie_name, "value": value, "url": self.service.url}]
        )

    def _values_of(self, query: str) -> dict[str, float]:
        values = BAD if 'config_version="2"' in query else GOOD
        return self.prometheus.values | (values if self.traffic else dict.fromkeys(values, 0.0))

    @contextmanager
    def open(
        self,
        browser: Browser,
        state: State,
        size: tuple[int, int],
        scheme: Literal["light", "dark"],
        *,
        script: bool = False,
    ) -> Iterator[Page]:
        """The page in that state; with `script` a test's JavaScript can run in it, and it does not reload."""
        width, height = size
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, java_script_enabled=script
        )
        try:
            page = context.new_page()
            self._give_cookie(page, state.who)
            held = False
            if script:  # from the start: a page that reloads may do so before one has come to forbid it
                page.route("**/*", lambda route: route.abort("aborted") if held else route.continue_())
            page.goto(self.service.url + state.path)
            if state.then is not None:
                state.then(page)
            held = True
            yield page
        finally:
            context.close()
