"""Browser sessions, kept on the server so that logging out ends every copy of the cookie."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import urlsplit

import structlog

from config_rollback.auth.claims import LEEWAY_SECONDS
from config_rollback.auth.csrf import form_token
from config_rollback.auth.tokens import Identity, TokenVerifier
from config_rollback.clock import Clock
from config_rollback.errors import SessionRevokedError, TokenAlreadyUsedError
from config_rollback.rollback.attempts import Actor
from config_rollback.storage.models import BrowserSession
from config_rollback.storage.store import Store, Transaction

log = structlog.get_logger(__name__)

LIFETIME = timedelta(hours=8)
CLOCK_LEEWAY = timedelta(seconds=LEEWAY_SECONDS)


@dataclass(frozen=True)
class Login:
    """An open session: who it belongs to, its cookie and the token of its forms."""

    actor: Actor
    cookie: str

    @property
    def form_token(self) -> str:
        """See `csrf.form_token`."""
        return form_token(self.cookie)


class Sessions:
    """Opens, finds and ends sessions; another `secret` knows none of them."""

    def __init__(self, store: Store, verifier: TokenVerifier, secret: str, clock: Clock) -> None:
        self._store = store
        self._verifier = verifier
        # A separate key, so that the HMAC of a cookie can never pass as the signature of a token.
        self._key = hmac.new(secret.encode(), b"driftback session", hashlib.sha256).digest()
        self._clock = clock

    def read_login_token(self, login_token: str) -> Identity:
        """The person in a one-time token. Does not use the database, because anybody can send a token.

        Raises an `AuthenticationError`.
        """
        return self._verifier.verify(login_token, "login")

    def open(self, identity: Identity, before: str | None) -> Login:
        """Uses up a one-time token, and ends the session of the cookie that the browser had `before`.

        Raises `TokenAlreadyUsedError` the second time.
        """
        with self._store.write() as transaction:
            if not transaction.use_token(identity.jti, identity.expires_at):
                raise TokenAlreadyUsedError("this login link was used before; get a new one")
            login = self._add(transaction, Actor(identity.subject, identity.role, identity.issuer), before)
        log.info("logged_in", actor=identity.subject, role=identity.role, way="link")
        return login

    def open_for(self, actor: Actor, before: str | None) -> Login:
        """The same for a person whom the OpenID provider has authenticated."""
        with self._store.write() as transaction:
            login = self._add(transaction, actor, before)
        log.info("logged_in", actor=actor.subject, role=actor.role, way="oidc")
        return login

    def _add(self, transaction: Transaction, actor: Actor, before: str | None) -> Login:
        now = self._clock()
        if before is not None:
            transaction.revoke_session(self._hash(before), now)
        secret = secrets.token_urlsafe(32)
        login = Login(actor, f"{secret}.{self._hash(secret)}")
        transaction.add_session(
            BrowserSession(
                cookie_hash=self._hash(login.cookie),
                issuer=actor.issuer,
                subject=actor.subject,
                role=actor.role,
                created_at=now,
                expires_at=now + LIFETIME,
                revoked_at=None,
            )
        )
        return login

    def check_unused(self, identity: Identity) -> None:
        """Raises what `open` would raise, and uses nothing up."""
        with self._store.read() as transaction:
            if transaction.token_used(identity.jti):
                raise TokenAlreadyUsedError("this login link was used before; get a new one")

    def check_cookie(self, cookie: str) -> None:
        """Raises `SessionRevokedError` for a cookie that was not made with this `secret`."""
        secret, _, tag = cookie.partition(".")
        if not hmac.compare_digest(self._hash(secret).encode(), tag.encode("utf-8", "surrogateescape")):
            raise SessionRevokedError("the session has ended; log in again")

    def find(self, cookie: str) -> Login:
        """The session of a cookie. Raises `SessionRevokedError` if there is none, or it has ended."""
        with self._store.read() as transaction:
            found = transaction.session(self._hash(cookie))
        now = self._clock()
        if (
            found is None
            or found.revoked_at is not None
            or found.expires_at <= now
            or found.created_at > now + CLOCK_LEEWAY  # a clock set back would bring old ones to life
        ):
            raise SessionRevokedError("the session has ended; log in again")
        return Login(Actor(found.subject, found.role, found.issuer), cookie)

    def end(self, login: Login) -> None:
        """Logs out every copy of the cookie."""
        with self._store.write() as transaction:
            transaction.revoke_session(self._hash(login.cookie), self._clock())
        log.info("logged_out", actor=login.actor.subject)

    def _hash(self, cookie: str) -> str:
        return hmac.new(self._key, cookie.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()


def cookie_name(external_url: str) -> str:
    """`__Host-` over TLS; else with the port, for all ports of a host share its cookies (RFC 6265)."""
    parts = urlsplit(external_url)
    return "__Host-driftback" if parts.scheme == "https" else f"driftback_{parts.port or 80}"
