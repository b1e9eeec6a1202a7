"""`python -m tests.grafana.pictures` makes docs/pictures from the project's own running demo.

It starts `driftback up --demo`, waits for the alert, walks the way of the person on call in Chromium, and
takes a picture of each page. There is no picture of a dashboard: Grafana comes as no package.
"""

import io
import os
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

import requests
from PIL import Image
from playwright.sync_api import Page

from tests.grafana import model
from tests.grafana.alertmanager_page import ensure_with_page
from tests.support.browser import browser_page
from tests.support.stacks import RunningStack, stack, wait_for

PICTURES = model.ROOT / "docs" / "pictures"
LIMIT_BYTES = 150_000

_HEALTHY_SECONDS = 90
_CONVERGED_SECONDS = 60


def main() -> int:
    """Writes every picture; fails where one is larger than 150 kB."""
    os.environ["PATH"] = f"{ensure_with_page().parent}{os.pathsep}{os.environ['PATH']}"
    PICTURES.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        stack(Path(folder) / "state", "--demo", "--careless-after", str(_HEALTHY_SECONDS)) as running,
        browser_page(1600, 1000) as page,
    ):
        walk(running, page)
    return 0


def walk(running: RunningStack, page: Page) -> None:
    """From the alert to the converged rollback, one picture after the other."""
    alert = wait_for("alert", _HEALTHY_SECONDS + 240, lambda: _alerts(running))[0]
    rollback_url = alert["annotations"]["rollback_url"]
    time.sleep(30)  # the second evaluation also knows the other KPI

    chosen = quote('{kpi="out_of_scope_rate"}')
    page.goto(f"{running.url('alertmanager')}/#/alerts?filter={chosen}")
    page.get_by_text("Expand all groups").click()
    page.get_by_role("button", name="Info").first.click()
    _take(page, "alertmanager-alerts")

    page.set_viewport_size({"width": 1200, "height": 900})
    page.goto(rollback_url)
    _take(page, "rollback-login")
    page.goto(running.command("login-link", "--subject", "ann").stdout.strip().split()[-1])
    page.get_by_test_id("login-button").click()
    page.wait_for_url(f"{running.url('config_rollback')}/")
    _take(page, "rollback-overview")
    page.goto(rollback_url)
    _take(page, "rollback-page")
    page.fill("#reason", "Out-of-scope rate tripled since this version")
    page.get_by_test_id("rollback-button").click()
    page.get_by_test_id("rollback-result").wait_for()
    time.sleep(_CONVERGED_SECONDS)
    page.reload()
    _take(page, "rollback-result")


def _alerts(running: RunningStack) -> list[model.Json]:
    query = {"filter": ['alertname="ConfigVersionRegression"', 'kpi="out_of_scope_rate"']}
    answer = requests.get(f"{running.url('alertmanager')}/api/v2/alerts", params=query, timeout=10)
    found: list[model.Json] = answer.json()
    return found


def _take(page: Page, name: str) -> None:
    """A picture of the whole page with at most 128 colours."""
    page.wait_for_timeout(500)
    path = PICTURES / f"{name}.png"
    picture = Image.open(io.BytesIO(page.screenshot(full_page=True)))
    picture.quantize(128).save(path, optimize=True)
    size = path.stat().st_size
    assert size <= LIMIT_BYTES, f"{path.name}: {size} bytes"


if __name__ == "__main__":
    sys.exit(main())
