"""Ops pipeline: can the numbers be trusted, and can a rollback be carried out?"""

from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import Dashboard, Panel

from grafana import panels, variables
from grafana import pipeline_queries as queries
from grafana.dashboards import _frame

_NOT_SCRAPED = "not scraped"
_NO_ROLLBACK = "config_rollback not scraped"


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
                (5, [(6, _coverage(1)), (6, _alerting(10)), (6, _audit(11)), (6, _withheld(18))]),
                (
                    5,
                    [
                        (6, _audit_failures(3)),
                        (6, _rollbacks(2)),
                        (5, _activations(12)),
                        (7, _journal_recoveries(17)),
                    ],
                ),
                (8, [(12, _pushes(6)), (12, _lost(5))]),
                (8, [(8, _targets(4)), (8, _scrape_duration(13)), (8, _series(7))]),
                (8, [(8, _rule_age(14)), (8, _rule_failures(8)), (8, _rule_load(9))]),
                (8, [(12, _notifications(15)), (12, _refused_logins(16))]),
            ]
        ),
    )


def _coverage(panel_id: int) -> Builder[Panel]:
    return panels.count_stat(
        panel_id,
        "Coverage of the window",
        "Share of the window in which the exporter was scraped. Below 100% the KPIs may lack messages. They"
        " also do while Prometheus is younger than the window.",
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
        "Requested rollbacks in the time range: succeeded, refused by a rule (nothing changed), or failed.",
        expr=queries.rollbacks(),
        legend="{{status}}",
        unit="short",
        decimals=0,
        no_value=_NO_ROLLBACK,
    )


def _activations(panel_id: int) -> Builder[Panel]:
    return panels.count_stat(
        panel_id,
        "Activations",
        "Versions that became active in the time range, by publishing or by a rollback.",
        expr=queries.activations(),
        legend="{{action}}",
        unit="short",
        decimals=0,
        no_value=_NO_ROLLBACK,
    )


def _journal_recoveries(panel_id: int) -> Builder[Panel]:
    return panels.count_stat(
        panel_id,
        "Journals found faulty",
        "Starts of an exporter in the time range that found this fault in the journal. A torn tail loses "
        "nothing. A new exporter has no journal yet. All others lost the counts since the last scrape.",
        expr=queries.journal_recoveries(),
        legend="{{fault}}",
        unit="short",
        decimals=0,
        no_value=_NOT_SCRAPED,
    )


def _alerting(panel_id: int) -> Builder[Panel]:
    return panels.count_stat(
        panel_id,
        "Alerting",
        "Whether rules are evaluated (the alert Watchdog then fires), and whether alerts reach Alertmanager.",
        expr=queries.alerting_state(),
        legend="last 5 minutes",
        unit="none",
        decimals=0,
        states={
            "1": ("Rules evaluated, alerts delivered", "green"),
            "0": ("Alertmanager not reached", "red"),
        },
        no_value="Rules not evaluated: no alert can fire",
    )


def _audit(panel_id: int) -> Builder[Panel]:
    return panels.count_stat(
        panel_id,
        "Audit log",
        "Whether audit rows could be written in the last 15 minutes. While a row cannot be written, "
        "publishing and rolling back are refused.",
        expr=queries.audit_state(),
        legend="last 15 minutes",
        unit="none",
        decimals=0,
        states={
            "0": ("No write failed", "green"),
            "1": ("Writes fail: rollbacks are refused", "red"),
        },
        no_value=_NO_ROLLBACK,
    )


def _withheld(panel_id: int) -> Builder[Panel]:
    return panels.count_stat(
        panel_id,
        "Withheld configurations",
        "Personas whose active configuration is not delivered, because no audit row confirms it "
        "(ConfigWithheld). Their processes keep the configuration that they have.",
        expr=queries.withheld(),
        legend="personas",
        unit="short",
        decimals=0,
        steps=((0, "green"), (0.5, "red")),
        no_value=_NO_ROLLBACK,
    )


def _audit_failures(panel_id: int) -> Builder[Panel]:
    return panels.count_stat(
        panel_id,
        "Audit failures",
        "Acts refused in the time range because the audit row could not be written. *Audit log* says whether "
        "writes still fail.",
        expr=queries.audit_failures(),
        legend="refused",
        unit="short",
        decimals=0,
        steps=((0, "green"), (0.5, "orange")),
        no_value=_NO_ROLLBACK,
    )


