"""The record as JSON Lines, whole and in parts, checked without the service."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from config_rollback.audit import chain as audit
from config_rollback.audit import exports
from config_rollback.audit.chain import Head
from config_rollback.personas.persona_config import canonical_json, content_hash
from config_rollback.web.api import audit as audit_api
from tests.config_rollback.running import CONFIG, Service
from tests.config_rollback.storage.test_migrations import HISTORY
from tests.config_rollback.test_cli import run
from tests.config_rollback.web.test_api_ops import error


def export(service: Service, query: str = "") -> list[bytes]:
    answer = service.request("GET", f"/v1/ops/audit/export{query}")
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == "application/x-ndjson"
    return answer.content.splitlines()


@pytest.fixture
def history(service: Service, monkeypatch: pytest.MonkeyPatch) -> Service:
    """Seven rows, some of refusals, with text that JSON escapes; more than is read at once."""
    monkeypatch.setattr(audit_api, "EXPORTED_AT_ONCE", 3)
    service.publish(note='a "note"\nof two lines, ü')
    service.publish(temperature=1)
    service.roll_back(expected_version=1)
    service.roll_back(expected_version=2, reason="too wild", alert="OutOfScopeDrift")
    service.roll_back(expected_version=1, token=service.token("support"))
    service.publish("coach")
    service.publish("coach", temperature=1)
    return service


def test_an_export_holds_every_row_and_verifies(history: Service) -> None:
    lines = export(history)
    rows = [json.loads(line) for line in lines]
    listed = [{name: row[name] for name in audit.LISTED_FIELDS} for row in rows]
    assert listed == history.audit()
    assert [row["activation"] and row["activation"]["version"] for row in rows] == [1, 2, None, 1, None, 1, 2]
    assert json.loads(rows[1]["version"]["config_json"]) == CONFIG | {"temperature": 1.0}
    result = exports.verify(lines)
    whole = history.request("GET", "/v1/ops/audit/verify").json()["data"]
    assert (result.valid, result.rows) == (True, 7)
    assert {"audit_id": result.head.audit_id, "hash": result.head.hash} == whole["head"]


def test_an_export_in_parts_is_the_whole(history: Service) -> None:
    lines = export(history)
    assert export(history, "?after=4") == lines[4:]
    assert export(history, "?after=7") == []
    result = exports.verify(lines[4:])
    assert (result.valid, result.rows, result.head.audit_id) == (True, 3, 7)


def test_a_part_of_an_export_is_bounded_by_its_contents_too(history: Service) -> None:
    with history.app.state.dependencies.store.read() as transaction:
        small, large = (transaction.entries_after(0, 100, size) for size in (1, 1_000_000))
    assert [len(small), len(large)] == [1, 7]


def test_an_export_in_parts_of_one_row_is_the_whole(
    history: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = export(history)
    monkeypatch.setattr(audit_api, "EXPORTED_CHARACTERS", 1)
    assert export(history) == lines


def edited(line: bytes, **changes: Any) -> bytes:
    return json.dumps(json.loads(line) | changes).encode()


def test_what_was_done_to_an_export_is_found(history: Service) -> None:
    lines = export(history)
    last = json.loads(lines[-1])
    head = Head(last["audit_id"], last["hash"])
    forged = [*lines[:2], edited(lines[2], actor="bob"), *lines[3:]]
    assert exports.verify(forged).broken_at == 3
    assert exports.verify(lines[:3] + lines[4:]).broken_at == 5
    assert exports.verify([*lines[:2], lines[3], lines[2], *lines[4:]]).broken_at == 4
    assert exports.verify(lines[:-1]).valid, "inside, nothing betrays a cut"
    assert exports.verify(lines[:-1], head).broken_at == 7
    assert exports.verify(lines, head).valid
    assert exports.verify([], head).broken_at == 1
    assert not exports.verify([edited(lines[0], previous_hash="x"), *lines[1:]]).valid


def test_what_an_export_tells_of_is_held_against_its_rows(history: Service) -> None:
    lines = export(history)
    first = json.loads(lines[0])
    version, activation = first["version"], first["activation"]
    other = canonical_json(CONFIG | {"temperature": 2.0})
    for forged, problem in (
        ({"version": version | {"config_json": other}}, "the content of version 1 was changed"),
        (
            {"version": version | {"config_json": other, "content_hash": content_hash(other)}},
            "the content of version 1 was changed",
        ),
        ({"version": version | {"created_by": "bob"}}, "version 1 is not what it tells of"),
        ({"version": None}, "version 1 is not there"),
        ({"activation": activation | {"activated_by": "bob"}}, "activation 1 is not what it tells of"),
        ({"activation": None}, "the activation that it tells of is not there"),
    ):
        result = exports.verify([edited(lines[0], **forged), *lines[1:]])
        assert (result.valid, result.broken_at, result.problem) == (False, 1, problem)
    renumbered = edited(lines[1], activation=json.loads(lines[1])["activation"] | {"activation_id": 9})
    result = exports.verify([lines[0], renumbered, *lines[2:]])
    assert (result.broken_at, result.problem) == (4, "activation 3 is out of order")
    refused = edited(lines[2], activation=activation, version=version)
    assert exports.verify([*lines[:2], refused, *lines[3:]]).broken_at == 3


def test_an_export_of_the_first_scheme_still_verifies() -> None:
    rows = json.loads(HISTORY.read_text())["audit"]
    lines = [json.dumps(row | {"at": row["at"].replace(" ", "T") + "Z"}).encode() for row in rows]
    result = exports.verify(lines)
    assert (result.valid, result.rows) == (True, 10)
    assert exports.verify([*lines[:2], edited(lines[2], reason="x"), *lines[3:]]).broken_at == 3


@pytest.mark.parametrize("line", [b"", b"{}", b"[]", b"{", b"\xff", b'{"audit_id": 2}'])
def test_what_is_no_export_is_said_to_be_none(history: Service, line: bytes) -> None:
    with pytest.raises(ValueError, match=r"^line 2: "):
        exports.verify([export(history)[0], line])


def test_a_field_that_no_hash_covers_is_not_let_through(history: Service) -> None:
    lines = export(history)
    twice = b'{"actor":"bob",' + lines[1][1:]  # other readers take the first
    nested = b"[" * 3000 + b"]" * 3000
    wrong = json.dumps({**json.loads(lines[1]), "at": 1}).encode()
    for forged in (edited(lines[1], note="x"), wrong, twice, nested):
        with pytest.raises(ValueError, match=r"^line 2: "):
            exports.verify([lines[0], forged])


def test_an_export_is_for_ops_and_takes_what_it_knows(service: Service) -> None:
    path = "/v1/ops/audit/export"
    assert error(service.request("GET", path, token=None)) == (401, "unauthenticated")
    assert error(service.request("GET", path, token=service.token("support"))) == (403, "forbidden")
    for query in ("?after=0", "?after=x", "?persona=p"):
        assert error(service.request("GET", path + query)) == (422, "invalid_request")


def test_a_database_that_fails_is_told_before_anything_is_sent(service: Service) -> None:
    service.database.execute("ALTER TABLE audit RENAME TO audit_away")
    assert error(service.request("GET", "/v1/ops/audit/export")) == (503, "storage_unavailable")


def test_rows_are_filtered_by_every_column_that_people_ask_for(history: Service) -> None:
    def ids(query: str) -> list[int]:
        rows = history.request("GET", f"/v1/ops/audit?{query}").json()["data"]
        return [row["audit_id"] for row in rows]

    assert ids("action=rollback") == [5, 4, 3]
    assert ids("status=failed") == [5, 3]
    assert ids("action=rollback&status=succeeded&persona=concierge&actor=ann") == [4]
    assert ids("persona=coach") == [7, 6]
    assert ids("status=failed&limit=1&cursor=5") == [3]
    assert error(history.request("GET", "/v1/ops/audit?action=x")) == (422, "invalid_request")


def test_the_command_line_exports_and_verifies_a_file(history: Service, tmp_path: Path) -> None:
    access = ["--url", history.url, "--token", history.token()]
    file = tmp_path / "audit.jsonl"
    done = run("audit", "export", str(file), *access)
    assert (done.exit_code, "7 rows in" in done.stderr) == (0, True), done.stderr
    assert file.read_bytes().splitlines() == export(history)
    assert run("audit", "export", *access).stdout.encode().splitlines() == export(history)
    assert len(run("audit", "export", "--after", "5", *access).stdout.splitlines()) == 2
    verified = run("audit", "verify", "--file", str(file))
    assert (verified.exit_code, "7 rows, all intact. Head 7:2:" in verified.stdout) == (0, True)
    file.write_bytes(b"\n".join(export(history)[:-1]))
    head = json.loads(export(history)[-1])
    cut = run("audit", "verify", "--file", str(file), "--head", f"7:{head['hash']}")
    assert (cut.exit_code, "not intact at row 7" in cut.stderr) == (1, True)
    assert run("audit", "verify", "--file", str(tmp_path / "none")).exit_code == 2
    file.write_text("{")
    assert run("audit", "verify", "--file", str(file)).exit_code == 2
    assert run("audit", "list", "--action", "publish", "--status", "succeeded", *access).exit_code == 0
