"""The links and queries of the dashboards, through the libraries with which Grafana makes them.

`@grafana/data` and `@grafana/scenes` come from npm under the Apache license; they are fetched once per
version (a minute or two), bundled, and run in Chromium. From the committed JSON and what a real Prometheus
answers they make URLs; the real config_rollback, or the libraries again, read them.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from playwright.sync_api import Page, expect

from config_rollback.auth.tokens import mint_login_link
from tests.grafana import live, model, npm, services
from tests.grafana.model import Json
from tests.support.browser import browser_page

pytestmark = pytest.mark.soak

PACKAGES = {
    "12.4.10": "6.57.2",
    "13.1.1": "8.16.1",
}
"""Versions of Grafana's packages, and of `@grafana/scenes`, which is numbered otherwise.

Both name sanitize-url 7.0.1. From 7.0.2 on it decodes the URLs it returns, and 13.2 names any 7.x.
"""

ORIGIN = "http://grafana.test/"
RANGES = (
    {"from": "now-24h", "to": "now"},
    {"from": "2026-11-20T01:02:03.000Z", "to": "2026-11-21T00:00:00.000Z"},
)
TABLES = [(d, panel) for d in model.dashboards() for panel in d["panels"] if panel["type"] == "table"]

personas = pytest.mark.parametrize("persona", model.ODD_PERSONAS)
journeys = pytest.mark.parametrize("journey", [["$__all"], ["chat", "guidance"]], ids=["all", "both"])
ranges = pytest.mark.parametrize("time_range", RANGES, ids=["relative", "absolute"])


def bundle(version: str) -> Path:
    """The libraries of a version and our functions on top, as one script."""
    folder = model.ROOT / "build" / "grafana-libraries" / version
    if not (folder / "node_modules").is_dir():
        names = ("data", "e2e-selectors", "i18n", "runtime", "scenes", "schema", "ui")
        packages = [f"@grafana/{name}@{PACKAGES[version] if name == 'scenes' else version}" for name in names]
        npm.install(folder, "--ignore-scripts", *packages, "esbuild@0.25.5")
    for manifest in folder.glob("node_modules/@grafana/*/package.json"):
        assert json.loads(manifest.read_text())["license"] in ("Apache-2.0", "MIT"), manifest
    source = shutil.copy(Path(__file__).with_name("links_of_scenes.cjs"), folder)
    options = ["--bundle", "--outfile=bundle.js", "--log-level=error", "--loader:.svg=empty"]
    options += ["--loader:.ttf=empty", '--define:process.env.NODE_ENV="production"']
    subprocess.run(["node_modules/.bin/esbuild", source, *options], cwd=folder, check=True)
    return folder / "bundle.js"


@pytest.fixture(scope="module", params=PACKAGES)
def libraries(request: pytest.FixtureRequest) -> Iterator[Page]:
    """An empty page with the libraries."""
    with browser_page() as page:
        page.route(
            f"{ORIGIN}**", lambda route: route.fulfill(body="<!doctype html>", content_type="text/html")
        )
        page.goto(ORIGIN)
        page.add_script_tag(path=bundle(request.param))
        yield page


@pytest.fixture(scope="module")
def decision(libraries: Page, rollback: services.Rollback) -> Page:
    """A page in which the person on call has logged in to config_rollback."""
    page = libraries.context.new_page()
    page.goto(mint_login_link(services.SECRET, subject="ann", external_url=rollback.url))
    page.get_by_test_id("login-button").click()
    return page


def call(libraries: Page, function: str, *arguments: Any) -> Any:
    return libraries.evaluate(f"given => {function}(...given)", arguments)


def chosen(rollback: services.Rollback, persona: str, journey: list[str]) -> Json:
    """Values of the variables, none of them the default."""
    return {
        "datasource": "another & data source",
        "window": "24h",
        "journey": journey,
        "persona": persona,
        "rollback_url": rollback.url,
    }


def assert_kept(libraries: Page, url: str, values: Json, time_range: dict[str, str]) -> None:
    """That a URL names a dashboard, and this one opens with the same variables and time range, in UTC."""
    parts = urlsplit(url)
    target = model.dashboard(parts.path.removeprefix("/d/"))
    asked = {f"var-{name}": [value] for name, value in values.items() if name != "rollback_url"}
    asked["var-journey"] = values["journey"]
    asked |= {name: [value] for name, value in time_range.items()} | {"timezone": ["utc"]}
    assert parse_qs(parts.query, strict_parsing=True) == asked
    assert not parts.fragment
    opened = call(libraries, "arrive", target, parts.query)
    multi = model.variables(target)["persona"].get("multi")
    persona = [values["persona"]] if multi else values["persona"]
    assert opened["values"] == values | {"persona": persona, "rollback_url": "unset"}
    assert opened["range"] == time_range


def fields(samples: list[live.Sample], ref: str) -> list[Json]:
    """An instant query's answer as Grafana's data source gives it to a table; all of a panel at one time."""
    labels = sorted({name for sample in samples for name in sample["metric"]})
    columns = {name: [sample["metric"].get(name) for sample in samples] for name in labels}
    return [
        {"name": "Time", "type": "time", "values": [0] * len(samples)},
        *({"name": name, "type": "string", "values": values} for name, values in columns.items()),
        {"name": f"Value #{ref}", "type": "number", "values": [float(s["value"][1]) for s in samples]},
    ]


@ranges
@pytest.mark.parametrize(("dashboard", "panel"), TABLES, ids=[panel["title"] for _, panel in TABLES])
def test_a_table_s_row_leads_to_its_own_persona_and_version(
    libraries: Page,
    decision: Page,
    prometheus: live.Prometheus,
    rollback: services.Rollback,
    dashboard: Json,
    panel: Json,
    time_range: dict[str, str],
) -> None:
    values = chosen(rollback, "another one", ["chat", "guidance"])
    every = {"window": "24h", "journey": ".*", "persona": ".*"}
    answers = [
        fields(prometheus.query(model.interpolate(target["expr"], every)), target["refId"])
        for target in panel["targets"]
    ]
    rows = call(libraries, "rowLinks", dashboard, panel, values, time_range, answers)
    assert {row["row"]["persona"] for row in rows} == set(model.ODD_PERSONAS)
    names = [
        tuple(row["row"].get(name) for name in ("persona", "config_version", "journey", "kpi"))
        for row in rows
    ]
    assert len(set(names)) == len(names), "queries that were not joined"
    buttons = {}
    for row in rows:
        persona, version = row["row"]["persona"], row["row"]["config_version"]
        *drill_downs, rollback_page = sorted(row["urls"], key=lambda url: url.startswith(rollback.url))
        parts = urlsplit(rollback_page.removeprefix(rollback.url))
        assert unquote(parts.path.removeprefix("/rollback/")) == persona
        assert parse_qs(parts.query, strict_parsing=True) == {"from": [version]}
        if version == "2":
            buttons[rollback_page] = f"Roll {persona} back from version 2 to 1"
        for url in drill_downs:
            assert_kept(libraries, url, values | {"persona": persona}, time_range)
    assert len(buttons) == len(model.ODD_PERSONAS)
    for url, text in buttons.items():
        decision.goto(url)
        expect(decision.get_by_test_id("rollback-button")).to_have_text(text)


@personas
@journeys
@ranges
@pytest.mark.parametrize("uid", [dashboard["uid"] for dashboard in model.dashboards()])
def test_the_links_at_the_top_keep_variables_and_time_range(
    libraries: Page,
    rollback: services.Rollback,
    uid: str,
    time_range: dict[str, str],
    journey: list[str],
    persona: str,
) -> None:
    values = chosen(rollback, persona, journey)
    *others, home = call(libraries, "topLinks", model.dashboard(uid), values, time_range)
    assert home == f"{rollback.url}/"
    assert others
    for url in others:
        assert_kept(libraries, url, values, time_range)


@personas
def test_an_alert_s_link_chooses_its_persona(libraries: Page, alerts: dict[str, Json], persona: str) -> None:
    parts = urlsplit(alerts[persona]["dashboard_url"])
    opened = call(libraries, "arrive", model.dashboard(parts.path.removeprefix("/d/")), parts.query)
    assert opened["values"]["persona"] == persona
    assert opened["values"]["journey"] == ["chat"]


def test_no_link_sets_where_the_rollback_links_lead(libraries: Page) -> None:
    for dashboard in model.dashboards():
        opened = call(
            libraries, "arrive", dashboard, "var-rollback_url=https%3A%2F%2Felsewhere&var-window=7d"
        )
        assert opened["values"]["rollback_url"] == "unset"
        assert opened["values"]["window"] == "7d"


@personas
def test_queries_are_sent_as_the_other_tests_read_them(
    libraries: Page, rollback: services.Rollback, persona: str
) -> None:
    """Those run them in a real Prometheus; `$__rate_interval` and `$__range` are the data source's."""
    values = chosen(rollback, persona, ["$__all"])
    for dashboard in model.dashboards():
        exprs = [expr for _, expr in model.expressions(dashboard)]
        sent = call(libraries, "replaced", dashboard, values, exprs)
        read = {"window": "24h", "journey": ".*", "persona": persona}
        assert [model.interpolate(expr, {"window": ""}) for expr in sent] == [
            model.interpolate(expr, read) for expr in exprs
        ]
