"""The system's Chromium, driven by playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Page, expect, sync_playwright

expect.set_options(timeout=30_000)  # as long as playwright waits for all else

# No sandbox: Chromium refuses to start one as root. The rest keeps it from calling home.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@contextmanager
def browser_page(width: int = 1280, height: int = 900, dark: bool = False) -> Iterator[Page]:
    """A page in a fresh profile."""
    executable = shutil.which("chromium")
    assert executable, "chromium is missing: run `make test`, which installs it"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        try:
            context = browser.new_context(
                viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
            )
            yield context.new_page()
        finally:
            browser.close()
