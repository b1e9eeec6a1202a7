"""Ops pipeline: can the numbers be trusted, and can a rollback be carried out?"""

from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import Dashboard, Panel

from grafana import panels, queries, variables
from grafana.dashboards import _frame

_NOT_SCRAPED = "not scraped"


def dashboard() -> Dashboard:
    """The dashboard `driftback-pipeline`.

    Journey and persona choose the annotations and stay chosen on the way to another dashboard.
    """
    return _frame.build(
        "driftback-pipeline",
        "Pipeline",
        "Can the numbers be trusted, and can a rollback be carried out?",
        links=[
            variables.dashboard_link(
                "Conversation quality", variables.CONVERSATION_URL, "All journeys and personas"
            ),
            variables.rollback_home_link(),
        ],
        variable_list=[
            variables.datasource(),
            variables.window(),
            variables.journey(),
            variables.personas(),
            variables.rollback_url(),
        ],
        panels=panels.place(
            [
                (5, [(6, _coverage(1)), (10, _rollbacks(2)), (8, _audit_failures(3))]),
                (8, [(12, _targets(4)), (12, _lost(5))]),
                (8, [(12, _pushes(6)), (12, _series(7))]),
                (8, [(12, _rule_failures(8)), (12, _rule_load(9))]),
            ]
        ),
    )


def _coverage(panel_id: int) -> Builder[Panel]:
    return panels.count_stat(
        panel_id,
        "Coverage of the window",
        "Share of the window in which the exporter was scraped. Below 100% the KPI may lack messages at the"
        " ends of the window, and for as long as Prometheus is younger than the window.",
        expr=queries.coverage(),
        legend="scraped",
        unit="percentunit",
        decimals=1,
        steps=((0, "orange"), (0.99, "green")),
        no_value="coverage unknown: rules not evaluated",
    )


def _rollbacks(panel_id: int) -> Builder[Panel]:
    return panels.count_stat(
        panel_id,
        "Rollbacks",
        "Rollbacks asked for in the time range: succeeded, refused by a rule (nothing changed), or failed.",
        expr=queries.rollbacks(),
        legend="{{status}}",
        unit="short",
        decimals=0,
        steps=(),
        no_value="config_rollback not scraped",
    )


def _audit_failures(panel_id: int) -> Builder[Panel]:
    return panels.count_stat(
        panel_id,
        "Audit failures",
        "Acts refused in the time range because the audit row could not be written. Above 0 no rollback is "
        "possible.",
        expr=queries.audit_failures(),
        legend="refused",
        unit="short",
        decimals=0,
        steps=((0, "green"), (0.5, "red")),
        no_value="config_rollback not scraped",
    )


def _targets(panel_id: int) -> Builder[Panel]:
    return panels.trend(
        panel_id,
        "Scrape targets up",
        "1 while every target of the job can be scraped, 0 while one is down.",
        expr=queries.targets_up(),
        legend="{{job}}",
        unit="none",
        decimals=0,
        no_value="Prometheus has no targets",
    )


def _lost(panel_id: int) -> Builder[Panel]:
    return panels.trend(
        panel_id,
        "Rejected and dropped observations",
        "Per second: requests refused and labels put under 'other', by reason, and messages that clients "
        "dropped before sending. Any line above 0 means that the KPI lack messages or count them under the "
        "wrong name.",
        expr=queries.lost_observations(),
        legend="{{reason}}",
        unit="cps",
        no_value=_NOT_SCRAPED,
    )


def _pushes(panel_id: int) -> Builder[Panel]:
    return panels.trend(
        panel_id,
        "Pushes",
        "Pushes and batches of observations per second, by what became of them. Duplicates are retries and "
        "harmless.",
        expr=queries.pushes(),
        legend="{{result}}",
        unit="reqps",
        no_value=_NOT_SCRAPED,
    )


def _series(panel_id: int) -> Builder[Panel]:
    return panels.trend(
        panel_id,
        "Label sets against the limit",
        "Share of the exporter's table of label sets that is in use. At 100% new personas and versions "
        "become 'other'.",
        expr=queries.series_share_of_limit(),
        legend="{{instance}}",
        unit="percentunit",
        limit=1,
        no_value=_NOT_SCRAPED,
    )


def _rule_failures(panel_id: int) -> Builder[Panel]:
    return panels.trend(
        panel_id,
        "Failed rule evaluations",
        "Per second and rule group. Above 0 a KPI or an alert is not computed.",
        expr=queries.rule_failures(),
        legend="{{rule_group}}",
        unit="cps",
        no_value=_NOT_SCRAPED,
    )


def _rule_load(panel_id: int) -> Builder[Panel]:
    return panels.trend(
        panel_id,
        "Rule evaluation time",
        "Time of the last evaluation as a share of its interval. At 100% evaluations are missed.",
        expr=queries.rule_load(),
        legend="{{rule_group}}",
        unit="percentunit",
        limit=1,
        no_value=_NOT_SCRAPED,
    )
