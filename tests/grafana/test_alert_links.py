"""From an alert to the right page: the annotations of firing alerts, followed in a real browser."""

import html
import json
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import pytest
import requests
from playwright.sync_api import Page, expect
from playwright.sync_api import TimeoutError as NotShown

from tests.config_rollback.running import Service
from tests.grafana import live, model
from tests.grafana.alertmanager_page import ensure_with_page
from tests.grafana.model import Json
from tests.support import monitoring, web
from tests.support.browser import browser_page
from tests.support.stacks import wait_for


@pytest.fixture(scope="module")
def page(rollback: Service) -> Iterator[Page]:
    """A browser in which the person on call has logged in by a one-time link."""
    with browser_page() as page:
        page.goto(rollback.login_link())
        page.get_by_test_id("login-button").click()
        yield page


@pytest.mark.parametrize("persona", model.ODD_PERSONAS)
def test_rollback_link_opens_the_page_of_that_persona_and_version(
    alerts: dict[str, Json], rollback: Service, page: Page, persona: str
) -> None:
    url = alerts[persona]["rollback_url"]
    assert url.startswith(f"{rollback.url}/rollback/")
    page.goto(url)
    button = page.get_by_test_id("rollback-button")
    expect(button).to_have_text(f"Roll {persona} back from version 2 to 1")


def test_rollback_link_leads_through_the_login_to_the_same_page(
    alerts: dict[str, Json], rollback: Service, page: Page
) -> None:
    persona = model.ODD_PERSONAS[1]
    url = alerts[persona]["rollback_url"]
    assert page.context.browser
    stranger = page.context.browser.new_context().new_page()
    stranger.goto(url)
    assert urlsplit(stranger.url).path == "/login"
    expect(stranger.get_by_test_id("rollback-button")).to_have_count(0)
    next_path = url.removeprefix(rollback.url)
    stranger.goto(rollback.login_link(next_path, subject="bo"))
    stranger.get_by_test_id("login-button").click()
    button = stranger.get_by_test_id("rollback-button")
    expect(button).to_have_text(f"Roll {persona} back from version 2 to 1")


@pytest.mark.parametrize("persona", model.ODD_PERSONAS)
def test_dashboard_link_chooses_exactly_that_persona(alerts: dict[str, Json], persona: str) -> None:
    annotations = alerts[persona]
    parts = urlsplit(annotations["dashboard_url"])
    assert parts.path == "/d/driftback-persona"
    assert parse_qs(parts.query, strict_parsing=True) == {"var-journey": ["chat"], "var-persona": [persona]}
    assert annotations["__dashboardUid__"] == "driftback-persona"
    titles = {str(panel["id"]): panel["title"] for panel in model.dashboard("driftback-persona")["panels"]}
    assert titles[annotations["__panelId__"]] == "Out-of-scope rate per version"


def test_runbook_link_names_a_runbook_that_exists(alerts: dict[str, Json]) -> None:
    for annotations in alerts.values():
        path = urlsplit(annotations["runbook_url"]).path
        assert (model.ROOT / "rules" / "runbooks" / path.split("/")[-1]).is_file()


@pytest.mark.parametrize("persona", model.ODD_PERSONAS)
def test_every_link_is_shown_as_one(alerts: dict[str, Json], persona: str) -> None:
    """Grafana and Alertmanager make a link of a value that is a whole URL, without a space in it."""
    for name in ("rollback_url", "dashboard_url", "runbook_url"):
        url = alerts[persona][name]
        assert urlsplit(url).scheme in ("http", "https")
        assert url.isascii()
        assert not set(url) & set(" \"'<>\\^`{|}")


@pytest.fixture(scope="module")
def told(
    alerts: dict[str, Json],
    alertmanager: str,
    rollback: Service,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, str]]:
    """What Alertmanager sends to Slack about each persona, by the committed receiver and template."""
    texts: dict[str, str] = {}

    def slack(body: bytes) -> web.Answer:
        for text in (attachment["text"] for attachment in json.loads(body)["attachments"]):
            texts.update({p: text for p, a in alerts.items() if escaped(a["summary"]) in text})
        return 200, "text/plain", b"ok"

    folder = tmp_path_factory.mktemp("slack")
    with (
        web.serving(slack) as webhook,
        monitoring.alertmanager(folder, rollback.url, slack_url=f"http://{webhook}") as address,
    ):
        pass_on(alertmanager, address)
        wait_for("message about every persona", 60, lambda: texts.keys() == alerts.keys(), pause=0.1)
        yield texts


def escaped(text: str) -> str:
    """As Slack wants text (https://docs.slack.dev/messaging/formatting-message-text)."""
    return html.escape(text, quote=False)


