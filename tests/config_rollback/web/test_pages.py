"""What the pages say, state by state."""

from __future__ import annotations

import asyncio
import html
from collections.abc import Callable
from contextlib import suppress

import pytest

from config_rollback.personas import diff
from config_rollback.visible import is_hidden
from tests.config_rollback.evidence.test_alerts import alert, send
from tests.config_rollback.running import Browser, Service, fields


def form(page: str) -> dict[str, str]:
    """The hidden fields of the rollback form."""
    return fields(page.partition("<details>")[0])


def attribute(page: str, element: str, name: str) -> str:
    """An attribute of the element with this id."""
    tag = page.partition(f'id="{element}"')[2].partition(">")[0]
    return tag.partition(f'{name}="')[2].partition('"')[0]


@pytest.fixture
def drifted(service: Service) -> Service:
    """A persona whose version 2 is bad."""
    service.publish(note="reviewed")
    service.publish(note="tidied", allowed_topics=["orders"], system_prompt="You help. " * 10 + "Be brief.")
    return service


def test_an_empty_overview_says_how_to_begin(browser: Browser) -> None:
    assert "driftback persona publish" in browser.get("/").text


def test_the_overview_shows_versions_processes_and_alerts(drifted: Service, browser: Browser) -> None:
    drifted.config("concierge", "?client=a&serving=1")
    drifted.config("concierge", "?client=b&serving=2")
    send(drifted, alert())
    page = browser.get("/").text
    assert 'data-persona="concierge" data-version="2"' in page
    assert "1 of 2 processes" in page
    assert "concierge drifts" in page
    assert 'href="/rollback/concierge?from=2&amp;alert=OutOfScopeDrift"' in page


def test_the_rollback_page_says_what_will_happen_and_why(drifted: Service, browser: Browser) -> None:
    send(drifted, alert())
    drifted.config("concierge", "?client=a&serving=2")
    page = browser.get("/rollback/concierge?from=2&alert=OutOfScopeDrift").text
    assert "<h1>Roll concierge back to version 1?</h1>" in page
    assert "Roll concierge back from version 2 to 1</button>" in page
    assert "53 of 184 messages of version 2 in chat were out of scope" in page
    assert "<ins>" in page
    assert "returns" in page
    assert "1 serving process will follow" in page
    assert form(page) | {"form_token": "", "idempotency_key": ""} == {
        "form_token": "",
        "idempotency_key": "",
        "expected_version": "2",
        "to_version": "1",
        "alert": "OutOfScopeDrift",
    }


