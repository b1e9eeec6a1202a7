"""Connections to PostgreSQL that give up on a server that has gone silent.

TCP notices a peer that acknowledges nothing; one that acknowledges and says nothing is noticed here.
"""

from __future__ import annotations

import time
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.rows import TupleRow

STATEMENT_SECONDS = 8.0
"""How long the server works on a statement: longer than a writer waits for another."""
SILENCE_SECONDS = 10.0
"""How long a call waits for the server's next word: longer than the server's own limits."""
IDLE_SECONDS = 15.0
"""How long the server keeps a transaction, and the writers' lock, of a client that says nothing more."""

PARAMETERS: dict[str, Any] = {
    "connect_timeout": 5,
    # PgBouncer hands every transaction to another server connection, where the statement is not prepared.
    "prepare_threshold": None,
    # A server that went away without a word is noticed after half a minute,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    # and where something was sent to it after ten seconds (here in milliseconds).
    "tcp_user_timeout": 10_000,
}
"""Where the URL says nothing else."""

Answer = TypeVar("Answer")


class Connection(psycopg.Connection[TupleRow]):
    """Closes itself when the server has said nothing for `patience` seconds; None waits for ever."""

    patience: float | None = None

    def wait(self, gen: PQGen[Answer], *args: Any, **kwargs: Any) -> Answer:
        """Runs an exchange with the server. Raises `OperationalError` for a silent one."""
        return super().wait(self._watched(gen), *args, **kwargs)

    def _watched(self, exchange: PQGen[Answer]) -> PQGen[Answer]:
        heard = time.monotonic()
        try:
            wanted = next(exchange)
            while True:
                ready = yield wanted  # several times a second
                now = time.monotonic()
                if ready:
                    heard = now
                elif self.patience is not None and now - heard > self.patience:
                    self.close()
                    raise psycopg.OperationalError(f"the server has said nothing for {self.patience:g} s")
                wanted = exchange.send(ready)
        except StopIteration as done:
            answer: Answer = done.value
            return answer
