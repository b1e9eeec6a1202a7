"""Variables, annotations and links that every dashboard shares."""

from grafana_foundation_sdk.builders.dashboard import (
    AnnotationQuery,
    CustomVariable,
    DashboardLink,
    DatasourceVariable,
    QueryVariable,
)
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.common import DataSourceRef
from grafana_foundation_sdk.models.dashboard import (
    DashboardLinkType,
    VariableHide,
    VariableModel,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

from grafana import queries

PROMETHEUS_UID = "driftback-prometheus"
PROMETHEUS_NAME = "Driftback Prometheus"
"""Name of the provisioned data source: the alert list panel knows data sources by name only."""

DEFAULT_ROLLBACK_URL = "http://127.0.0.1:9811"
"""External URL that config_rollback has by default."""

CONVERSATION_URL = "/d/driftback-conversation"
PERSONA_URL = "/d/driftback-persona"
PIPELINE_URL = "/d/driftback-pipeline"

DATASOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")

_ALL = VariableOption(selected=True, text="All", value="$__all")


class _RollbackUrlVariable(Builder[VariableModel]):
    """Address of config_rollback as the browser reaches it, by config_rollback's own metrics.

    It is hidden and cannot be set in a dashboard's URL: a crafted dashboard link must not be able to lead the
    person on call to another site's rollback page.
    """

    def build(self) -> VariableModel:
        known = 'group by (external_url) (last_over_time(config_rollback_info{job="config_rollback"}[1d]))'
        default = f'label_replace(vector(1), "external_url", "{DEFAULT_ROLLBACK_URL}", "", "")'
        expression = f"query_result({known} or on () {default})"
        variable = (
            QueryVariable("rollback_url")
            .label("Rollback service")
            .description("External URL of config_rollback, from its own metrics.")
            .datasource(DATASOURCE)
            .query({"query": expression, "refId": "rollback_url"})
            .definition(expression)
            .regex('/external_url="([^"]+)"/')
            .refresh(VariableRefresh.ON_DASHBOARD_LOAD)
            .hide(VariableHide.HIDE_VARIABLE)
            .current(_option(DEFAULT_ROLLBACK_URL))
            .build()
        )
        variable.skip_url_sync = True
        return variable


def datasource() -> DatasourceVariable:
    """The Prometheus that evaluates the rules."""
    return (
        DatasourceVariable("datasource")
        .label("Data source")
        .description("The Prometheus that evaluates Driftback's rules.")
        .type("prometheus")
        .current(VariableOption(selected=True, text=PROMETHEUS_NAME, value=PROMETHEUS_UID))
    )


def window() -> CustomVariable:
    """Window of the KPI: each point of a panel covers the window that ends there."""
    return (
        CustomVariable("window")
        .label("Window")
        .description("Each number and each point of a line covers the window that ends at its time.")
        .values(",".join(queries.WINDOWS))
        .options([_option(window, selected=window == queries.WINDOWS[0]) for window in queries.WINDOWS])
        .current(_option(queries.WINDOWS[0]))
        .allow_custom_value(False)
    )


def journey() -> QueryVariable:
    """Journeys to show, all by default."""
    return (
        _label_values("journey", 'kpi:messages_total{scope="journey"}')
        .label("Journey")
        .description("Journeys to count.")
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(_ALL)
    )


def personas() -> QueryVariable:
    """Personas to show, all by default."""
    return (
        _persona()
        .description("Personas to count.")
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(_ALL)
    )


def one_persona() -> QueryVariable:
    """The persona to look into; versions of different personas are not comparable."""
    return _persona().description("The persona to look into.")


def rollback_url() -> Builder[VariableModel]:
    """Hidden variable with the external URL of config_rollback."""
    return _RollbackUrlVariable()


def config_changes() -> AnnotationQuery:
    """Marks where another config version of a persona became active."""
    return _annotation(
        "Config changes",
        "blue",
        queries.config_changes(),
        "{{persona}}: version {{config_version}} is active",
    )


def firing_alerts() -> AnnotationQuery:
    """Marks when an alert that someone must act on was firing."""
    return _annotation(
        "Firing alerts", "red", queries.firing_alerts(), "{{alertname}} ({{severity}}): {{persona}}"
    )


def rollback_link(persona: str, config_version: str) -> str:
    """URL of the rollback page for the row's fields of these names, percent-encoded."""
    return (
        "${rollback_url:raw}/rollback/${__data.fields."
        + persona
        + ":percentencode}?from=${__data.fields."
        + config_version
        + ":percentencode}"
    )


def persona_link(persona: str) -> str:
    """URL of the persona dashboard for the row's field of this name; variables and time range are kept."""
    return (
        f"{PERSONA_URL}?var-persona=${{__data.fields.{persona}:percentencode}}"
        "&${datasource:queryparam}&${window:queryparam}&${journey:queryparam}&${__url_time_range}"
    )


def dashboard_link(title: str, url: str, tooltip: str) -> DashboardLink:
    """Link at the top to another dashboard, with the variables and time range kept."""
    return _link(title, url, tooltip).include_vars(True).keep_time(True)


def rollback_home_link() -> DashboardLink:
    """Link at the top to config_rollback's own pages."""
    return _link(
        "Personas and rollback", "${rollback_url:raw}/", "Versions, rollback and audit of every persona"
    )


def _link(title: str, url: str, tooltip: str) -> DashboardLink:
    return DashboardLink(title).type(DashboardLinkType.LINK).icon("external link").tooltip(tooltip).url(url)


def _persona() -> QueryVariable:
    labels = 'kpi:messages_total{scope="persona",journey=~`${journey:regex}`}'
    return _label_values("persona", labels).label("Persona")


def _label_values(label: str, selector: str) -> QueryVariable:
    expression = f"label_values({selector}, {label})"
    return (
        QueryVariable(label)
        .datasource(DATASOURCE)
        .query({"query": expression, "refId": label})
        .definition(expression)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_CASE_INSENSITIVE_ASC)
    )


def _annotation(name: str, color: str, expr: str, title: str) -> AnnotationQuery:
    return (
        AnnotationQuery()
        .name(name)
        .datasource(DATASOURCE)
        .enable(True)
        .icon_color(color)
        .expr(expr)
        .step("60s")
        .title_format(title)
    )


def _option(value: str, *, selected: bool = True) -> VariableOption:
    return VariableOption(selected=selected, text=value, value=value)
