"""Every page in every state, on a narrow phone and in both colour schemes, as axe-core sees it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

from config_rollback.web.pages import evidence
from tests.config_rollback.page_states import Site
from tests.support.browser import ARGUMENTS

PHONE = (360, 780)
DESKTOP: ViewportSize = {"width": 1280, "height": 900}

SEEN = ("color-contrast", "target-size", "scrollable-region-focusable")
"""Rules whose answer depends on size and colours; the others are asked once."""
STRUCTURE = """() => ({
    lang: document.documentElement.lang,
    title: document.title,
    h1: document.querySelectorAll("h1").length,
    main: document.querySelectorAll("main").length,
    width: document.scrollingElement.scrollWidth - innerWidth,
    announced: document.querySelectorAll('main [role="status"], main [role="alert"]').length,
})"""
DECIDED_BY_A_PERSON = {"login", "login-link", "rollback", "alert-ended", "audit", "long-names-rollback"}
"""States in which a page asks and has nothing to announce."""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def seen(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """By state: what axe says in each scheme, and the structure on the phone."""
    site = Site(tmp_path_factory.mktemp("site"))
    found: dict[str, Any] = {}
    busy = pytest.MonkeyPatch()
    busy.setattr(evidence, "WAIT_SECONDS", 60.0)  # a page that gave up would announce that
    try:
        for state in site.states():
            with site.open(chromium, state, PHONE, "light", script=True) as page:
                found[state.name] = page.evaluate(STRUCTURE) | {"phone, light": violations(page, *SEEN)}
                page.set_viewport_size(DESKTOP)
                page.emulate_media(color_scheme="dark")
                found[state.name] |= {"desktop, dark": violations(page)}
    finally:
        busy.undo()
        site.close()
    return found


def violations(page: Page, *only: str) -> list[str]:
    """What breaks a rule (`only` these; else all) of WCAG 2.2 AA or of axe's best practices, and where."""
    # meta-refresh: the result reloads while it changes, for five minutes at most, and a link stops it.
    options = {"resultTypes": ["violations"], "rules": {"meta-refresh": {"enabled": False}}}
    if only:
        options = {"resultTypes": ["violations"], "runOnly": list(only)}
    found = Axe().run(page, options=options).response["violations"]
    return [
        f"{rule['id']}: {node['target']} {node['failureSummary']}" for rule in found for node in rule["nodes"]
    ]


def test_axe_finds_nothing_in_either_colour_scheme(seen: dict[str, Any]) -> None:
    found = {
        (name, how): state[how] for name, state in seen.items() for how in ("phone, light", "desktop, dark")
    }
    assert {where: problems for where, problems in found.items() if problems} == {}


def test_no_page_scrolls_sideways_on_a_phone(seen: dict[str, Any]) -> None:
    assert {name: state["width"] for name, state in seen.items() if state["width"] > 0} == {}


def test_every_page_has_a_language_a_title_and_one_heading(seen: dict[str, Any]) -> None:
    for name, state in seen.items():
        assert (state["lang"], state["h1"], state["main"]) == ("en", 1, 1), name
        assert state["title"].endswith(" · Driftback"), name


def test_every_state_is_announced(seen: dict[str, Any]) -> None:
    silent = {name for name, state in seen.items() if not state["announced"]}
    assert silent == DECIDED_BY_A_PERSON


def test_axe_finds_what_is_wrong_on_purpose(chromium: Browser) -> None:
    page = chromium.new_page()
    page.set_content('<main><h1>a</h1><input><p style="color: #aaa; background: #fff">pale</p></main>')
    rules = {violation.partition(":")[0] for violation in violations(page)}
    assert {"html-has-lang", "label", "color-contrast"} <= rules
    page.close()
