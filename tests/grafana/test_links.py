"""Every link leads to a dashboard, variable and panel that exists, and survives odd persona names."""

import re
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest

from tests.grafana import model
from tests.grafana.model import Json

ROLLBACK = "${rollback_url:raw}"

LINKS = [
    (dashboard, panel, link)
    for dashboard in model.dashboards()
    for panel in [None, *dashboard["panels"]]
    for link in (model.data_links(panel) if panel and "fieldConfig" in panel else [])
    + (dashboard["links"] if panel is None else [])
]


def _id(case: object) -> str | None:
    if isinstance(case, dict):
        return str(case["title"])
    return "dashboard link" if case is None else None


cases = pytest.mark.parametrize(("dashboard", "panel", "link"), LINKS, ids=_id)


@cases
def test_link_leads_to_a_dashboard_that_exists_or_to_config_rollback(
    dashboard: Json, panel: Json | None, link: Json
) -> None:
    uids = {known["uid"] for known in model.dashboards()}
    url = link["url"]
    assert url.startswith(f"{ROLLBACK}/") or urlsplit(url).path.removeprefix("/d/") in uids


@cases
def test_link_sets_and_reads_only_variables_that_exist(
    dashboard: Json, panel: Json | None, link: Json
) -> None:
    known = model.variables(dashboard).keys()
    read = re.findall(r"\$\{(\w+)[:}]", link["url"])
    assert set(read) - {"__url_time_range"} <= known
    if link["url"].startswith("/d/"):
        target = model.variables(model.dashboard(urlsplit(link["url"]).path.removeprefix("/d/"))).keys()
        kept = re.findall(r"\$\{(\w+):queryparam\}", link["url"])
        assert {*kept, *re.findall(r"var-(\w+)=", link["url"])} <= target


@cases
def test_link_reads_only_columns_of_its_table_and_encodes_them(
    dashboard: Json, panel: Json | None, link: Json
) -> None:
    fields = re.findall(r"\$\{__data\.fields\.(\w+)(:\w+)?\}", link["url"])
    assert link["url"].count("${__data") == len(fields)
    assert all(encoding == ":percentencode" for _, encoding in fields)
    if fields:
        assert panel is not None
        columns = {override["matcher"]["options"] for override in panel["fieldConfig"]["overrides"]}
        assert {name for name, _ in fields} <= columns


ALERTS = [rule for rule in model.rules() if "alert" in rule]


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: str(alert["alert"]))
def test_alert_links_to_a_dashboard_variables_and_panel_that_exist(alert: Json) -> None:
    annotations = alert["annotations"]
    # Where Grafana's address is known; else there is no link.
    (url,) = re.findall(
        r"^\{\{ with \$externalLabels.grafana_url \}\}(.*)\{\{ end \}\}$", annotations["dashboard_url"]
    )
    parts = urlsplit(re.sub(r"\{\{.*?\}\}", "x", url))
    target = model.dashboard(parts.path.split("/d/")[1])
    assert {name.removeprefix("var-") for name in parse_qs(parts.query)} <= model.variables(target).keys()
    if "__panelId__" in annotations:
        assert annotations["__dashboardUid__"] == target["uid"]
        assert int(annotations["__panelId__"]) in {panel["id"] for panel in target["panels"]}


def test_every_alert_that_a_dashboard_names_exists() -> None:
    named = {name for _, expr in model.all_expressions() for name in re.findall(r'alertname="(\w+)"', expr)}
    assert named
    assert named <= {alert["alert"] for alert in ALERTS}


@pytest.mark.parametrize("persona", model.ODD_PERSONAS)
def test_rollback_link_names_exactly_the_row_s_persona_and_version(persona: str) -> None:
    links = [link["url"] for _, _, link in LINKS if "/rollback/" in link["url"]]
    assert len(links) == 3, "drifting personas, active versions, versions of a persona"
    for link in links:
        parts = urlsplit(_expanded(link, {"persona": persona, "config_version": "3"}))
        assert parts.netloc == "127.0.0.1:9811"
        assert unquote(parts.path.split("/")[-1]) == persona
        assert parts.path.count("/") == 2
        assert parse_qs(parts.query, strict_parsing=True) == {"from": ["3"]}


@pytest.mark.parametrize("persona", model.ODD_PERSONAS)
def test_persona_link_sets_exactly_the_row_s_persona(persona: str) -> None:
    links = [link["url"] for _, _, link in LINKS if "var-persona=" in link["url"]]
    assert len(links) == 2, "drifting personas, active versions"
    for link in links:
        query = urlsplit(_expanded(link, {"persona": persona})).query
        assert parse_qs(query)["var-persona"] == [persona]


def test_no_link_to_a_dashboard_can_change_where_rollback_links_lead() -> None:
    for dashboard in model.dashboards():
        variable = model.variables(dashboard)["rollback_url"]
        assert variable["skipUrlSync"] is True
        assert variable["hide"] == 2


def test_rollback_url_is_read_from_what_prometheus_answers() -> None:
    variable = model.variables(model.dashboard("driftback-persona"))["rollback_url"]
    pattern = variable["regex"].strip("/")
    found = re.search(pattern, '{external_url="https://driftback.example.org/ops"} 1 1700000000000')
    assert found
    assert found[1] == "https://driftback.example.org/ops"


def _expanded(url: str, fields: dict[str, str]) -> str:
    url = url.replace(ROLLBACK, "http://127.0.0.1:9811")
    for name, value in fields.items():
        # percentencode is encodeURIComponent, and !'()* as well
        url = url.replace(f"${{__data.fields.{name}:percentencode}}", quote(value, safe="-_.~"))
    return url
