"""A person without rights cannot fill the audit log, and no attempt is lost from it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from config_rollback.audit.chain import Attempt
from config_rollback.errors import StorageUnavailableError, UnavailableError
from config_rollback.rollback import refusals
from config_rollback.rollback.attempts import Actor, Attempts, Call
from tests.config_rollback.databases import Database
from tests.config_rollback.running import Service
from tests.config_rollback.test_cli import run
from tests.config_rollback.web.test_api_ops import error


def refused_rows(database: Database) -> list[tuple[Any, ...]]:
    return database.execute(
        "SELECT actor, issuer, action, persona, attempts FROM audit WHERE error_code = 'forbidden'"
        " ORDER BY audit_id"
    )


def ask(service: Service, times: int, subject: str = "bob", persona: str = "concierge") -> None:
    token = service.token("support", subject)
    for _ in range(times):
        answer = service.request("GET", f"/v1/ops/personas/{persona}/versions", token=token)
        assert error(answer) == (403, "forbidden")


def settle(service: Service) -> None:
    service.app.state.dependencies.upkeep.once()


def test_a_flood_of_refused_attempts_is_two_rows_with_every_attempt(service: Service) -> None:
    ask(service, 60)
    assert refused_rows(service.database) == [("bob", "driftback", "read", "concierge", 1)]
    settle(service)
    settle(service)
    counted = ("bob", "driftback", "read", "concierge", 59)
    assert refused_rows(service.database)[1:] == [counted]
    assert "config_forbidden_total 60.0" in service.request("GET", "/metrics", token=None).text
    ask(service, 1)
    assert refused_rows(service.database)[2:] == [("bob", "driftback", "read", "concierge", 1)]
    assert service.request("GET", "/v1/ops/audit/verify").json()["data"]["valid"]
    browser = service.browser()
    assert '<span class="soft">59 times</span>' in browser.get("/audit").text
    browser.close()
    listed = run("audit", "list", "--url", service.url, "--token", service.token())
    assert "(59" in listed.stdout, "the cell may be folded"


def test_what_is_tried_is_told_apart(service: Service) -> None:
    ask(service, 2)
    ask(service, 2, persona="coach")
    for _ in range(2):
        service.roll_back(expected_version=1, token=service.token("support", "bob"))
    settle(service)
    assert refused_rows(service.database) == [
        ("bob", "driftback", "read", "concierge", 1),
        ("bob", "driftback", "rollback", "concierge", 1),
        ("bob", "driftback", "read", None, 3),  # of two personas
        ("bob", "driftback", "rollback", "concierge", 1),
    ]


def test_many_people_are_put_together(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "MAX_KINDS", 3)
    for number in range(8):
        ask(service, 2, f"user {number}")
    settle(service)
    rows = refused_rows(service.database)
    assert len(rows) == 3 + 3 + 1
    assert ("others", None, "read", "concierge", 10) in rows
    assert sum(row[-1] for row in rows) == 16


def test_a_row_that_the_database_did_not_take_is_not_lost(service: Service) -> None:
    ask(service, 5)
    service.database.execute("ALTER TABLE audit RENAME TO audit_away")
    token = service.token("support", "eve")
    answer = service.request("GET", "/v1/ops/personas", token=token)
    assert error(answer) == (503, "audit_unavailable"), "a first one has its row, or is not answered"
    settle(service)
    ask(service, 3)
    service.database.execute("ALTER TABLE audit_away RENAME TO audit")
    assert error(service.request("GET", "/v1/ops/personas", token=token)) == (403, "forbidden")
    settle(service)
    rows = refused_rows(service.database)
    assert sum(row[-1] for row in rows if row[0] == "bob") == 8
    assert [row[-1] for row in rows if row[0] == "eve"] == [1]


def test_a_first_row_that_fails_keeps_what_was_counted_meanwhile(service: Service) -> None:
    counts = service.app.state.dependencies.refusals
    call = Call(Actor("bob", "support", "driftback"), "r")
    first = counts.admit(call, "read", None, "forbidden")
    assert first is not None
    assert counts.admit(call, "read", None, "forbidden") is None
    service.database.execute("ALTER TABLE audit RENAME TO audit_away")
    with pytest.raises(UnavailableError):
        counts.write(first)
    service.database.execute("ALTER TABLE audit_away RENAME TO audit")
    settle(service)
    assert [row[-1] for row in refused_rows(service.database)] == [1]


def test_a_stop_writes_what_was_counted(database: Database, start_on: Callable[..., Service]) -> None:
    service = start_on(database)
    ask(service, 4)
    service.stop()
    assert [row[-1] for row in refused_rows(database)] == [1, 3]


def test_a_counted_attempt_waits_for_no_writer(service: Service) -> None:
    ask(service, 1)
    with service.app.state.dependencies.store.write() as transaction:
        transaction.lock_audit_head()
        ask(service, 2)
    settle(service)
    assert [row[-1] for row in refused_rows(service.database)] == [1, 2]


class Away(Attempts):
    """Attempts on a database that fails, while further people are refused."""

    meanwhile: Callable[[], object] | None = None
    recorded: Sequence[Attempt] = ()

    def record(self, attempts: Sequence[Attempt]) -> None:
        if self.meanwhile:
            self.meanwhile()
            raise StorageUnavailableError("away")
        self.recorded = attempts


def test_while_the_database_is_away_the_kinds_are_bounded(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "MAX_KINDS", 3)
    here = service.app.state.dependencies
    away = Away(here.store, here.clock, here.metrics)
    counts = refusals.Refusals(away)
    people = itertools.count()

    def refuse() -> None:
        for _ in range(3):
            call = Call(Actor(f"user {next(people)}", "support", "driftback"), "r")
            for _ in range(2):
                counts.admit(call, "read", None, "forbidden")

    away.meanwhile = refuse
    for _ in range(4):
        refuse()
        with pytest.raises(UnavailableError):
            counts.settle()
    away.meanwhile = None
    counts.settle()
    assert len(away.recorded) <= 3 + 1
    assert "others" in [attempt.actor for attempt in away.recorded]
