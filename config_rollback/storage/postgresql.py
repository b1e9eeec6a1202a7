"""PostgreSQL: connections that give up on a silent server, the limits of transactions, and roles.

TCP notices a peer that acknowledges nothing; a peer that acknowledges and says nothing is noticed here.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from functools import partial
from typing import Any, TypeVar

import psycopg
import sqlalchemy
from psycopg.abc import PQGen
from psycopg.rows import TupleRow
from sqlalchemy import URL, Engine, create_engine, event

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

_WRITER_LOCK = 0x64726966746261
"""Key of the advisory lock that writers take, per database ("driftba" in ASCII)."""
_OPTION = re.compile(r"(?:-c\s*|--)([\w.-]+)\s*=")
"""A setting in the `options` of a URL, as PostgreSQL's command line takes it."""

Answer = TypeVar("Answer")


def engine(url: URL, busy_timeout: float, **pool: Any) -> Engine:
    """An engine whose writers wait for each other, `busy_timeout` seconds at most."""
    made = create_engine(
        url.set(drivername="postgresql+psycopg"),
        connect_args={name: value for name, value in PARAMETERS.items() if name not in url.query},
        pool_timeout=busy_timeout,
        pool_pre_ping=True,
        **pool,
    )
    event.listen(made, "do_connect", _connect)
    event.listen(made, "begin", partial(_begin, _limits(url, busy_timeout)))
    return made


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


def _connect(_dialect: Any, _record: Any, arguments: Any, parameters: Any) -> Connection:
    connection = Connection.connect(*arguments, **parameters)
    connection.patience = SILENCE_SECONDS
    return connection


def _limits(url: URL, busy_timeout: float) -> str:
    """The statement that bounds a transaction; the URL's own `options` are not changed.

    In each transaction: PgBouncer refuses them at the connection, and keeps no setting between transactions.
    """
    seconds = {
        "lock_timeout": busy_timeout,
        "statement_timeout": STATEMENT_SECONDS,
        "idle_in_transaction_session_timeout": IDLE_SECONDS,
    }
    given = {name.replace("-", "_").lower() for name in _OPTION.findall(str(url.query.get("options", "")))}
    limits = {name: int(limit * 1000) for name, limit in seconds.items() if name not in given}
    return "SELECT " + ", ".join(f"set_config('{name}', '{limit}', true)" for name, limit in limits.items())


def _begin(limits: str, connection: sqlalchemy.Connection) -> None:
    connection.exec_driver_sql(limits)
    # What BEGIN IMMEDIATE is on SQLite: one writer at a time, whatever it writes; ends with the transaction.
    # Statements after it see what the writer before has committed (READ COMMITTED, the default).
    if connection.get_execution_options().get("driftback_write", False):
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITER_LOCK})")


APPLICATION = {
    "SELECT, INSERT": ("versions", "activations", "audit"),
    "SELECT, UPDATE": ("audit_head",),
    "SELECT, INSERT, DELETE": ("used_tokens", "idempotency", "shut_out"),
    "SELECT, INSERT, UPDATE, DELETE": ("sessions", "alerts", "serving"),
    "SELECT": ("alembic_version",),
}
"""Privileges of a role that runs the service without owning its tables."""
_NUMBERED = (("activations", "activation_id"), ("alerts", "alert_id"))
"""Columns whose numbers PostgreSQL gives, from a sequence."""
AUDITOR = {"SELECT": ("versions", "activations", "audit", "audit_head", "alerts", "alembic_version")}
"""Privileges of a role that reads history, and neither sessions nor what would open one."""


def lacking_rights(connection: sqlalchemy.Connection) -> list[str]:
    """What the connected PostgreSQL role lacks of `APPLICATION`. Raises `DBAPIError` for a missing table."""
    wanted = [
        (table, right)
        for rights, tables in APPLICATION.items()
        for table in tables
        for right in rights.split(", ")
    ]
    # A right on columns may be enough. DELETE is none of these.
    columns = [
        f"has_{'table' if right == 'DELETE' else 'any_column'}_privilege('{table}', '{right}')"
        for table, right in wanted
    ]
    columns += [
        f"has_sequence_privilege(pg_get_serial_sequence('{table}', '{column}'), 'USAGE')"
        for table, column in _NUMBERED
    ]
    has = connection.exec_driver_sql(f"SELECT {', '.join(columns)}").one()
    names = [f"{right} on {table}" for table, right in wanted]
    names += [f"USAGE on the sequence of {table}" for table, _ in _NUMBERED]
    return [name for name, is_there in zip(names, has, strict=True) if not is_there]


def grant(engine: Engine, role: str, privileges: Mapping[str, tuple[str, ...]] = APPLICATION) -> None:
    """Gives a PostgreSQL role the least that it needs, and takes away what it had beyond.

    Run by the tables' owner. History then has two locks: no privilege to change it, and the triggers.
    """
    quoted = engine.dialect.identifier_preparer.quote_identifier(role)
    with engine.connect() as connection, connection.begin():
        for kind in ("TABLES", "SEQUENCES"):
            connection.exec_driver_sql(f"REVOKE ALL ON ALL {kind} IN SCHEMA public FROM {quoted}")
        connection.exec_driver_sql(f"GRANT USAGE ON SCHEMA public TO {quoted}")
        for given, tables in privileges.items():
            connection.exec_driver_sql(f"GRANT {given} ON {', '.join(tables)} TO {quoted}")
            if "INSERT" in given:
                connection.exec_driver_sql(f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {quoted}")
