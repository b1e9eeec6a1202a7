"""Data sources, the dashboard provider and grafana.ini."""

import configparser
import re

import pytest
import yaml

from tests.grafana import model

ENVIRONMENT = {"DRIFTBACK_PROMETHEUS_URL", "DRIFTBACK_ALERTMANAGER_URL", "DRIFTBACK_DASHBOARDS_DIR"}

DATASOURCES = {source["uid"]: source for source in model.provisioned("datasources")["datasources"]}


def _ini() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string((model.ROOT / "grafana" / "grafana.ini").read_text(encoding="utf-8"))
    return parser


def test_data_sources_have_fixed_uids_and_are_closed_to_edits() -> None:
    assert DATASOURCES.keys() == {"driftback-prometheus", "driftback-alertmanager"}
    assert all(source["editable"] is False for source in DATASOURCES.values())


def test_prometheus_alerts_are_shown_through_the_alertmanager_data_source() -> None:
    prometheus = DATASOURCES["driftback-prometheus"]["jsonData"]
    assert prometheus["manageAlerts"] is True
    assert prometheus["alertmanagerUid"] in DATASOURCES
    assert DATASOURCES["driftback-alertmanager"]["jsonData"]["implementation"] == "prometheus"


def test_shortest_step_is_the_scrape_interval() -> None:
    config = yaml.safe_load((model.ROOT / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    assert (
        DATASOURCES["driftback-prometheus"]["jsonData"]["timeInterval"] == config["global"]["scrape_interval"]
    )


@pytest.mark.parametrize("dashboard", model.dashboards(), ids=lambda dashboard: str(dashboard["uid"]))
def test_every_query_goes_to_a_provisioned_data_source(dashboard: model.Json) -> None:
    variable = model.variables(dashboard)["datasource"]
    source = DATASOURCES[variable["current"]["value"]]
    assert variable["current"]["text"] == source["name"]
    assert variable["query"] == source["type"]
    for panel in dashboard["panels"]:
        if panel["type"] == "alertlist":
            assert panel["options"]["datasource"] == source["name"]
        else:
            assert panel["datasource"] == {"type": source["type"], "uid": "${datasource}"}
    for item in [*dashboard["annotations"]["list"], *dashboard["templating"]["list"]]:
        if item.get("type") in (None, "query"):
            assert item["datasource"] == {"type": source["type"], "uid": "${datasource}"}


def test_nobody_edits_provisioned_dashboards_in_the_browser() -> None:
    (provider,) = model.provisioned("dashboards")["providers"]
    assert provider["allowUiUpdates"] is False
    assert provider["editable"] is False
    assert provider["options"]["path"] == "$DRIFTBACK_DASHBOARDS_DIR"


def test_only_the_documented_environment_variables_are_read() -> None:
    files = [*model.PROVISIONING.rglob("*.yml"), model.ROOT / "grafana" / "grafana.ini"]
    text = "\n".join(
        line
        for path in files
        for line in path.read_text(encoding="utf-8").splitlines()
        if not line.startswith(("#", ";"))
    )
    assert set(re.findall(r"\$(?:__env\{)?([A-Z][A-Z_]+)", text)) == ENVIRONMENT
    assert set(re.findall(r"\$(__\w+)", text)) == {"__env", "__file"}


def test_admin_password_is_no_text_in_the_file() -> None:
    assert re.fullmatch(r"\$__file\{/run/secrets/\w+\}", _ini()["security"]["admin_password"])


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("server", "http_addr", "127.0.0.1"),
        ("users", "allow_sign_up", "false"),
        ("users", "allow_org_create", "false"),
        ("users", "auto_assign_org_role", "Viewer"),
        ("auth.anonymous", "enabled", "false"),
        ("auth.anonymous", "org_role", "Viewer"),
        ("analytics", "reporting_enabled", "false"),
        ("analytics", "check_for_updates", "false"),
        ("analytics", "check_for_plugin_updates", "false"),
        ("plugins", "preinstall_disabled", "true"),
        ("plugins", "public_key_retrieval_disabled", "true"),
        ("plugins", "plugin_admin_enabled", "false"),
        ("news", "news_feed_enabled", "false"),
        ("snapshots", "external_enabled", "false"),
        ("public_dashboards", "enabled", "false"),
        ("security", "disable_gravatar", "true"),
        ("security", "allow_embedding", "false"),
        ("date_formats", "default_timezone", "UTC"),
    ],
)
def test_grafana_is_closed_by_default(section: str, key: str, value: str) -> None:
    assert _ini()[section][key] == value


def test_home_is_the_conversation_dashboard() -> None:
    home = _ini()["dashboards"]["default_home_dashboard_path"]
    folder, name = home.split("}/")
    assert folder == "$__env{DRIFTBACK_DASHBOARDS_DIR"
    assert (model.GENERATED / name).is_file()
