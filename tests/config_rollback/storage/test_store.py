"""The default target of a rollback, and transactions that lose no update."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from config_rollback.audit.chain import Attempt
from config_rollback.errors import (
    ConfigRollbackError,
    NothingToRollBackError,
    StorageUnavailableError,
    UnavailableError,
)
from config_rollback.metrics import PREDECESSOR_WITHIN
from config_rollback.rollback.attempts import Actor, Attempts, Call
from config_rollback.rollback.changes import Changes, Publication, Rollback
from config_rollback.storage.store import Store
from tests.config_rollback.databases import Database
from tests.config_rollback.running import CONFIG, Clock

CALL = Call(Actor("ann", "ops", "driftback"), "r")


class Nobody:
    """Observes nothing."""

    def audited(self, attempt: Attempt) -> None:
        pass

    def unaudited(self, attempt: Attempt, error: UnavailableError) -> None:
        pass


@pytest.fixture
def changes(store: Store, clock: Clock) -> Changes:
    return Changes(Attempts(store, clock, Nobody()))


def play(changes: Changes, store: Store, story: str, persona: str = "p") -> None:
    """`p` publishes, `r` rolls back by default, `r3` rolls back to 3; the story may end in a refusal `!`."""
    for step in story.split():
        with store.read() as transaction:
            active = transaction.active(persona)
        if step == "p":
            changes.publish(Publication(persona, CONFIG), CALL)
        else:
            assert active is not None
            to = int(step[1:]) if step[1:].isdecimal() else None
            wish = Rollback(persona, active.version, to)
            if step.endswith("!"):
                with pytest.raises(NothingToRollBackError):
                    changes.roll_back(wish, CALL)
            else:
                changes.roll_back(wish, CALL)


STORIES: dict[str, tuple[str, dict[int, int | None]]] = {
    "the first version has nothing before it": ("p", {1: None}),
    "each version came after the one before": ("p p p", {1: None, 2: 1, 3: 2}),
    "a rollback goes back by one version": ("p p p r", {2: 1, 3: 2}),
    "a second rollback goes back further": ("p p p r r", {1: None, 2: 1, 3: 2}),
    "behind the first version there is nothing": ("p p p r r r!", {1: None}),
    "a version that follows a rollback came after the one restored": ("p p r p", {3: 1}),
    "a rollback skips a version that was rolled back": ("p p p r p r p", {2: 1, 3: 2, 4: 2, 5: 2}),
    "two bad versions in a row lead back to the same good one": ("p p r p r", {1: None, 2: 1, 3: 1}),
    "a version between that was skipped is not next": ("p p p r1 r!", {1: None, 3: 2}),
    "a version that follows a skip came after the one chosen": ("p p p r1 p", {4: 1}),
    "an undo restores what was known of the newer version": ("p p r r2", {1: None, 2: 1}),
    "undone and redone, the older version serves and is good": ("p p r r2 r", {1: None, 2: 1}),
    "a second undo changes nothing more": ("p p r r2 r r2", {1: None, 2: 1}),
    "after an undo the next version came after the newer one": ("p p r r2 p", {2: 1, 3: 2}),
    "after an undo the newer version can be rolled back": ("p p p r r3 r", {2: 1, 3: 2}),
    "after an undo the older version is still before the newer one": ("p p p r r3", {2: 1, 3: 2}),
    "an undone version that is rolled back after all is not restored": ("p p p r r3 r p", {2: 1, 4: 2}),
    "the undo of the second of two rollbacks": ("p p p r r r2", {1: None, 2: 1, 3: 2}),
    "the undo of two rollbacks one by one": ("p p p r r r2 r3", {1: None, 2: 1, 3: 2}),
    "the undo of two rollbacks at once leaves the version between rolled back": ("p p p r r r3", {3: 1}),
    "the undo of a skip leaves the version that was chosen next": ("p p p r1 r3", {1: None, 3: 1}),
    "forward by less than the rollback went back": ("p p p r1 r2", {1: None, 2: 1}),
    "going forward does not bring back what was rolled back before": ("p p p p r r r", {1: None, 2: 1}),
    "back over a version that was published later and left as good": ("p p r p p r r", {1: None, 3: 1, 4: 3}),
}


def test_what_a_rollback_restores_by_default(changes: Changes, store: Store, clock: Clock) -> None:
    """Of the active version it is the default target, of every recent one the predecessor to compare with."""
    for persona, (story, _) in STORIES.items():
        play(changes, store, story, persona)
    found: dict[str, dict[int, int | None]] = {persona: {} for persona in STORIES}
    with store.read() as transaction:
        for row in transaction.recent_activations(clock()):
            found[row.persona][row.version] = transaction.default_target(row)
    for persona, (_, targets) in STORIES.items():
        assert found[persona] | targets == found[persona], persona


def test_a_version_that_was_good_for_long_stays_so_through_a_rollback_that_is_undone(
    changes: Changes, store: Store, clock: Clock
) -> None:
    play(changes, store, "p")
    clock.move(days=90)
    play(changes, store, "p r r2")
    with store.read() as transaction:
        active = transaction.active("p")
        assert active is not None
        assert transaction.default_target(active) == 1
        predecessors = {
            row.version: transaction.default_target(row)
            for row in transaction.recent_activations(clock() - PREDECESSOR_WITHIN)
        }
    assert predecessors == {1: None, 2: 1}


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


@pytest.mark.usefixtures("patient_writers")
def test_parallel_writers_lose_no_version(changes: Changes, store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(lambda _: changes.publish(Publication("p", CONFIG), CALL).version, range(40)))
    assert sorted(numbers) == list(range(1, 41))
    with store.read() as transaction:
        assert transaction.verify_audit().rows == 40


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
        assert transaction.use_token("j", clock())
    with store.write() as transaction:
        assert not transaction.use_token("j", clock())
        assert transaction.token_used("j")
