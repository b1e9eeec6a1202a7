"""Writes a screenshot of each state of each page, phone and desktop, light and dark: build/screenshots/.

python -m tests.support.screenshots
"""

from __future__ import annotations

import logging
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Literal

import structlog
from playwright.sync_api import sync_playwright

from tests.config_rollback.page_states import Site
from tests.support.browser import ARGUMENTS

FOLDER = Path("build/screenshots")
SIZES = {"desktop": (1280, 900), "phone": (360, 780)}
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")


def main() -> int:
    """Returns 0 when all are written."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    FOLDER.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        site = Site(Path(folder))
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
        try:
            for state in site.states():
                for size, pixels in SIZES.items():
                    for scheme in SCHEMES:
                        with site.open(browser, state, pixels, scheme) as page:
                            path = FOLDER / f"{state.name}-{size}-{scheme}.png"
                            page.screenshot(path=path, full_page=True)
                print(state.name, flush=True)
        finally:
            browser.close()
            site.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
