"""Any sequence of publications, rollbacks, retries and concurrent calls leaves what a small model says."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from config_rollback.errors import ConfigRollbackError
from config_rollback.rollback.attempts import Actor, Attempts, Call
from config_rollback.rollback.changes import Changes, Publication, Rollback, RolledBack
from config_rollback.storage.store import Store
from tests.config_rollback.running import CONFIG, Clock
from tests.config_rollback.storage.test_store import Nobody

PERSONAS = st.sampled_from(["concierge", "concierge", "concierge", "coach"])
ACTORS = st.sampled_from(["ann", "bob"])
KEYS = st.none() | st.sampled_from(["k1", "k2"])
VERSIONS = st.integers(1, 6)

_names = itertools.count()


@dataclass
class Persona:
    """What the model knows of a persona: its versions, and which were activated, oldest first."""

    versions: list[float] = field(default_factory=list)
    log: list[tuple[str, int]] = field(default_factory=list)

    @property
    def active(self) -> int | None:
        return self.log[-1][1] if self.log else None

    @property
    def last_known_good(self) -> int | None:
        """The newest older version that was good when it was left last, by a walk back through the log."""
        good = {}
        for (_, leaves), (action, follows) in itertools.pairwise(self.log):
            good[leaves] = action == "publish" or follows > leaves
        for _, version in reversed(self.log[:-1]):
            if version < self.log[-1][1] and good[version]:
                return version
        return None


class Machine(RuleBasedStateMachine):
    """Drives the domain on a real database; each run has personas of its own."""

    store: Store
    changes: Changes

    def __init__(self) -> None:
        super().__init__()
        self.run = next(_names)
        self.personas = {"concierge": Persona(), "coach": Persona()}
        self.kept: dict[tuple[str, str], tuple[Any, Any]] = {}
        with self.store.read() as transaction:
            self.rows = transaction.verify_audit().rows

    def name(self, persona: str) -> str:
        return f"{persona}-{self.run}"

    def call(self, actor: str, key: str | None) -> Call:
        return Call(Actor(f"{actor}-{self.run}", "ops", "driftback"), "r", key)

    def attempt(self, call: Call, wish: Publication | Rollback) -> Any:
        """The result, or the code of the refusal."""
        try:
            if isinstance(wish, Publication):
                return self.changes.publish(wish, call)
            return self.changes.roll_back(wish, call)
        except ConfigRollbackError as error:
            return error.code

    def expect(self, call: Call, wish: Publication | Rollback, decide: Callable[[], Any]) -> Any:
        """Attempts the request, and compares with what the model decides."""
        kept = (call.actor.subject, call.idempotency_key or "")
        if call.idempotency_key and kept in self.kept:
            earlier, answer = self.kept[kept]
            if earlier == wish:
                assert self.attempt(call, wish) == answer, "a retry gets the first answer"
            else:
                self.rows += 1
                assert self.attempt(call, wish) == "idempotency_key_reused"
            return None
        self.rows += 1
        expected, result = decide(), self.attempt(call, wish)
        if call.idempotency_key:
            self.kept[kept] = (wish, result)
        if isinstance(expected, str):
            assert result == expected
        else:
            assert not isinstance(result, str), result
            number = result.to_version if isinstance(result, RolledBack) else result.version
            assert (result.from_version, number) == expected
        return result

    @rule(persona=PERSONAS, actor=ACTORS, key=KEYS, temperature=st.sampled_from([0.1, 0.2]), guess=VERSIONS)
    def publish(self, persona: str, actor: str, key: str | None, temperature: float, guess: int) -> None:
        known = self.personas[persona]
        expected = guess % 3 if guess < 3 else None  # 0: nothing yet; None: whatever is active
        wish = Publication(self.name(persona), CONFIG | {"temperature": temperature}, "", expected)

        def decide() -> Any:
            if expected is not None and expected != (known.active or 0):
                return "config_changed_since_alert"
            leaves = known.active
            known.versions.append(temperature)
            known.log.append(("publish", len(known.versions)))
            return leaves, len(known.versions)

        self.expect(self.call(actor, key), wish, decide)

    @rule(persona=PERSONAS, actor=ACTORS, key=KEYS, leaves=st.none() | VERSIONS, to=st.none() | VERSIONS)
    def roll_back(
        self, persona: str, actor: str, key: str | None, leaves: int | None, to: int | None
    ) -> None:
        known = self.personas[persona]
        named = leaves or known.active or 1
        wish = Rollback(self.name(persona), named, to)

        def decide() -> Any:
            if known.active is None:
                return "not_found"
            if named != known.active:
                return "config_changed_since_alert"
            target = to or known.last_known_good
            if target is None or target == known.active:
                return "nothing_to_rollback"
            if target > len(known.versions):
                return "target_not_found"
            known.log.append(("rollback", target))
            return named, target

        self.expect(self.call(actor, key), wish, decide)

    @rule(persona=PERSONAS)
    def roll_back_by_default(self, persona: str) -> None:
        """What the button does."""
        self.roll_back(persona, "ann", None, None, None)

    @rule(persona=PERSONAS)
    def undo(self, persona: str) -> None:
        """Back to the version that was left last."""
        log = self.personas[persona].log
        self.roll_back(persona, "bob", None, None, log[-2][1] if len(log) > 1 else 1)

    @rule(persona=PERSONAS)
    def publish_whatever_is_active(self, persona: str) -> None:
        """What `driftback persona publish` does at best."""
        self.publish(persona, "ann", None, 0.1, 6)

    @rule(persona=PERSONAS, calls=st.integers(2, 4))
    def roll_back_at_once(self, persona: str, calls: int) -> None:
        """The first request wins; the others find that the version has changed."""
        known = self.personas[persona]
        wish = Rollback(self.name(persona), known.active or 1)
        with ThreadPoolExecutor(calls) as pool:
            called = [pool.submit(self.attempt, self.call(f"c{n}", None), wish) for n in range(calls)]
            results = [one.result() for one in called]
        self.rows += calls
        done = [result for result in results if isinstance(result, RolledBack)]
        codes = sorted(result for result in results if isinstance(result, str))
        if known.active is None:
            assert codes == ["not_found"] * calls
        elif known.last_known_good is None:
            assert codes == ["nothing_to_rollback"] * calls
        else:
            assert [result.to_version for result in done] == [known.last_known_good]
            assert codes == ["config_changed_since_alert"] * (calls - 1)
            known.log.append(("rollback", done[0].to_version))

    @rule(persona=PERSONAS, calls=st.integers(2, 3))
    def publish_at_once(self, persona: str, calls: int) -> None:
        """All come in, each with a number of its own, in the order of their activations."""
        known = self.personas[persona]
        wish = Publication(self.name(persona), CONFIG)
        with ThreadPoolExecutor(calls) as pool:
            called = [pool.submit(self.attempt, self.call(f"c{n}", None), wish) for n in range(calls)]
            results = sorted((one.result() for one in called), key=lambda result: result.activation_id)
        self.rows += calls
        first = len(known.versions) + 1
        assert [result.version for result in results] == list(range(first, first + calls))
        assert [result.from_version for result in results] == [
            known.active,
            *range(first, first + calls - 1),
        ]
        known.versions += [CONFIG["temperature"]] * calls
        known.log += [("publish", result.version) for result in results]

    @rule(persona=PERSONAS, calls=st.integers(2, 3))
    def retry_at_once(self, persona: str, calls: int) -> None:
        """One key, several calls: one act, and every answer is its answer or asks for patience."""
        known = self.personas[persona]
        wish = Publication(self.name(persona), CONFIG)
        call = self.call("ann", f"at once {self.rows}")
        with ThreadPoolExecutor(calls) as pool:
            called = [pool.submit(self.attempt, call, wish) for _ in range(calls)]
            results = [one.result() for one in called]
        self.rows += 1
        known.versions.append(CONFIG["temperature"])
        known.log.append(("publish", len(known.versions)))
        done = [result for result in results if result != "request_in_progress"]
        assert done
        assert {result.version for result in done} == {len(known.versions)}

    @invariant()
    def the_database_says_what_the_model_says(self) -> None:
        with self.store.read() as transaction:
            head = transaction.audit_rows(1)
            assert (head[0].audit_id if head else 0) == self.rows
            for name, known in self.personas.items():
                active = transaction.active(self.name(name))
                assert (active.version if active else None) == known.active
                if active is not None:
                    assert transaction.default_target(active) == known.last_known_good
                numbers = [row.number for row in transaction.versions(self.name(name))[::-1]]
                stored = [transaction.version(self.name(name), number) for number in numbers]
                assert [row and row.config["temperature"] for row in stored] == known.versions

    def teardown(self) -> None:
        """The chain holds, whatever was called."""
        with self.store.read() as transaction:
            verified = transaction.verify_audit()
        assert (verified.valid, verified.rows) == (True, self.rows)


def play(store: Store, clock: Clock, examples: int, steps: int) -> None:
    """Runs the machine on the store."""
    changes = Changes(Attempts(store, clock, Nobody()))
    machine = type("Bound", (Machine,), {"store": store, "changes": changes})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            phases=[Phase.generate],  # shrinking a failure would take many minutes of commits
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_any_sequence_of_calls_leaves_what_the_model_says(store: Store, clock: Clock) -> None:
    play(store, clock, examples=20, steps=20)


@pytest.mark.soak
def test_any_long_sequence_of_calls_leaves_what_the_model_says(store: Store, clock: Clock) -> None:
    play(store, clock, examples=300, steps=60)