def test_versions_are_compared_outside_of_the_event_loop(
    drifted: Service, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    where: list[bool] = []
    compare = diff.words

    def words(before: str, after: str) -> list[diff.Piece]:
        with suppress(RuntimeError):
            asyncio.get_running_loop()
            where.append(True)
            return []
        where.append(False)
        return compare(before, after)

    monkeypatch.setattr(diff, "words", words)
    assert "<del>" in browser.get("/rollback/concierge?from=2").text
    assert where == [False]


def test_the_button_rolls_back_and_shows_the_result(drifted: Service, browser: Browser) -> None:
    page = browser.get("/rollback/concierge?from=2&alert=OutOfScopeDrift").text
    answer = browser.post("/rollback/concierge", form(page) | {"reason": " topics lost "})
    assert (answer.status_code, answer.headers["Location"]) == (303, "/rollback/concierge?result=3")
    assert drifted.active_version() == 1
    row = drifted.audit()[-1]
    assert (row["actor"], row["reason"], row["alert"]) == ("ann", "topics lost", "OutOfScopeDrift")
    result = browser.get("/rollback/concierge?result=3").text
    assert "<h1>concierge is on version 1 again</h1>" in result
    assert attribute(result, "rollback-result", "data-status") == "succeeded"
    assert attribute(result, "rollback-result", "data-audit-id") == "3"
    assert 'href="/rollback/concierge?from=1&amp;to=2"' in result


def test_the_result_counts_until_all_processes_have_followed(drifted: Service, browser: Browser) -> None:
    for client in ("a", "b"):
        drifted.config("concierge", f"?client={client}&serving=2")
    browser.post("/rollback/concierge", form(browser.get("/rollback/concierge?from=2").text))
    expected = [("0", "2", True), ("1", "2", True), ("2", "2", False)]
    for client, (converged, clients, reloads) in zip(("", "a", "b"), expected, strict=True):
        if client:
            drifted.config("concierge", f"?client={client}&serving=1")
        page = browser.get("/rollback/concierge?result=3").text
        assert attribute(page, "rollback-result", "data-converged") == converged
        assert attribute(page, "rollback-result", "data-clients") == clients
        assert ('http-equiv="refresh" content="1"' in page) is reloads


def test_the_result_stops_reloading_after_five_minutes(drifted: Service, browser: Browser) -> None:
    browser.post("/rollback/concierge", form(browser.get("/rollback/concierge?from=2").text))
    drifted.clock.move(minutes=5)
    drifted.config("concierge", "?client=a&serving=2")
    page = browser.get("/rollback/concierge?result=3").text
    assert 'http-equiv="refresh"' not in page
    assert "Some processes have not followed" in page


def test_a_line_break_in_the_reason_counts_once_as_in_the_browser(drifted: Service, browser: Browser) -> None:
    reason = "\n".join(["x" * 19] * 100)
    assert len(reason) == 1999
    sent = form(browser.get("/rollback/concierge?from=2").text) | {"reason": reason.replace("\n", "\r\n")}
    assert browser.post("/rollback/concierge", sent).status_code == 303
    assert drifted.audit()[-1]["reason"] == reason


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        ("<b>x</b>" * 251, "<b>x</b>" * 251),
        ("red: \x1b[31m<b>", "red: [31m<b>"),
        ("to\u200b the\U000e0041 letter", "to the letter"),
    ],
    ids=["too long", "terminal colours", "what nobody sees"],
)
def test_a_reason_that_is_refused_is_not_lost(
    drifted: Service, browser: Browser, reason: str, shown: str
) -> None:
    opened = "/rollback/concierge?from=2&alert=OutOfScopeDrift"
    sent = form(browser.get(opened).text) | {"reason": reason}
    answer = browser.post("/rollback/concierge", sent, {"Referer": drifted.url + opened})
    assert (answer.status_code, drifted.active_version()) == (422, 2)
    assert 'data-code="invalid_request"' in answer.text
    assert "Nothing was changed." in answer.text
    assert f'href="{html.escape(opened)}">Open the page again</a>' in answer.text
    assert f">{html.escape(shown)}</pre>" in answer.text


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"to_version": "9"}, "target_not_found", "Nothing was changed."),
        ({"to_version": "2"}, "nothing_to_rollback", "Nothing was changed."),
        ({"expected_version": "1"}, "config_changed_since_alert", "nothing was changed"),
        ({"form_token": "0"}, "csrf_rejected", "Nothing was changed."),
        ({"idempotency_key": "used"}, "idempotency_key_reused", "Nothing was changed this time."),
        ({"reason": "x" * 1_100_000}, "body_too_large", "Nothing was changed."),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_form_that_is_refused_leads_back_to_its_page(
    drifted: Service, browser: Browser, changes: dict[str, str], code: str, said: str
) -> None:
    drifted.publish("coach")
    drifted.publish("coach", temperature=1)
    used = form(browser.get("/rollback/coach").text) | {"idempotency_key": "used"}
    assert browser.post("/rollback/coach", used).status_code == 303
    opened = "/rollback/concierge?from=2"
    sent = form(browser.get(opened).text) | changes
    page = browser.post("/rollback/concierge", sent, {"Referer": drifted.url + opened}).text
    assert f'data-code="{code}"' in page
    assert said in page
    assert f'href="{opened}">Open the page again</a>' in page
    assert drifted.active_version() == 2


def test_an_address_that_does_not_hold_is_not_offered_again(drifted: Service, browser: Browser) -> None:
    for path in ("/rollback/concierge?from=x", "/rollback/nobody"):
        page = browser.get(path).text
        assert "Nothing was changed." in page
        assert "Open the page again" not in page


def test_a_double_click_is_one_rollback(drifted: Service, browser: Browser) -> None:
    sent = form(browser.get("/rollback/concierge?from=2").text)
    first = browser.post("/rollback/concierge", sent)
    second = browser.post("/rollback/concierge", sent)
    assert (first.status_code, second.status_code) == (303, 303)
    assert first.headers["Location"] == second.headers["Location"]
    assert len(drifted.audit()) == 3


def test_a_page_left_open_while_somebody_acts_does_nothing(drifted: Service, browser: Browser) -> None:
    sent = form(browser.get("/rollback/concierge?from=2").text)
    drifted.publish(temperature=1)
    answer = browser.post("/rollback/concierge", sent)
    assert answer.status_code == 409
    assert 'data-code="config_changed_since_alert"' in answer.text
    assert "Version 3 is active now." in answer.text
    assert drifted.active_version() == 3


