"""Logins, blocked people, and the keys that make a repetition known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from config_rollback.storage.models import (
    BrowserSession,
    IdempotencyRecord,
    ShutOutPerson,
    UsedToken,
)
from config_rollback.storage.queries import Queries


class People(Queries):
    """Logins, blocked people, and the keys that make a repetition known."""

    def use_token(self, jti: str, expires_at: datetime) -> bool:
        """Uses up a one-time token; False if it was used before."""
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

    def shut_out_person(self, issuer: str, subject: str) -> ShutOutPerson | None:
        """The entry of a blocked person; None for everybody else."""
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

    def idempotent(self, identity: tuple[str, str], key: str) -> tuple[str, dict[str, Any]] | None:
        """Fingerprint and outcome of an earlier request of this issuer and subject with this key."""
        record = self._session.get(IdempotencyRecord, (*identity, key))
        return (record.fingerprint, json.loads(record.outcome_json)) if record else None

    def remember(self, record: IdempotencyRecord) -> None:
        """Keeps the outcome of a request for its retries."""
        self._session.add(record)
        self._session.flush()