def _targets(panel_id: int) -> Builder[Panel]:
    return panels.trend(
        panel_id,
        "Scrape targets up",
        "1 while every target of the job can be scraped, 0 while a target is down.",
        expr=queries.targets_up(),
        legend="{{job}}",
        unit="none",
        decimals=0,
        no_value="Prometheus has no targets",
    )


def _scrape_duration(panel_id: int) -> Builder[Panel]:
    return panels.trend(
        panel_id,
        "Scrape duration",
        "Scrape time of the slowest target of each job. Near the scrape timeout (10 s) samples are lost.",
        expr=queries.scrape_duration(),
        legend="{{job}}",
        unit="s",
        no_value=_NOT_SCRAPED,
    )


def _lost(panel_id: int) -> Builder[Panel]:
    return panels.trend(
        panel_id,
        "Rejected and dropped observations",
        "Per second, by reason: refused requests, label values counted under 'other', and messages that "
        "clients dropped before sending. While a line is above 0, the KPIs lack messages or count them under "
        "the wrong name.",
        expr=queries.lost_observations(),
        legend="{{reason}}",
        unit="cps",
        no_value=_NOT_SCRAPED,
    )


def _pushes(panel_id: int) -> Builder[Panel]:
    return panels.trend(
        panel_id,
        "Pushes",
        "Pushes and batches of observations per second, by result. Duplicates are retries and do no harm.",
        expr=queries.pushes(),
        legend="{{result}}",
        unit="reqps",
        no_value=_NOT_SCRAPED,
    )


def _series(panel_id: int) -> Builder[Panel]:
    return panels.trend(
        panel_id,
        "Label sets against the limit",
        "Label sets that the exporter holds, as a share of its limit. At 100% new personas and versions "
        "are counted under 'other'.",
        expr=queries.series_share_of_limit(),
        legend="{{instance}}",
        unit="percentunit",
        limit=1,
        no_value=_NOT_SCRAPED,
    )


def _rule_age(panel_id: int) -> Builder[Panel]:
    return panels.trend(
        panel_id,
        "Age of the last rule evaluation",
        "Time since the last evaluation of each rule group. Up to one evaluation interval is normal. Above "
        "three intervals, and 3 minutes, the dashboards show the state as unknown.",
        expr=queries.rule_age(),
        legend="{{group}}",
        unit="s",
        limit=180,
        no_value=_NOT_SCRAPED,
    )


def _rule_failures(panel_id: int) -> Builder[Panel]:
    return panels.trend(
        panel_id,
        "Failed rule evaluations",
        "Failures per second, by rule group. Above 0, a KPI or an alert is not computed.",
        expr=queries.rule_failures(),
        legend="{{group}}",
        unit="cps",
        no_value=_NOT_SCRAPED,
    )


def _rule_load(panel_id: int) -> Builder[Panel]:
    return panels.trend(
        panel_id,
        "Rule evaluation time",
        "Duration of the last evaluation as a share of its interval. At 100% evaluations are missed.",
        expr=queries.rule_load(),
        legend="{{group}}",
        unit="percentunit",
        limit=1,
        no_value=_NOT_SCRAPED,
    )


def _notifications(panel_id: int) -> Builder[Panel]:
    return panels.trend(
        panel_id,
        "Failed notifications",
        "Failures per second, by step: from Prometheus to Alertmanager, and from Alertmanager to each kind "
        "of receiver. Above 0, an alert may reach nobody.",
        expr=queries.notifications(),
        legend="{{step}}",
        unit="cps",
        no_value=_NOT_SCRAPED,
    )


def _refused_logins(panel_id: int) -> Builder[Panel]:
    return panels.trend(
        panel_id,
        "Requests without valid credentials",
        "Requests per second that config_rollback refused, by error code. A steady line may be a client with "
        "an expired token. A burst may be an attack.",
        expr=queries.refused_logins(),
        legend="{{code}}",
        unit="reqps",
        no_value="none so far, or config_rollback not scraped",
    )