def test_a_stale_link_says_so_and_has_no_button(drifted: Service, browser: Browser) -> None:
    drifted.roll_back(expected_version=2)
    page = browser.get("/rollback/concierge?from=2&alert=OutOfScopeDrift")
    assert page.status_code == 409, "what the button would answer"
    assert "This link is about version 2" in page.text
    assert attribute(page.text, "rollback-result", "data-code") == "config_changed_since_alert"
    assert attribute(page.text, "rollback-result", "data-status") == "stale"
    assert 'id="rollback-button"' not in page.text


def test_a_link_whose_rollback_was_done_leads_to_what_came_of_it(drifted: Service, browser: Browser) -> None:
    drifted.roll_back(expected_version=2)
    page = browser.get("/rollback/concierge?from=2&alert=OutOfScopeDrift").text
    assert "<h1>Already rolled back to version 1</h1>" in page
    assert 'href="/rollback/concierge?result=3"' in page
    drifted.publish(temperature=1)
    page = browser.get("/rollback/concierge?from=2&alert=OutOfScopeDrift").text
    assert "<h1>There is nothing to do here any more</h1>" in page, "version 3 was published since"
    assert "Version 3 is active now, published" in page


def test_the_undo_of_a_rollback_is_not_called_a_rollback(drifted: Service, browser: Browser) -> None:
    drifted.roll_back(expected_version=2)
    page = browser.get("/rollback/concierge?from=1&to=2").text
    assert "<h1>Restore version 2 of concierge?</h1>" in page
    assert "Move concierge forward from version 1 to 2</button>" in page
    drifted.roll_back(expected_version=1, to_version=2)
    page = browser.get("/rollback/concierge?from=1&to=2").text
    assert "<h1>There is nothing to do here any more</h1>" in page
    assert "went forward again from version 1 to 2" in page
    page = browser.get("/rollback/concierge?from=2&alert=OutOfScopeDrift").text
    assert "Roll concierge back from version 2 to 1</button>" in page, "version 1 is still the good one"


def test_the_alert_that_led_here_is_shown_after_it_has_ended(drifted: Service, browser: Browser) -> None:
    link = "/rollback/concierge?from=2&alert=OutOfScopeDrift"
    assert "which Alertmanager has not reported here" in browser.get(link).text
    send(drifted, alert())
    send(drifted, alert(status="resolved", endsAt="2026-03-01T11:59:00Z"))
    page = browser.get(link).text
    assert "led you here" in page
    assert 'data-status="resolved"' in page
    assert "led you here" not in browser.get("/rollback/concierge?from=2").text


def test_after_a_rollback_its_alert_asks_nobody_for_another(drifted: Service, browser: Browser) -> None:
    send(drifted, alert())
    assert "One persona has a firing alert" in browser.get("/").text
    drifted.roll_back(expected_version=2)
    page = browser.get("/").text
    assert "OutOfScopeDrift still fires about version 2, which is not active any more" in page
    assert "No alert is firing about an active version." in page
    assert "alert=OutOfScopeDrift" not in page


def test_the_alerts_lead_to_alertmanager_where_that_is_known(
    service: Service, browser: Browser, start: Callable[..., Service]
) -> None:
    assert "silenced in" not in browser.get("/alerts").text
    known = start(alertmanager_url="https://alertmanager.example/am").browser()
    assert '<a href="https://alertmanager.example/am" rel="noreferrer">' in known.get("/alerts").text
    known.close()


def test_personas_with_alerts_come_first(drifted: Service, browser: Browser) -> None:
    drifted.publish("a quiet one")
    quiet = browser.get("/").text
    assert "No alert is firing. Active versions:" in quiet
    assert quiet.index('data-persona="a quiet one"') < quiet.index('data-persona="concierge"')
    send(drifted, alert())
    page = browser.get("/").text
    assert "One persona has a firing alert" in page
    assert page.index('data-persona="concierge"') < page.index('data-persona="a quiet one"')


