"""Opens transactions. Their queries are in the modules beside this one, one for each subject."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import structlog
from sqlalchemy import Engine, delete, exists, func, or_, select, tuple_
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import InstrumentedAttribute, Session

from config_rollback.errors import OutcomeUnknownError, StorageBusyError, StorageUnavailableError
from config_rollback.storage import database
from config_rollback.storage.alerts import Alerts
from config_rollback.storage.audit_rows import AuditRows
from config_rollback.storage.models import Alert, Base, BrowserSession, IdempotencyRecord, UsedToken
from config_rollback.storage.people import People
from config_rollback.storage.serving import Serving
from config_rollback.storage.versions import Versions

log = structlog.get_logger(__name__)


FORGETTABLE: dict[str, InstrumentedAttribute[datetime]] = {
    "sessions": BrowserSession.expires_at,
    "used_tokens": UsedToken.expires_at,
    "idempotency": IdempotencyRecord.created_at,
    "alerts": Alert.updated_at,
}
"""Tables whose old rows may go, each with what says how old a row is. Nothing of the record is here."""


class Store:
    """Opens transactions and turns driver errors into `StorageBusyError` and `StorageUnavailableError`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        # A read is one moment: on PostgreSQL that takes a snapshot, on SQLite every transaction is one.
        snapshot = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        self._readers = engine.execution_options(**snapshot if engine.name == "postgresql" else {})
        self._writers = engine.execution_options(driftback_write=True)

    def upgrade(self) -> None:
        """Brings the schema up to date; what the database says against it is in the log."""
        with _translated():
            database.upgrade(self._engine)

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """A consistent view; nothing that it does is kept."""
        with _translated(), Session(self._readers, expire_on_commit=False) as session:
            yield Transaction(session)

    def check_writable(self) -> None:
        """Raises `StorageUnavailableError` if the database does not answer, or takes no writes."""
        with self.read() as transaction:
            transaction.require_writable()

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """Commits at the end, or on any exception keeps nothing. One writer at a time.

        Raises `OutcomeUnknownError` if the connection broke before the COMMIT was confirmed.
        """
        with _translated(), Session(self._writers, expire_on_commit=False) as session:
            yield Transaction(session)
            try:
                session.commit()
            except DBAPIError as error:
                # SQLite has no server that may have committed without being able to say so.
                if error.connection_invalidated:
                    _log(error)
                    raise OutcomeUnknownError(
                        "the database connection failed at the commit, so the outcome is unknown: repeat the "
                        "same request to find out, which acts at most once"
                    ) from error
                raise

    @contextmanager
    def write_unordered(self) -> Iterator[Transaction]:
        """The same without waiting for other writers: for what no decision is based on."""
        with _translated(), Session(self._engine) as session:
            yield Transaction(session)
            session.commit()

    @property
    def engine(self) -> Engine:
        """The engine, for schema upgrades."""
        return self._engine

    def close(self) -> None:
        """Closes the connections that are not in use."""
        self._engine.dispose()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except PoolTimeout as error:
        raise StorageBusyError("all database connections are in use; try again") from error
    except DBAPIError as error:
        if _is_lock_timeout(error.orig):
            raise StorageBusyError("another writer holds the database; try again") from error
        _log(error)
        raise StorageUnavailableError("the database failed") from error


def _is_lock_timeout(cause: BaseException | None) -> bool:
    if getattr(cause, "sqlstate", None) == "55P03":  # PostgreSQL's lock_not_available
        return True
    # The low byte is SQLite's code, the rest says which kind.
    return getattr(cause, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def _log(error: DBAPIError) -> None:
    """The error text of the driver, without the parameters, which contain configurations and people."""
    # PostgreSQL's primary message: the DETAIL after it may contain the whole row.
    primary = getattr(getattr(error.orig, "diag", None), "message_primary", None)
    log.error(
        "storage_failed", cause=primary or str(error.orig), sqlstate=getattr(error.orig, "sqlstate", None)
    )


class Transaction(Versions, AuditRows, People, Alerts, Serving):
    """The database as one caller sees it, begin to commit."""

    def require_writable(self) -> None:
        """Raises `StorageUnavailableError` if an act would fail.

        The database is a standby or set read-only, a table is missing, or the service's role lacks a right.
        """
        if self._session.get_bind().dialect.name != "postgresql":
            self._session.execute(
                select(*(exists().select_from(table) for table in Base.metadata.sorted_tables))
            )
            return
        read_only = func.current_setting("default_transaction_read_only") == "on"
        if self._session.scalar(select(or_(func.pg_is_in_recovery(), read_only))):
            log.error("storage_failed", cause="the database takes no writes: a standby, or set read-only")
            raise StorageUnavailableError("the database is read-only")
        from config_rollback.storage.postgresql import lacking_rights

        if lacking := lacking_rights(self._session.connection()):
            log.error("storage_failed", cause=f"the service's role lacks {', '.join(lacking)}")
            raise StorageUnavailableError(
                "the service's database role lacks rights: run `driftback db grant` as the tables' owner"
            )

    def forget(self, moment: InstrumentedAttribute[datetime], before: datetime, limit: int) -> int:
        """Deletes the oldest rows whose moment, one of `FORGETTABLE`, is before then; returns how many."""
        table = moment.class_
        key = [getattr(table, column.key) for column in table.__table__.primary_key]
        oldest = select(*key).where(moment < before).order_by(moment).limit(limit)
        gone = delete(table).where(tuple_(*key).in_(oldest)).returning(key[0])
        return len(self._session.execute(gone, execution_options={"synchronize_session": False}).all())
