"""The default target of a rollback, and transactions that lose no update."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from config_rollback.attempts import Actor, Attempts, Call
from config_rollback.audit import Attempt
from config_rollback.errors import (
    ConfigRollbackError,
    NothingToRollBackError,
    StorageUnavailableError,
    UnavailableError,
)
from config_rollback.rollback import Changes, Publication, Rollback
from config_rollback.store import Store
from tests.config_rollback.databases import Database
from tests.config_rollback.running import CONFIG, Clock

CALL = Call(Actor("ann", "ops"), "r")


class Nobody:
    """Observes nothing."""

    def audited(self, attempt: Attempt) -> None:
        pass

    def unaudited(self, attempt: Attempt, error: UnavailableError) -> None:
        pass


@pytest.fixture
def changes(store: Store, clock: Clock) -> Changes:
    return Changes(Attempts(store, clock, Nobody()))


def play(changes: Changes, store: Store, story: str) -> None:
    """`p` publishes, `r` rolls back by default, `r3` rolls back to 3; the story may end in a refusal `!`."""
    for step in story.split():
        with store.read() as transaction:
            active = transaction.active("p")
        if step == "p":
            changes.publish(Publication("p", CONFIG), CALL)
        else:
            assert active is not None
            to = int(step[1:]) if step[1:].isdecimal() else None
            wish = Rollback("p", active.version, to)
            if step.endswith("!"):
                with pytest.raises(NothingToRollBackError):
                    changes.roll_back(wish, CALL)
            else:
                changes.roll_back(wish, CALL)


@pytest.mark.parametrize(
    ("story", "active"),
    [
        ("p", 1),
        ("p p r", 1),
        ("p p p r", 2),
        ("p p p r r", 1),
        ("p p p r r r!", 1),
        ("p p r p r", 1),
        ("p p p r p r", 2),
        ("p p p r1 r!", 1),
        ("p p p r1 p r", 1),
        ("p p p r r3", 3),
        ("p p p r r3 p r", 3),
        ("p p p r r3 r", 1),
        ("p p p p r r r", 1),
        ("p p r p p r r", 1),
    ],
    ids=lambda value: str(value),
)
def test_the_default_target_was_good_and_is_never_the_version_just_left(
    changes: Changes, store: Store, story: str, active: int
) -> None:
    play(changes, store, story)
    with store.read() as transaction:
        newest = transaction.active("p")
    assert newest is not None
    assert newest.version == active


def test_each_recent_version_has_the_predecessor_that_a_rollback_from_it_restores(
    changes: Changes, store: Store, clock: Clock
) -> None:
    play(changes, store, "p")
    clock.move(days=9)
    play(changes, store, "p p r p")
    with store.read() as transaction:
        recent = transaction.recent_activations(clock())
        found = {row.version: transaction.default_target(row) for row in recent}
    # 3 was rolled back to 2; 4 came after 2; 1 is too long ago.
    assert found == {2: 1, 3: 2, 4: 2}


def test_a_version_still_active_is_recent_however_old(changes: Changes, store: Store, clock: Clock) -> None:
    play(changes, store, "p p")
    clock.move(days=30)
    with store.read() as transaction:
        assert [row.version for row in transaction.recent_activations(clock())] == [2]


def test_parallel_writers_lose_no_version(changes: Changes, store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(lambda _: changes.publish(Publication("p", CONFIG), CALL).version, range(80)))
    assert sorted(numbers) == list(range(1, 81))
    with store.read() as transaction:
        assert transaction.verify_audit().rows == 80


def test_an_exception_keeps_nothing(store: Store, database: Database) -> None:
    before = database.content()

    def interrupted() -> None:
        with store.write() as transaction:
            transaction.append_audit(Attempt(at=Clock()(), request_id="r", actor="a", role="ops", action="x"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interrupted()
    assert database.content() == before


def test_driver_errors_come_out_as_the_packages_own(store: Store, database: Database) -> None:
    database.execute("DROP TABLE alerts")
    with pytest.raises(StorageUnavailableError) as caught, store.read() as transaction:
        transaction.alerts(1)
    assert isinstance(caught.value, ConfigRollbackError)


def test_a_token_is_used_up_once(store: Store, clock: Clock) -> None:
    with store.write() as transaction:
        assert transaction.use_token("j", clock(), clock())
    with store.write() as transaction:
        assert not transaction.use_token("j", clock(), clock())
        assert transaction.token_used("j")
    clock.move(seconds=1)
    with store.write() as transaction:
        transaction.use_token("k", clock(), clock())
        assert not transaction.token_used("j"), "an expired id needs not be remembered"