def test_an_alert_that_is_not_repeated_alarms_nobody_for_ever(drifted: Service, browser: Browser) -> None:
    """Of one that ends under a silence Alertmanager tells no end."""
    link = "/rollback/concierge?from=2&alert=OutOfScopeDrift"
    drifted.publish("a quiet one")
    send(drifted, alert())
    drifted.clock.move(hours=4, minutes=30)
    assert "One persona has a firing alert" in browser.get("/").text
    assert "1 alert is firing" in browser.get("/alerts").text
    assert "Not repeated" not in browser.get("/alerts").text
    drifted.clock.move(hours=1)
    overview, inbox, page = (browser.get(path).text for path in ("/", "/alerts", link))
    assert "No alert is firing. Active versions:" in overview
    assert overview.index('data-persona="a quiet one"') < overview.index('data-persona="concierge"')
    for shown in (overview, inbox, page):
        assert "repeated since" in shown
        assert "1 Mar 2026, 12:00 UTC" in shown
        assert 'class="badge firing"' not in shown
    assert "No alert is firing." in inbox
    assert "has not reported any alert" not in inbox
    assert "No alert about concierge is firing." in page
    send(drifted, alert())
    assert "One persona has a firing alert" in browser.get("/").text
    assert "not repeated since" not in browser.get(link).text
    drifted.publish(temperature=1)
    drifted.clock.move(hours=6)
    assert "not repeated since" not in drifted.browser().get("/").text, "nor is it about what is active"


def test_a_result_can_be_kept_from_reloading(drifted: Service, browser: Browser) -> None:
    drifted.config("concierge", "?client=a&serving=2")
    browser.post("/rollback/concierge", form(browser.get("/rollback/concierge?from=2").text))
    page = browser.get("/rollback/concierge?result=3").text
    stop = html.unescape(page.partition('href="/rollback/concierge?result=3&amp;')[2].partition('"')[0])
    still = browser.get(f"/rollback/concierge?result=3&{stop}").text
    assert 'http-equiv="refresh"' in page
    assert 'http-equiv="refresh"' not in still
    assert "0 of 1 serving process" in still


def test_a_form_sent_after_the_session_leads_back_to_its_page(drifted: Service, browser: Browser) -> None:
    sent = form(browser.get("/rollback/concierge?from=2").text)
    drifted.clock.move(hours=8)
    own: dict[str, str | None] = {"Referer": f"{drifted.url}/rollback/concierge?from=2"}
    page = browser.post("/rollback/concierge", sent, own)
    assert (page.status_code, drifted.active_version()) == (401, 2)
    assert 'href="/login?next=%2Frollback%2Fconcierge%3Ffrom%3D2"' in page.text
    for foreign in ("https://evil.example/rollback/concierge", f"{drifted.url}//evil.example", ""):
        page = browser.post("/rollback/concierge", sent, {"Referer": foreign})
        assert 'href="/login?next=%2F"' in page.text


def test_somebody_without_the_role_sees_who_they_are(drifted: Service) -> None:
    support = drifted.browser(role="support", subject="bob")
    page = support.get("/rollback/concierge?from=2").text
    assert "You are logged in as <strong>bob</strong> with the role <strong>support</strong>" in page
    assert 'id="logout-button"' in page
    assert support.post("/logout", fields(page)).status_code == 303
    support.close()


def test_where_no_version_is_known_to_be_good_one_can_choose(drifted: Service, browser: Browser) -> None:
    drifted.roll_back(expected_version=2)
    page = browser.get("/rollback/concierge").text
    assert "No earlier version is known to be good" in page
    assert 'id="rollback-button"' not in page
    assert 'href="/rollback/concierge?from=1&amp;to=2"' in page
    undo = browser.get("/rollback/concierge?from=1&to=2").text
    assert browser.post("/rollback/concierge", form(undo)).status_code == 303
    assert drifted.active_version() == 2


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/rollback/nobody?from=1", 404, "not_found"),
        ("/rollback/concierge?from=2&to=9", 404, "target_not_found"),
        ("/rollback/concierge?from=x", 422, "invalid_request"),
        ("/rollback/concierge?from=0", 422, "invalid_request"),
        ("/rollback/concierge?result=99", 404, "not_found"),
        ("/rollback/concierge?surprise=1", 422, "invalid_request"),
        ("/nothing", 404, "not_found"),
    ],
)
def test_errors_are_pages_with_code_and_request_id(
    drifted: Service, browser: Browser, path: str, status: int, code: str
) -> None:
    answer = browser.get(path)
    assert answer.status_code == status
    assert f'data-code="{code}"' in answer.text
    assert answer.headers["X-Request-ID"] in answer.text
    assert answer.headers["Content-Type"].startswith("text/html")


def test_a_result_belongs_to_its_persona(drifted: Service, browser: Browser) -> None:
    drifted.publish("coach")
    assert browser.get("/rollback/concierge?result=3").status_code == 404
    assert browser.get("/rollback/coach?result=3").status_code == 200


