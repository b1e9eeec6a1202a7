"""The only module with queries. A `Transaction` is the database as one caller sees it, begin to commit."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from datetime import datetime, timedelta
from typing import Any

import psycopg
import structlog
from sqlalchemy import Engine, and_, delete, exists, func, insert, or_, select, tuple_, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased, defer

from config_rollback.audit import chain as audit
from config_rollback.audit import record
from config_rollback.errors import OutcomeUnknownError, StorageBusyError, StorageUnavailableError
from config_rollback.storage import database
from config_rollback.storage.database import ACTIVATIONS_CHANNEL
from config_rollback.storage.models import (
    Activation,
    Alert,
    AuditHead,
    AuditRow,
    Base,
    BrowserSession,
    IdempotencyRecord,
    ServingProcess,
    ShutOutPerson,
    UsedToken,
    Version,
)

ENTRIES_AT_ONCE = 10
"""Entries that the database sends together: each may hold a configuration of a megabyte."""
LATE_WITHIN = timedelta(seconds=15)
"""A message of Alertmanager may take so long to arrive, and be overtaken by the one that tells of the end."""

log = structlog.get_logger(__name__)


_PARTS: tuple[tuple[Any, Any], ...] = (
    (AuditRow, audit.RecordedAttempt),
    (Activation, record.ActivationRecord),
    (Version, record.VersionRecord),
)
_ENTRY = [getattr(table, field.name) for table, part in _PARTS for field in fields(part)]
_OF_ACTIVATION = and_(Version.persona == Activation.persona, Version.number == Activation.version)
_ENTRIES = (
    select(*_ENTRY)
    .select_from(AuditRow)
    .outerjoin(Activation, Activation.audit_id == AuditRow.audit_id)
    .outerjoin(Version, _OF_ACTIVATION)
    .order_by(AuditRow.audit_id, Activation.activation_id)
)


def _entry(columns: Iterable[Any]) -> record.Entry:
    """The columns of `_ENTRY`; what a join did not find is None."""
    values = iter(columns)
    row, activation, version = ({field.name: next(values) for field in fields(part)} for _, part in _PARTS)
    return record.Entry(
        audit.RecordedAttempt(**row),
        None if activation["activation_id"] is None else record.ActivationRecord(**activation),
        None if version["content_hash"] is None else record.VersionRecord(**version),
    )


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
        """Raises `StorageUnavailableError` where the database does not answer, or takes no writes."""
        with self.read() as transaction:
            transaction.require_writable()

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """Commits at the end, or on any exception keeps nothing. One writer at a time.

        Raises `OutcomeUnknownError` where the connection broke before the COMMIT was confirmed.
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
                        "the database connection broke at the commit, so this may have been done; "
                        "the same request once more tells, and does it once at most"
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
    if isinstance(cause, psycopg.Error):
        return cause.sqlstate == "55P03"  # lock_not_available
    # The low byte is the code, the rest says which kind.
    return getattr(cause, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def _log(error: DBAPIError) -> None:
    """What the driver said, without the parameters: they hold configurations and who logs in."""
    cause, sqlstate = str(error.orig), None
    if isinstance(error.orig, psycopg.Error):
        # A DETAIL that follows the primary message may hold the whole row.
        cause, sqlstate = error.orig.diag.message_primary or cause, error.orig.sqlstate
    log.error("storage_failed", cause=cause, sqlstate=sqlstate)


class Transaction:
    """Queries, named by what they are for. Rows it returns stay readable after it ends."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def require_writable(self) -> None:
        """Raises `StorageUnavailableError` where an act would fail.

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
            raise StorageUnavailableError("the database takes no writes")
        if lacking := database.lacking_rights(self._session.connection()):
            log.error("storage_failed", cause=f"the service's role lacks {', '.join(lacking)}")
            raise StorageUnavailableError(
                "the service's database role lacks rights: run `driftback db grant` as the tables' owner"
            )

    # Versions and activations

    def active(self, persona: str) -> Activation | None:
        """The newest entry of the persona's log."""
        return self._session.scalar(
            select(Activation)
            .where(Activation.persona == persona)
            .order_by(Activation.activation_id.desc())
            .limit(1)
        )

    def all_active(self) -> Sequence[tuple[Activation, Version]]:
        """What serves now, by persona; versions without their contents."""
        newest = select(func.max(Activation.activation_id)).group_by(Activation.persona)
        rows = self._session.execute(
            select(Activation, Version)
            .join(Version, and_(Version.persona == Activation.persona, Version.number == Activation.version))
            .where(Activation.activation_id.in_(newest))
            .options(defer(Version.config_json, raiseload=True))
        )
        # Sorted here: databases differ in how they order text.
        pairs = [(activation, version) for activation, version in rows]
        return sorted(pairs, key=lambda pair: pair[0].persona)

    def newest_activation(self) -> tuple[int, str | None] | None:
        """Its id and the hash of its audit row, which differs where a restored backup gave the id again."""
        query = (
            select(Activation.activation_id, AuditRow.hash)
            .outerjoin(AuditRow, AuditRow.audit_id == Activation.audit_id)
            .order_by(Activation.activation_id.desc())
            .limit(1)
        )
        row = self._session.execute(query).one_or_none()
        return None if row is None else (row[0], row[1])

    def newest_entries(self) -> Sequence[tuple[str, record.Entry | None]]:
        """What should serve now, by persona; None where the newest activation is not of the newest act."""
        newest = select(func.max(Activation.activation_id)).group_by(Activation.persona)
        act = aliased(AuditRow)
        acted = (
            select(act.audit_id)
            .where(
                act.persona == Activation.persona,
                act.action.in_(audit.ACTIVATING),
                act.status == "succeeded",
            )
            .order_by(act.audit_id.desc())
            .limit(1)
        )
        query = (
            select(Activation.persona, AuditRow.audit_id == acted.scalar_subquery(), *_ENTRY)
            .select_from(Activation)
            .outerjoin(AuditRow, AuditRow.audit_id == Activation.audit_id)
            .outerjoin(Version, _OF_ACTIVATION)
            .where(Activation.activation_id.in_(newest))
        )
        found = self._session.execute(query)
        return [(persona, _entry(columns) if is_newest else None) for persona, is_newest, *columns in found]

    def publications(self, persona: str, number: int) -> Sequence[record.Entry]:
        """The rows of the version's publication, with what they tell of: one, unless somebody tampered."""
        query = _ENTRIES.where(
            AuditRow.action == "publish",
            AuditRow.status == "succeeded",
            AuditRow.persona == persona,
            AuditRow.to_version == number,
        )
        return [_entry(columns) for columns in self._session.execute(query)]

    def version(self, persona: str, number: int) -> Version | None:
        """One immutable version."""
        return self._session.get(Version, (persona, number))

    def versions(self, persona: str, limit: int | None = None) -> Sequence[Version]:
        """The newest versions, or all, newest first, without their contents."""
        query = select(Version).where(Version.persona == persona).order_by(Version.number.desc())
        without_content = defer(Version.config_json, raiseload=True)
        return self._session.scalars(query.limit(limit).options(without_content)).all()

    def activation_of_audit(self, audit_id: int) -> Activation | None:
        """The activation that an audit row tells of."""
        return self._session.scalar(select(Activation).where(Activation.audit_id == audit_id))

    def default_target(self, activation: Activation) -> int | None:
        """What a rollback from this activation's version restores.

        The most recently active of the older versions that was not rolled back since its latest activation.
        Going on to a newer version, as the undo of a rollback does, says nothing against the one it leaves.
        Never a newer version: whoever went from 3 to 1 did not mean 2 to be next.
        """
        earlier, left = aliased(Activation), aliased(Activation)
        rolled_back = exists().where(
            left.persona == earlier.persona,
            left.action == "rollback",
            left.from_version == earlier.version,
            left.version < left.from_version,
            left.activation_id > earlier.activation_id,
            left.activation_id <= activation.activation_id,
        )
        query = (
            select(earlier.version)
            .where(
                earlier.persona == activation.persona,
                earlier.activation_id < activation.activation_id,
                earlier.version < activation.version,
                ~rolled_back,
            )
            .order_by(earlier.activation_id.desc())
            .limit(1)
        )
        return self._session.scalar(query)

    def recent_activations(self, since: datetime) -> Sequence[Activation]:
        """The latest activation of each version that was activated since then or is active now."""
        newest = select(func.max(Activation.activation_id)).group_by(Activation.persona, Activation.version)
        active = select(func.max(Activation.activation_id)).group_by(Activation.persona)
        query = select(Activation).where(
            Activation.activation_id.in_(newest),
            or_(Activation.activated_at >= since, Activation.activation_id.in_(active)),
        )
        return self._session.scalars(query.order_by(Activation.activation_id)).all()

    def add_version(self, version: Version) -> None:
        """Adds an immutable version."""
        self._session.add(version)
        self._session.flush()

    def newest_version_number(self, persona: str) -> int:
        """0 where the persona has no version."""
        query = select(func.max(Version.number)).where(Version.persona == persona)
        return self._session.scalar(query) or 0

    def activate(self, row: audit.Attempt, audit_id: int) -> int:
        """Adds the activation that an audit row tells of; other replicas hear of it with the commit.

        Returns its id.
        """
        activation = Activation(
            persona=row.persona,
            version=row.to_version,
            from_version=row.from_version,
            action=row.action,
            activated_at=row.at,
            activated_by=row.actor,
            audit_id=audit_id,
        )
        self._session.add(activation)
        self._session.flush()
        if self._session.get_bind().dialect.name == "postgresql":
            self._session.execute(select(func.pg_notify(ACTIVATIONS_CHANNEL, "")))
        return activation.activation_id

    # Audit

    def lock_audit_head(self) -> audit.Head:
        """The end of the chain, held until the commit."""
        head = self._audit_head(for_update=True)
        if head is None:
            log.error("storage_failed", cause="audit_head has no row")
            raise StorageUnavailableError("the end of the audit chain is missing")
        return head

    def append_audit(self, attempt: audit.Attempt) -> audit.Head:
        """Adds a row to the chain; returns the new end."""
        end = self.lock_audit_head()
        head = audit.Head(end.audit_id + 1, audit.row_hash(end.audit_id + 1, attempt, end.hash))
        self._session.execute(
            insert(AuditRow).values(
                audit_id=head.audit_id, previous_hash=end.hash, hash=head.hash, **vars(attempt)
            )
        )
        self._session.execute(
            update(AuditHead).where(AuditHead.id == 1).values(audit_id=head.audit_id, hash=head.hash)
        )
        return head

    def audit_rows(
        self,
        limit: int,
        before: int | None = None,
        persona: str | None = None,
        actor: str | None = None,
        **equal: str,
    ) -> Sequence[AuditRow]:
        """Newest first, older than row `before`; `equal` holds values of further columns."""
        query = select(AuditRow).filter_by(**equal).order_by(AuditRow.audit_id.desc()).limit(limit)
        if before is not None:
            query = query.where(AuditRow.audit_id < before)
        if persona is not None:
            query = query.where(AuditRow.persona == persona)
        if actor is not None:
            query = query.where(AuditRow.actor == actor)
        return self._session.scalars(query).all()

    def entries_after(self, audit_id: int, limit: int, size: int) -> Sequence[record.Entry]:
        """Oldest first, from the row that follows: `limit` rows, or fewer once their contents have `size`."""
        query = _ENTRIES.where(AuditRow.audit_id > audit_id).limit(limit)
        entries: list[record.Entry] = []
        with self._session.execute(query.execution_options(yield_per=ENTRIES_AT_ONCE)) as found:
            for columns in found:
                entries.append(_entry(columns))
                size -= len(entries[-1].version.config_json) if entries[-1].version else 0
                if size <= 0:
                    break
        return entries

    def strays(self) -> Iterator[str]:
        """Activations and versions that no row of the audit tells of."""
        first = aliased(Activation)
        no_row = ~exists().where(AuditRow.audit_id == Activation.audit_id)
        of_another = exists().where(
            first.audit_id == Activation.audit_id, first.activation_id < Activation.activation_id
        )
        activations = select(Activation.activation_id, Activation.audit_id, no_row)
        published = exists().where(
            Activation.persona == Version.persona,
            Activation.version == Version.number,
            Activation.action == "publish",
        )
        versions = select(Version.persona, Version.number).where(~published)
        for activation, row, missing in self._session.execute(activations.where(or_(no_row, of_another))):
            why = "which is not there" if missing else "which is another's"
            yield f"activation {activation} names row {row}, {why}"
        for persona, number in self._session.execute(versions):
            yield f"no row tells of version {number} of {persona}"

    def accepted_baselines(self) -> Sequence[tuple[str, datetime]]:
        """Personas whose baseline was accepted, each with the last time."""
        newest = (
            select(func.max(AuditRow.audit_id))
            .where(AuditRow.action == audit.ACCEPT_BASELINE, AuditRow.status == "succeeded")
            .group_by(AuditRow.persona)
        )
        rows = self._session.execute(
            select(AuditRow.persona, AuditRow.at).where(AuditRow.audit_id.in_(newest))
        )
        return [(persona, at) for persona, at in rows if persona is not None]

    def audit_row(self, audit_id: int) -> AuditRow | None:
        """One row."""
        return self._session.get(AuditRow, audit_id)

    def verify_audit(self, known_head: audit.Head | None = None) -> audit.Verification:
        """Walks the whole chain and all that it tells of, in constant memory."""
        head = self._audit_head() or audit.EMPTY
        with self._session.execute(_ENTRIES.execution_options(yield_per=ENTRIES_AT_ONCE)) as found:
            return record.verify(map(_entry, found), self.strays(), head, known_head)

    def _audit_head(self, *, for_update: bool = False) -> audit.Head | None:
        query = select(AuditHead.audit_id, AuditHead.hash).where(AuditHead.id == 1)
        row = self._session.execute(query.with_for_update() if for_update else query).one_or_none()
        return None if row is None else audit.Head(row[0], row[1])

    # Idempotency

    def idempotent(self, identity: tuple[str, str], key: str) -> tuple[str, dict[str, Any]] | None:
        """Fingerprint and outcome of an earlier request of this issuer and subject with this key."""
        record = self._session.get(IdempotencyRecord, (*identity, key))
        return (record.fingerprint, json.loads(record.outcome_json)) if record else None

    def remember(self, record: IdempotencyRecord) -> None:
        """Keeps the outcome of a request for its retries."""
        self._session.add(record)
        self._session.flush()

    # Logins

    def use_token(self, jti: str, expires_at: datetime) -> bool:
        """Uses up a one-time token; False where it was used before."""
        try:
            with self._session.begin_nested():
                self._session.execute(insert(UsedToken).values(jti=jti, expires_at=expires_at))
        except IntegrityError:
            return False
        return True

    def token_used(self, jti: str) -> bool:
        """Whether the one-time token was used up."""
        return self._session.get(UsedToken, jti) is not None

    def add_session(self, browser_session: BrowserSession) -> None:
        """Keeps a login."""
        self._session.add(browser_session)
        self._session.flush()

    def session(self, cookie_hash: str) -> BrowserSession | None:
        """The login of a cookie, over or not."""
        return self._session.get(BrowserSession, cookie_hash)

    def revoke_session(self, cookie_hash: str, now: datetime) -> None:
        """Ends a login."""
        query = update(BrowserSession).where(BrowserSession.cookie_hash == cookie_hash)
        self._session.execute(query.where(BrowserSession.revoked_at.is_(None)).values(revoked_at=now))

    # People who are shut out

    def shut_out_person(self, issuer: str, subject: str) -> ShutOutPerson | None:
        """The entry of a person; None for whoever is not shut out."""
        return self._session.get(ShutOutPerson, (issuer, subject))

    def shut_out_people(self) -> Sequence[ShutOutPerson]:
        """All of them, the newest first."""
        return self._session.scalars(select(ShutOutPerson).order_by(ShutOutPerson.since.desc())).all()

    def shut_out(self, issuer: str, subject: str, now: datetime) -> None:
        """Adds a person, unless they are there, and ends every login that they have."""
        if self.shut_out_person(issuer, subject) is None:
            self._session.add(ShutOutPerson(issuer=issuer, subject=subject, since=now))
            self._session.flush()
        logins = update(BrowserSession).where(
            BrowserSession.issuer == issuer,
            BrowserSession.subject == subject,
            BrowserSession.revoked_at.is_(None),
        )
        self._session.execute(logins.values(revoked_at=now))

    def let_in(self, issuer: str, subject: str) -> None:
        """Removes a person."""
        person = (ShutOutPerson.issuer == issuer, ShutOutPerson.subject == subject)
        self._session.execute(delete(ShutOutPerson).where(*person))

    # Alerts

    def record_alerts(self, told: Sequence[dict[str, Any]]) -> int:
        """Adds alerts, or brings the known ones up to date, in the order told; returns how many were new.

        An alert is given by its columns. The number of statements does not depend on how many there are.
        """
        keys = {(alert["fingerprint"], alert["starts_at"]) for alert in told}
        columns = (Alert.fingerprint, Alert.starts_at, Alert.alert_id, Alert.status, Alert.updated_at)
        found = self._session.execute(
            select(*columns).where(tuple_(Alert.fingerprint, Alert.starts_at).in_(keys))
        )
        rows: dict[tuple[str, datetime], dict[str, Any]] = {
            (fingerprint, starts_at): {"alert_id": number, "status": status, "updated_at": updated_at}
            for fingerprint, starts_at, number, status, updated_at in found
        }
        for alert in told:
            row = rows.setdefault((alert["fingerprint"], alert["starts_at"]), dict(alert))
            since = alert["updated_at"] - row["updated_at"]
            if row["status"] == "resolved" and alert["status"] == "firing" and since < LATE_WITHIN:
                continue  # a late copy does not bring it back; what is told again later does fire again
            changed = ("status", "ends_at", "annotations_json", "updated_at")
            row.update((name, alert[name]) for name in changed)
        new = [row for row in rows.values() if "alert_id" not in row]
        if new:
            self._session.execute(insert(Alert), new)
        if known := [row for row in rows.values() if "ends_at" in row and "alert_id" in row]:
            self._session.execute(update(Alert), known)
        return len(new)

    def alerts(self, limit: int, persona: str | None = None, status: str | None = None) -> Sequence[Alert]:
        """Those that were told last, the newest start first: what goes on firing is not behind what ended."""
        query = select(Alert).order_by(Alert.updated_at.desc(), Alert.alert_id.desc()).limit(limit)
        if persona is not None:
            query = query.where(Alert.persona == persona)
        if status is not None:
            query = query.where(Alert.status == status)
        found = self._session.scalars(query).all()
        return sorted(found, key=lambda alert: (alert.starts_at, alert.alert_id), reverse=True)

    # Retention

    def forget(self, moment: InstrumentedAttribute[datetime], before: datetime, limit: int) -> int:
        """Deletes the oldest rows whose moment, one of `FORGETTABLE`, is before then; returns how many."""
        table = moment.class_
        key = [getattr(table, column.key) for column in table.__table__.primary_key]
        oldest = select(*key).where(moment < before).order_by(moment).limit(limit)
        gone = delete(table).where(tuple_(*key).in_(oldest)).returning(key[0])
        return len(self._session.execute(gone, execution_options={"synchronize_session": False}).all())

    # Convergence

    def serving(
        self, since: datetime, persona: str | None = None
    ) -> Sequence[tuple[str, str, int, datetime]]:
        """Persona, process, version and moment of each report since then."""
        query = select(
            ServingProcess.persona, ServingProcess.client, ServingProcess.version, ServingProcess.seen_at
        ).where(ServingProcess.seen_at >= since)
        if persona is not None:
            query = query.where(ServingProcess.persona == persona)
        return [(of, client, version, at) for of, client, version, at in self._session.execute(query)]

    def note_serving(
        self, reports: Sequence[tuple[str, str, int, datetime]], forget: datetime, keep: int
    ) -> None:
        """Keeps reports, in the order of persona and process, unless a newer one is there (PostgreSQL only).

        Those before `forget`, and the oldest where there are more than `keep`, go.
        """
        table = ServingProcess.__table__
        row = postgresql.insert(ServingProcess)
        newer = {"version": row.excluded.version, "seen_at": row.excluded.seen_at}
        upsert = row.on_conflict_do_update(
            index_elements=["persona", "client"],
            set_=newer,
            where=ServingProcess.seen_at <= row.excluded.seen_at,
        )
        self._session.execute(
            upsert, [dict(zip(table.columns.keys(), report, strict=True)) for report in reports]
        )
        newest_first = select(ServingProcess.seen_at).order_by(ServingProcess.seen_at.desc())
        oldest_kept = newest_first.offset(keep - 1).limit(1)
        key = (ServingProcess.persona, ServingProcess.client)
        old = or_(ServingProcess.seen_at < forget, ServingProcess.seen_at < oldest_kept.scalar_subquery())
        # What another replica is writing just now is not old: waiting for it could end in a deadlock.
        gone = select(*key).where(old).with_for_update(skip_locked=True)
        self._session.execute(delete(ServingProcess).where(tuple_(*key).in_(gone)))
