"""Runs, in a process of its own, children that publish and roll back until each is killed with SIGKILL.

    python -m tests.config_rollback.crashing DATABASE_URL KILLS SEED

Every child is a fork, so a life costs milliseconds and a kill falls anywhere: into a statement, a commit, or
between them. A child writes to a pipe which acts were confirmed. Prints those audit ids, one per line.
"""

from __future__ import annotations

import os
import random
import select
import signal
import sys
import time

from config_rollback.clock import utc_now
from config_rollback.errors import UnavailableError
from config_rollback.rollback.attempts import Actor, Attempts, Call
from config_rollback.rollback.changes import Changes, Publication, Rollback
from config_rollback.storage import database
from config_rollback.storage.store import Store
from exporter import logs
from tests.config_rollback.running import CONFIG
from tests.config_rollback.storage.test_store import Nobody

CALL = Call(Actor("ann", "ops", "driftback"), "r")
LONGEST_LIFE_SECONDS = 0.06


def work(url: str, pipe: int) -> None:
    """Publishes and rolls back for ever."""
    store = Store(database.connect(url))
    changes = Changes(Attempts(store, utc_now, Nobody()))
    while True:
        try:
            done = changes.publish(Publication("p", CONFIG), CALL)
            os.write(pipe, b"%d\n" % done.audit_id)
            if done.from_version is not None:
                back = changes.roll_back(Rollback("p", done.version, done.from_version), CALL)
                os.write(pipe, b"%d\n" % back.audit_id)
        except UnavailableError:
            continue  # what a killed sibling held is not free yet


def kill_one(url: str, life: float) -> bytes:
    """Lets a child do its first act, then live on for `life` seconds; returns what it said."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            work(url, writing)
        finally:
            os._exit(1)
    os.close(writing)
    said = b""
    if select.select([reading], [], [], 60)[0]:
        time.sleep(life)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while part := os.read(reading, 65536):
        said += part
    os.close(reading)
    return said


def main(url: str, kills: int, seed: int) -> None:
    """Kills one child after another."""
    logs.configure()  # to standard error
    rng = random.Random(seed)
    for _ in range(kills):
        said = kill_one(url, rng.uniform(0, LONGEST_LIFE_SECONDS))
        if not said:
            sys.exit("a child did nothing before it was killed")
        sys.stdout.write(said.decode())


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
