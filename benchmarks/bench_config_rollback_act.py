"""A rollback through the API, on SQLite with 10,000 versions of the persona: token to committed audit row."""

import time
from collections.abc import Iterator

from benchmarks.config_rollback_state import Operator, percentile, served
from benchmarks.row import Row, absolute

VERSIONS = 10_000
ROLLBACKS = 400
WARM_UP = 20


def rows() -> Iterator[Row]:
    """Median and tail."""
    took = []
    with served(VERSIONS) as server:
        operator, active, before = Operator(server.port), VERSIONS, VERSIONS - 1
        for _ in range(ROLLBACKS + WARM_UP):
            started = time.perf_counter()
            # By turns to the last known good version and back to the one just left.
            now = operator.roll_back(active, None if active == VERSIONS else before)
            took.append((time.perf_counter() - started) * 1000)
            active, before = now, active
        operator.close()
    took = took[WARM_UP:]
    name = f"rollback, SQLite with {VERSIONS:,} versions"
    note = "HTTP, token, decision, audit row and fsync; by turns to the last known good version and back."
    yield absolute(f"{name}, p50", percentile(took, 0.5), "ms", "<=", 100, note)
    yield absolute(f"{name}, p99", percentile(took, 0.99), "ms", "<=", 100)