def pass_on(source: str, target: str) -> None:
    """Gives the alerts of one Alertmanager to another."""
    sent = requests.get(f"http://{source}/api/v2/alerts", timeout=10).json()
    kept = [{key: alert[key] for key in ("labels", "annotations", "startsAt")} for alert in sent]
    requests.post(f"http://{target}/api/v2/alerts", json=kept, timeout=10).raise_for_status()


@pytest.mark.parametrize("persona", model.ODD_PERSONAS)
def test_the_message_to_slack_leads_to_the_page_of_that_persona(
    alerts: dict[str, Json], told: dict[str, str], page: Page, persona: str
) -> None:
    links = {
        label: html.unescape(url) for url, label in re.findall(r"<(http[^|>]*)\|([^>]*)>", told[persona])
    }
    annotations = alerts[persona]
    assert links["Dashboard"] == annotations["dashboard_url"]
    assert links["Runbook"] == annotations["runbook_url"]
    page.goto(links["Look and roll back"])
    button = page.get_by_test_id("rollback-button")
    expect(button).to_have_text(f"Roll {persona} back from version 2 to 1")


@pytest.mark.parametrize("persona", model.ODD_PERSONAS)
def test_the_link_in_the_mail_is_clickable(
    alerts: dict[str, Json], amtool: Path, page: Page, tmp_path: Path, persona: str
) -> None:
    """The committed template of the mail, rendered by amtool and opened in a browser."""
    labels = {"alertname": "ConfigVersionRegression", "severity": "page", "persona": persona}
    alert = {"status": "firing", "labels": labels, "annotations": alerts[persona]}
    data = tmp_path / "data.json"
    data.write_text(
        json.dumps({"receiver": "email", "status": "firing", "alerts": [alert]}), encoding="utf-8"
    )
    arguments = ['--template.text={{ template "driftback.html" . }}', "--template.type=html"]
    arguments += [f"--template.glob={model.ROOT}/prometheus/templates/*.tmpl", f"--template.data={data}"]
    mail = subprocess.run(
        [amtool, "template", "render", *arguments], check=True, capture_output=True, text=True
    ).stdout
    page.goto("about:blank")
    page.set_content(mail)
    expect(page.get_by_role("heading")).to_contain_text(persona)
    page.get_by_role("link", name="Look and roll back").click()
    button = page.get_by_test_id("rollback-button")
    expect(button).to_have_text(f"Roll {persona} back from version 2 to 1")


@pytest.mark.soak
@pytest.mark.parametrize("persona", model.ODD_PERSONAS)
def test_links_on_alertmanager_s_own_page_are_clickable(
    prometheus: live.Prometheus, own_page: str, rollback: Service, page: Page, persona: str
) -> None:
    """Soak: Debian's Alertmanager has no page, and the one of the module takes Go and minutes to build."""
    chosen = quote('{alertname="ConfigVersionRegression",predecessor="1"}', safe="")
    page.goto("about:blank")  # the same address again would leave the page as it is
    page.goto(f"http://{own_page}/#/alerts?filter={chosen}")
    groups = page.get_by_text(re.compile("(Expand|Collapse) all groups"))
    if groups.inner_text().startswith("Expand"):  # the page remembers it for the next persona
        groups.click()
    url = f"{rollback.url}/rollback/{quote(persona, safe='')}?from=2&alert=ConfigVersionRegression"
    infos = page.get_by_role("button", name="Info")
    expect(infos).to_have_count(len(model.ODD_PERSONAS))
    link = page.locator(f'a[href="{url}"]')
    for info in infos.all():  # the page opens one alert at a time, and draws it a moment later
        info.click()
        with suppress(NotShown):
            link.wait_for(timeout=2_000)
            break
    with page.context.expect_page() as opened:
        link.click()
    button = opened.value.get_by_test_id("rollback-button")
    expect(button).to_have_text(f"Roll {persona} back from version 2 to 1")
    opened.value.close()
    shown = page.eval_on_selector_all("a", "links => links.map(link => link.href)")
    assert any(link.endswith("/runbooks/ConfigVersionRegression.md") for link in shown)
    dashboards = [urlsplit(link) for link in shown if "/d/driftback-persona" in link]
    assert persona in {parse_qs(link.query)["var-persona"][0] for link in dashboards}


@pytest.fixture(scope="module")
def own_page(
    alerts: dict[str, Json],
    alertmanager: str,
    rollback: Service,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """Host and port of an Alertmanager that has its web page, with the same alerts."""
    folder = tmp_path_factory.mktemp("own-page")
    with monitoring.alertmanager(folder, rollback.url, program=ensure_with_page()) as address:
        pass_on(alertmanager, address)
        while not requests.get(f"http://{address}/api/v2/alerts/groups", timeout=10).json():
            time.sleep(0.2)  # the page reads the groups once
        yield address