def test_what_nobody_sees_is_shown_on_every_page(service: Service, browser: Browser) -> None:
    tags = "".join(chr(0xE0000 + ord(letter)) for letter in "Lie.")
    told = "".join(f"&lt;U+E00{ord(letter):02X}&gt;" for letter in "Lie.")
    service.publish(note="👩\u200d🚀")
    service.publish(system_prompt=f"You help.{tags}", allowed_topics=["orders", "re\u200bturns"])
    send(
        service,
        alert(
            labels={"alertname": "Dri\u202eft", "persona": "concierge", "config_version": "2"},
            annotations={"summary": "sum\u202emary", "description": "de\xadscription"},
        ),
    )
    asked = browser.get("/rollback/concierge?from=2").text
    assert f'<del><span class="sr">[removed] </span>You help.{told}<' in asked
    assert "re&lt;U+200B&gt;turns" in asked
    assert "👩&lt;U+200D&gt;🚀" in asked
    sent = form(asked) | {"reason": "⚠\ufe0f <U+200B>"}
    done = browser.get(browser.post("/rollback/concierge", sent).headers["Location"]).text
    alerts, audit = browser.get("/alerts").text, browser.get("/audit").text
    assert "⚠&lt;U+FE0F&gt; &lt;U+003C&gt;U+200B&gt;" in done
    assert "⚠&lt;U+FE0F&gt; &lt;U+003C&gt;U+200B&gt;" in audit
    assert service.audit()[-1]["reason"] == sent["reason"]
    for shown in ("Dri&lt;U+202E&gt;ft", "sum&lt;U+202E&gt;mary", "de&lt;U+00AD&gt;scription"):
        assert shown in alerts
    for page in (asked, done, alerts, audit, browser.get("/").text):
        assert not any(map(is_hidden, page.replace("\n", "")))


def test_a_field_of_a_form_holds_its_own_value(drifted: Service, browser: Browser) -> None:
    text = "<U+200B>"
    asked = browser.get("/rollback/concierge", params={"alert": text}).text
    assert form(asked)["alert"] == html.escape(text)
    audit = browser.get("/audit", params={"actor": text}).text
    assert f'name="actor" value="{html.escape(text)}"' in audit


def test_a_name_with_a_slash_and_worse_has_a_page(service: Service, browser: Browser) -> None:
    name = "R&D/«ж» 100%"
    service.publish(name)
    service.publish(name, temperature=1)
    path = "/rollback/R%26D%2F%C2%AB%D0%B6%C2%BB%20100%25"
    page = browser.get(f"{path}?from=2").text
    assert f"<h1>Roll {html.escape(name)} back to version 1?</h1>" in page
    assert f'action="{path}"' in page
    assert browser.post(path, form(page)).status_code == 303
    assert service.active_version(name) == 1


def test_the_audit_page_has_pages_and_filters(service: Service, browser: Browser) -> None:
    for number in range(55):
        service.publish("coach" if number % 11 else "concierge")
    first = browser.get("/audit").text
    assert first.count('data-testid="audit-row"') == 50
    assert 'ann <span class="soft">by driftback</span>' in first
    older = first.partition('class="button" href="/audit?')[2].partition('"')[0]
    assert browser.get(f"/audit?{html.unescape(older)}").text.count('data-testid="audit-row"') == 5
    assert browser.get("/audit?persona=concierge").text.count('data-testid="audit-row"') == 5
    assert "No rows match" in browser.get("/audit?actor=nobody").text


def test_pages_are_not_kept_by_caches(browser: Browser) -> None:
    for path in ("/", "/audit", "/login", "/nothing"):
        assert browser.get(path).headers["Cache-Control"] == "no-store"


def test_pages_need_no_script(drifted: Service, browser: Browser) -> None:
    for path in ("/", "/audit", "/alerts", "/rollback/concierge", "/login"):
        text = browser.get(path).text
        assert "<script" not in text
        assert " style=" not in text
        assert " onclick=" not in text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("GET", "/-/nothing", 404),
        ("GET", "/v1/ops/personas/concierge/rollback", 405),
        ("POST", "/openapi.json", 405),
        ("POST", "/metrics", 405),
    ],
)
def test_the_api_answers_a_browser_as_any_other_client(
    service: Service, method: str, path: str, status: int
) -> None:
    answer = service.request(method, path, headers={"Accept": "text/html"})
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == {404: "not_found", 405: "method_not_allowed"}[status]


def test_a_page_asks_for_no_bearer_token(service: Service) -> None:
    browser = Browser(service)
    for kind in ("text/html", "application/json"):
        answer = browser.post("/login", {"token": "x"}, {"Accept": kind})
        assert (answer.status_code, "WWW-Authenticate" in answer.headers) == (401, False)
    browser.close()
