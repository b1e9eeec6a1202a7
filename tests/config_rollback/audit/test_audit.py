"""Security case 44: whatever is done to the chain is found, and the row is named."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.orm import Session

from config_rollback.audit.chain import GENESIS, SCHEME, Attempt, Head, row_hash, verify
from config_rollback.storage.store import Store, Transaction
from tests.config_rollback.databases import Database

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


class StoredRow:
    """A row that a test can edit as an intruder would."""

    def __init__(self, audit_id: int, attempt: Attempt, previous_hash: str, scheme: str = SCHEME) -> None:
        vars(self).update(vars(attempt))
        self.audit_id = audit_id
        self.previous_hash = previous_hash
        self.hash = row_hash(audit_id, attempt, previous_hash, scheme)


def attempt(number: int) -> Attempt:
    return Attempt(
        at=START + timedelta(seconds=number),
        request_id=f"r{number}",
        actor="ann",
        role="ops",
        action="rollback",
        persona="concierge",
        from_version=number + 1,
        to_version=number,
        status="failed",
        error_code="nothing_to_rollback",
        reason=f"because {number}",
    )


def chain(length: int = 10, of_the_first_scheme: int = 0) -> list[Any]:
    rows: list[Any] = []
    previous = GENESIS
    for number in range(1, length + 1):
        scheme = "1" if number <= of_the_first_scheme else SCHEME
        rows.append(StoredRow(number, attempt(number), previous, scheme))
        previous = rows[-1].hash
    return rows


def head_of(rows: list[Any]) -> Head:
    return Head(rows[-1].audit_id, rows[-1].hash) if rows else Head(0, GENESIS)


def test_an_untouched_chain_is_valid() -> None:
    rows = chain()
    result = verify(rows, head_of(rows))
    assert (result.valid, result.rows, result.head) == (True, 10, head_of(rows))
    assert verify([], Head(0, GENESIS)).valid


EDITS: dict[str, Any] = {
    "at": START,
    "request_id": "forged",
    "actor": "bob",
    "role": "support",
    "action": "publish",
    "persona": None,
    "from_version": None,
    "to_version": 99,
    "status": "succeeded",
    "error_code": "forbidden",
    "reason": None,
    "alert": "X",
    "issuer": "https://issuer.example/",
    "content_hash": "0" * 64,
    "attempts": 2,
    "hash": "1:" + "0" * 64,
    "previous_hash": GENESIS,
    "audit_id": 77,
}


@pytest.mark.parametrize("field", EDITS)
def test_an_edited_field_is_found_at_its_row(field: str) -> None:
    rows = chain()
    head = head_of(rows)
    setattr(rows[4], field, EDITS[field])
    result = verify(rows, head)
    assert not result.valid
    assert result.broken_at == (77 if field == "audit_id" else 5)


@pytest.mark.parametrize("field", EDITS)
def test_an_edited_field_of_a_row_of_the_first_scheme_is_found_at_its_row(field: str) -> None:
    rows = chain(of_the_first_scheme=6)
    head = head_of(rows)
    assert verify(rows, head).valid
    setattr(rows[4], field, EDITS[field])
    assert verify(rows, head).broken_at == (77 if field == "audit_id" else 5)


def test_a_row_cannot_go_back_to_the_first_scheme() -> None:
    rows = chain(9, of_the_first_scheme=5)
    rows.append(StoredRow(10, attempt(10), rows[-1].hash, "1"))
    assert verify(rows, head_of(rows)).broken_at == 10


def test_every_field_of_a_row_is_covered() -> None:
    assert set(EDITS) == set(vars(chain(1)[0]))


def test_an_edit_with_its_hash_redone_breaks_the_next_row() -> None:
    rows = chain()
    head = head_of(rows)
    rows[4].actor = "bob"
    rows[4].hash = row_hash(5, rows[4], rows[4].previous_hash)
    assert verify(rows, head).broken_at == 6


def test_a_chain_written_anew_differs_from_a_head_kept_elsewhere() -> None:
    known = head_of(chain(8))
    rows: list[Any] = []
    previous = GENESIS
    for number in range(1, 11):
        rows.append(StoredRow(number, replace(attempt(number), actor="bob"), previous))
        previous = rows[-1].hash
    assert verify(rows, head_of(rows)).valid, "inside, nothing betrays it"
    result = verify(rows, head_of(rows), known)
    assert (result.valid, result.broken_at) == (False, 8)


def test_rows_reordered_removed_and_inserted_are_found() -> None:
    rows = chain()
    head = head_of(rows)
    swapped = [*rows[:3], rows[4], rows[3], *rows[5:]]
    removed = rows[:3] + rows[4:]
    inserted = [*rows[:3], StoredRow(4, attempt(99), rows[2].hash), *rows[3:]]
    assert [verify(bad, head).broken_at for bad in (swapped, removed, inserted)] == [5, 5, 4]


def test_rows_cut_off_the_end_are_found_by_the_stored_head() -> None:
    rows = chain()
    result = verify(rows[:7], head_of(rows))
    assert (result.valid, result.broken_at) == (False, 8)
    assert "ends at row 7" in str(result.problem)


def test_rows_cut_off_together_with_the_stored_head_are_found_by_a_head_kept_elsewhere() -> None:
    rows = chain()
    result = verify(rows[:7], head_of(rows[:7]), head_of(rows))
    assert (result.valid, result.broken_at) == (False, 8)
    assert verify(rows[:7], head_of(rows[:7]), head_of(rows[:6])).valid, "an older head knows no later rows"


def test_a_row_appended_past_the_head_is_found() -> None:
    rows = chain()
    assert verify(rows, head_of(rows[:9])).broken_at == 10


def test_a_thousand_random_edits_are_all_found() -> None:
    rng = random.Random(7)
    fields = [name for name in EDITS if name != "audit_id"]
    for _ in range(1000):
        rows = chain(6)
        head = head_of(rows)
        victim = rng.randrange(len(rows))
        field = rng.choice(fields)
        was = getattr(rows[victim], field)
        forged = EDITS[field] if EDITS[field] != was else "something else"
        setattr(rows[victim], field, forged)
        assert verify(rows, head).broken_at == victim + 1, (field, victim)


def test_a_stored_chain_edited_behind_the_triggers_is_found(store: Store, database: Database) -> None:
    for number in range(1, 6):
        with store.write() as transaction:
            transaction.append_audit(attempt(number))
    with store.read() as transaction:
        assert transaction.verify_audit().valid
    database.disable_triggers()
    database.execute("UPDATE audit SET reason = 'forged' WHERE audit_id = 3")
    with store.read() as transaction:
        result = transaction.verify_audit()
    assert (result.valid, result.broken_at, result.problem) == (False, 3, "its content was changed")


def test_a_stored_chain_cut_behind_the_triggers_is_found(store: Store, database: Database) -> None:
    for number in range(1, 6):
        with store.write() as transaction:
            transaction.append_audit(attempt(number))
    database.disable_triggers()
    database.execute("DELETE FROM audit WHERE audit_id > 3")
    with store.read() as transaction:
        assert transaction.verify_audit().broken_at == 4
    database.execute("DELETE FROM audit_head")
    with store.read() as transaction:
        assert not transaction.verify_audit().valid


def forge(rng: random.Random, rows: int) -> tuple[str, str]:
    """A kind of forgery and its statement, on a chain of so many rows."""
    victim, other = rng.sample(range(1, rows + 1), 2)
    field = rng.choice([name for name in EDITS if name != "audit_id"])
    text = f"'{rng.randrange(10**9)}'"
    values = {
        "at": f"'2026-03-01 12:00:00.{rng.randrange(100, 999)}000+00:00'",
        "from_version": str(rng.randrange(100, 999)),
        "to_version": str(rng.randrange(100, 999)),
        "attempts": str(rng.randrange(100, 999)),
    }
    columns = ", ".join(name for name in EDITS if name not in ("audit_id", "hash", "previous_hash"))
    copied = (
        f"SELECT {rows + 1}, hash, '1:{rng.randrange(10**9)}', {columns} FROM audit WHERE audit_id = {rows}"
    )
    pair = f"audit.audit_id = {victim} AND b.audit_id = {other}"
    nullable = field in ("persona", "from_version", "to_version", "reason")
    return rng.choice(
        [
            ("edit", f"UPDATE audit SET {field} = {values.get(field, text)} WHERE audit_id = {victim}"),
            ("edit", f"UPDATE audit SET {field} = {values.get(field, text)} WHERE audit_id = {other}"),
            ("empty", f"UPDATE audit SET {field} = NULL WHERE audit_id = {victim}")
            if nullable
            else ("case", f"UPDATE audit SET actor = 'Ann' WHERE audit_id = {victim}"),
            ("copy", f"UPDATE audit SET reason = b.reason FROM audit b WHERE {pair}"),
            ("delete", f"DELETE FROM audit WHERE audit_id = {victim}"),
            ("cut", f"DELETE FROM audit WHERE audit_id > {min(victim, other)}"),
            ("renumber", f"UPDATE audit SET audit_id = {rows + victim} WHERE audit_id = {victim}"),
            ("append", f"INSERT INTO audit (audit_id, previous_hash, hash, {columns}) {copied}"),
            ("head", f"UPDATE audit_head SET audit_id = {victim - 1}"),
            ("head", f"UPDATE audit_head SET hash = {text}"),
        ]
    )  # fmt: skip


def test_a_thousand_random_forgeries_of_a_stored_chain_are_all_found(
    store: Store, database: Database
) -> None:
    rows = 12
    for number in range(1, rows + 1):
        with store.write() as transaction:
            transaction.append_audit(attempt(number))
    database.disable_triggers()
    rng, kinds = random.Random(11), set()
    with store.engine.connect() as connection:
        for _ in range(1000 if database.kind == "sqlite" else 300):
            kind, statement = forge(rng, rows)
            forgery = connection.begin()
            connection.exec_driver_sql(statement)
            assert not Transaction(Session(connection)).verify_audit().valid, statement
            forgery.rollback()
            kinds.add(kind)
        assert Transaction(Session(connection)).verify_audit().valid
    assert len(kinds) == 9


def test_moments_keep_their_microseconds(store: Store) -> None:
    at = datetime(2026, 3, 1, 12, 0, 0, 1, tzinfo=UTC)
    with store.write() as transaction:
        transaction.append_audit(replace(attempt(1), at=at))
    with store.read() as transaction:
        row = transaction.audit_row(1)
        assert row is not None
        assert row.at == at
        assert transaction.verify_audit().valid
