"""What the audit tells of is there, and nothing else is: found by `verify`, and never delivered."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest

from config_rollback.audit import exports
from config_rollback.delivery import delivery
from config_rollback.personas.persona_config import canonical_json, content_hash
from tests.config_rollback.databases import Database
from tests.config_rollback.delivery.test_delivery import wait_until
from tests.config_rollback.running import CONFIG, Service
from tests.config_rollback.web.test_api_ops import error

OTHER = canonical_json(CONFIG | {"system_prompt": "You obey."})
INSERT = (
    "INSERT INTO activations (activation_id, persona, version, from_version, action, activated_at,"
    " activated_by, audit_id) SELECT 99, persona, 1, 2, action, "
)
CONTENT = f"UPDATE versions SET config_json = '{OTHER}' WHERE number = 3"
HASH = f"UPDATE versions SET content_hash = '{content_hash(OTHER)}' WHERE number = 3"


class Forgery(NamedTuple):
    """Done behind the service, with the triggers and checks out of the way, and what is then found where."""

    statements: tuple[str, ...]
    row: int | None
    problem: str
    withheld: bool = True
    """Whether it would change what the persona serves."""


FORGERIES = {
    "an activation with the row of a refusal": Forgery(
        (INSERT + "at, actor, audit_id FROM audit WHERE audit_id = 4",),
        4,
        "activation 99 has no right to its row",
    ),
    "an activation with a row that is not there": Forgery(
        (INSERT + "activated_at, activated_by, 77 FROM activations WHERE audit_id = 2",),
        None,
        "activation 99 names row 77, which is not there",
    ),
    "a second activation of a row": Forgery(
        (
            "DROP INDEX ix_activations_audit",
            INSERT + "activated_at, activated_by, audit_id FROM activations WHERE audit_id = 3",
        ),
        None,
        "activation 99 names row 3, which is another's",
    ),
    "an old activation under a new number": Forgery(
        ("UPDATE activations SET activation_id = 99 WHERE audit_id = 1",),
        2,
        "activation 2 is out of order",
    ),
    "an activation of another version": Forgery(
        ("UPDATE activations SET version = 1 WHERE audit_id = 3",), 3, "activation 3 is not what it tells of"
    ),
    "an activation by somebody else": Forgery(
        ("UPDATE activations SET activated_by = 'bob' WHERE audit_id = 3",),
        3,
        "activation 3 is not what it tells of",
    ),
    "no activation": Forgery(
        ("DELETE FROM activations WHERE audit_id = 3",),
        3,
        "the activation that it tells of is not there",
    ),
    "another content": Forgery(
        (CONTENT,),
        3,
        "the content of version 3 was changed",
    ),
    "another content with its hash": Forgery(
        (CONTENT, HASH),
        3,
        "the content of version 3 was changed",
    ),
    "another content with its hash, in the row too": Forgery(
        (
            CONTENT,
            HASH,
            f"UPDATE audit SET content_hash = '{content_hash(OTHER)}' WHERE audit_id = 3",
        ),
        3,
        "its content was changed",
    ),
    "a version by somebody else": Forgery(
        ("UPDATE versions SET created_by = 'bob' WHERE number = 3",), 3, "version 3 is not what it tells of"
    ),
    "a version that nobody published": Forgery(
        ("INSERT INTO versions SELECT persona, 4, '', '{}', created_at, '', '' FROM versions LIMIT 1",),
        None,
        "no row tells of version 4 of concierge",
        withheld=False,
    ),
}


def forge(database: Database, forgery: Forgery) -> None:
    database.disable_triggers()
    if database.kind == "postgresql":
        for name in ("activations_audit_id_fkey", "activations_persona_version_fkey"):
            database.execute(f"ALTER TABLE activations DROP CONSTRAINT {name}")
    for statement in forgery.statements:
        database.execute(statement)


@pytest.fixture
def recorded(service: Service) -> Service:
    """Three versions, and a refused rollback in row 4."""
    service.publish()
    service.publish(temperature=1)
    service.publish(temperature=1.5)
    service.roll_back(expected_version=1)
    return service


@pytest.mark.parametrize("forgery", FORGERIES.values(), ids=FORGERIES)
def test_a_forgery_is_found_in_the_database_and_in_an_export_and_not_delivered(
    recorded: Service, forgery: Forgery, start_on: Callable[..., Service]
) -> None:
    assert recorded.request("GET", "/v1/ops/audit/verify").json()["data"]["valid"]
    good = recorded.config().json()["data"]["config"]
    forge(recorded.database, forgery)
    found = recorded.request("GET", "/v1/ops/audit/verify").json()["data"]
    assert (found["valid"], found["broken_at"], found["problem"]) == (False, *forgery[1:3])
    lines = recorded.request("GET", "/v1/ops/audit/export").content.splitlines()
    offline = exports.verify(lines)
    assert (offline.valid, offline.broken_at, offline.problem) == (False, *forgery[1:3])

    again = start_on(recorded.database)
    if not forgery.withheld:
        assert again.config().status_code == 200
        return
    assert error(again.config()) == (503, "config_withheld")
    assert 'config_withheld{persona="concierge"} 1.0' in again.request("GET", "/metrics", token=None).text
    # The service that was running goes on with what it has, and looks at it all again for another persona.
    recorded.publish("coach")
    assert recorded.config("coach").status_code == 200
    assert recorded.config().json()["data"]["config"] == good
    assert 'config_withheld{persona="coach"} 0.0' in recorded.request("GET", "/metrics", token=None).text


def test_a_good_version_put_back_is_delivered_again(
    recorded: Service, start_on: Callable[..., Service]
) -> None:
    forge(recorded.database, FORGERIES["another content"])
    again = start_on(recorded.database)
    assert error(again.config()) == (503, "config_withheld")
    assert again.roll_back(expected_version=3).status_code == 200
    assert again.config().json()["data"]["config"] == CONFIG | {"temperature": 1.0}
    wait_until(lambda: recorded.config().json()["data"]["version"] == 2)
    assert 'config_withheld{persona="concierge"} 0.0' in again.request("GET", "/metrics", token=None).text


@pytest.mark.parametrize("kind", ["another content", "another content with its hash"])
def test_a_version_that_is_not_as_it_was_published_is_no_target(recorded: Service, kind: str) -> None:
    forge(recorded.database, Forgery(tuple(s.replace("3", "2") for s in FORGERIES[kind].statements), 2, ""))
    for key in ("k", "k"):
        answer = recorded.roll_back(key=key, expected_version=3)
        assert error(answer) == (409, "version_damaged")
    assert recorded.audit()[-1]["error_code"] == "version_damaged"
    assert recorded.active_version() == 3
    assert recorded.roll_back(expected_version=3, to_version=1).status_code == 200
    assert recorded.config().json()["data"]["version"] == 1


@pytest.mark.parametrize("row", [4, 5], ids=["of a refused rollback", "of an acceptance"])
def test_an_activation_that_claims_a_publication_leaves_the_version_a_target(
    recorded: Service, row: int
) -> None:
    path = "/v1/ops/personas/concierge/baseline"
    assert recorded.request("POST", path, json={"expected_version": 3}).status_code == 200
    insert = f"{INSERT.removesuffix('action, ')}'publish', ".replace("99", "-1")
    forge(
        recorded.database,
        Forgery((f"{insert}at, actor, audit_id FROM audit WHERE audit_id = {row}",), row, ""),
    )
    assert recorded.roll_back(expected_version=3, to_version=1).status_code == 200
    assert recorded.config().json()["data"]["version"] == 1


def test_a_version_with_two_publications_is_no_target(recorded: Service) -> None:
    forge(recorded.database, FORGERIES["a second activation of a row"])
    answer = recorded.roll_back(expected_version=1, to_version=3)
    assert error(answer) == (409, "version_damaged")
    assert recorded.audit()[-1]["error_code"] == "version_damaged"


def test_a_second_end_of_the_chain_changes_nothing(recorded: Service) -> None:
    recorded.database.execute("INSERT INTO audit_head (id, audit_id, hash) VALUES (2, 99, 'x')")
    assert recorded.roll_back(expected_version=3).status_code == 200
    assert recorded.request("GET", "/v1/ops/audit/verify").json()["data"]["valid"]


def test_a_content_that_is_put_right_is_delivered_without_an_activation(
    recorded: Service,
    start_on: Callable[..., Service],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(delivery, "REPAIR_SECONDS", 1e9)
    ((content,),) = recorded.database.execute("SELECT config_json FROM versions WHERE number = 3")
    forge(recorded.database, FORGERIES["another content"])
    again = start_on(recorded.database)
    assert error(again.config()) == (503, "config_withheld")
    own = again.app.state.dependencies.delivery
    assert own._load(own._newest_activation) is None, "it does not read everything at every look"
    monkeypatch.setattr(delivery, "REPAIR_SECONDS", 0.0)
    recorded.database.execute("UPDATE versions SET config_json = ? WHERE number = 3", content)
    wait_until(lambda: again.config().status_code == 200)
    assert again.config().json()["data"]["version"] == 3
    assert 'config_withheld{persona="concierge"} 0.0' in again.request("GET", "/metrics", token=None).text
    assert caplog.text.count('"event": "config_withheld"') == 1, "once, not at every look"


def test_an_activation_needs_a_row_of_its_own(recorded: Service) -> None:
    before = recorded.database.content()
    with pytest.raises(Exception, match=r"append-only|unique"):
        recorded.database.execute(
            INSERT + "activated_at, activated_by, audit_id FROM activations WHERE audit_id = 1"
        )
    assert recorded.database.content() == before
