"""What can go wrong, as one tree: each error with its public code, HTTP status, meaning and page.

docs/reference.md and `/openapi.json` are made from it. `details` goes to the caller as it is: it never holds
a secret or an echo of unvalidated input.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

NextStep = Literal["log in", "open again", "open the form again", "leave"]


class ConfigRollbackError(Exception):
    """Base of everything this package raises on purpose."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "This did not work"
    """Heading of the page about it."""
    advice: ClassVar[str] = "Nothing was changed."
    """What the page says below the message; a format of `details`."""
    next_step: ClassVar[NextStep] = "open the form again"
    """The first button of the page."""

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    @property
    def headers(self) -> Mapping[str, str]:
        """Of the HTTP response."""
        return {}


def with_codes(base: type[ConfigRollbackError] = ConfigRollbackError) -> Iterator[type[ConfigRollbackError]]:
    """Every error that a caller can be told, below `base`."""
    for kind in base.__subclasses__():
        if "code" in vars(kind):
            yield kind
        yield from with_codes(kind)


class SettingsError(ConfigRollbackError):
    """The settings are unusable; the message names each variable. Never reaches HTTP."""


class AuthenticationError(ConfigRollbackError):
    """The caller did not prove who they are."""

    status = 401
    advice = ""
    next_step = "log in"

    reason: str | None = None
    """What is wrong with the credentials, for the log alone."""

    @property
    def headers(self) -> Mapping[str, str]:
        """RFC 9110, section 15.5.2."""
        return {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}


class UnauthenticatedError(AuthenticationError):
    """No credentials at all."""

    code = "unauthenticated"
    title = "Log in first"


class TokenInvalidError(AuthenticationError):
    """A token that this service did not sign for this purpose, or that breaks a rule."""

    code = "token_invalid"
    title = "This login link is not valid"


class TokenExpiredError(AuthenticationError):
    """A genuine token past its `exp`."""

    code = "token_expired"
    title = "This login link is expired"


class TokenScopeMismatchError(AuthenticationError):
    """A genuine token made for something else: a login token on the API, or the reverse."""

    code = "token_scope_mismatch"
    title = "This login link is not valid"


class SessionRevokedError(AuthenticationError):
    """The session cookie was valid once: logged out, or over."""

    code = "session_revoked"
    title = "Your session is over"
    advice = "Nothing was changed."


class TokenAlreadyUsedError(AuthenticationError):
    """A one-time login token, a second time."""

    code = "token_already_used"
    status = 409
    title = "This login link was used before"


class OidcStateMismatchError(AuthenticationError):
    """The answer of the OpenID provider belongs to no login that this browser began, or to an old one."""

    code = "oidc_state_mismatch"
    status = 400
    title = "This login was not begun here"


class LoginFailedError(AuthenticationError):
    """The OpenID provider refused the login, or what it sent does not hold."""

    code = "login_failed"
    title = "The login did not work"


class ForbiddenError(ConfigRollbackError):
    """A known caller without the role `ops`."""

    code = "forbidden"
    status = 403
    title = "You may not do this"
    advice = "Nothing was changed. Log in as somebody who has the role. This attempt is in the audit."
    next_step = "leave"


class CsrfRejectedError(ConfigRollbackError):
    """A form that did not provably come from this service's own page in this session."""

    code = "csrf_rejected"
    status = 403
    title = "This form was refused"


class RequestError(ConfigRollbackError):
    """The request itself is wrong; repeating it as it is cannot help."""


class InvalidJsonError(RequestError):
    """The body is not JSON (RFC 8259), nests too deeply, or gives a key twice in an object."""

    code = "invalid_json"
    status = 400


class InvalidRequestError(RequestError):
    """Well-formed, but a field is missing, unknown, or out of range."""

    code = "invalid_request"
    status = 422
    title = "This was not accepted"


class InvalidRedirectError(RequestError):
    """`next` does not name a page of this service."""

    code = "invalid_redirect"
    status = 400


class BodyTooLargeError(RequestError):
    """The body is over the limit."""

    code = "body_too_large"
    status = 413

    @property
    def headers(self) -> Mapping[str, str]:
        """The rest of the body is not waited for."""
        return {"Connection": "close"}


class RequestTimeoutError(RequestError):
    """The body did not arrive in time."""

    code = "request_timeout"
    status = 408

    @property
    def headers(self) -> Mapping[str, str]:
        """The rest of the body is not waited for."""
        return {"Connection": "close"}


class UnsupportedMediaTypeError(RequestError):
    """The Content-Type is not the one this route reads."""

    code = "unsupported_media_type"
    status = 415


class UnsupportedEncodingError(RequestError):
    """The body carries a Content-Encoding."""

    code = "unsupported_encoding"
    status = 415


class MethodNotAllowedError(RequestError):
    """The route exists, this method on it does not."""

    code = "method_not_allowed"
    status = 405


class IdempotencyKeyMissingError(RequestError):
    """A publication, rollback or acceptance without the header `Idempotency-Key`."""

    code = "idempotency_key_missing"
    status = 400


class RequestInProgressError(RequestError):
    """A request with the same actor and `Idempotency-Key` has not ended yet."""

    code = "request_in_progress"
    status = 409
    title = "This is being done already"
    advice = "Open the page again in a moment: it says what came of it."


class RateLimitedError(RequestError):
    """Too many calls; `details` holds the seconds to wait as `retry_after`."""

    code = "rate_limited"
    status = 429
    title = "Too many requests"
    advice = "Nothing was changed. Try again in {retry_after} seconds."
    next_step = "open again"

    @property
    def headers(self) -> Mapping[str, str]:
        """When to call again."""
        return {"Retry-After": str(self.details["retry_after"])}


class OverloadedError(ConfigRollbackError):
    """A bound of the server is reached; repeating the request later can help."""

    status = 429
    next_step = "open again"

    @property
    def headers(self) -> Mapping[str, str]:
        """When to call again."""
        return {"Retry-After": "1"}


class TooManyConnectionsError(OverloadedError):
    """As many connections are open as may be (`CONFIG_ROLLBACK_MAX_CONNECTIONS`), all being answered."""

    code = "too_many_connections"


class TooManyPipelinedError(OverloadedError):
    """A connection sent more requests at once than may wait for their turn on it."""

    code = "too_many_pipelined"


class TooManyRequestsError(OverloadedError):
    """As many requests are being answered as connections may be open."""

    code = "too_many_requests"


class TooManyPollsError(OverloadedError):
    """Three quarters of the connections that may be open wait for a change already."""

    code = "too_many_polls"


class RefusalError(ConfigRollbackError):
    """A decision against the act, made inside the transaction and audited there."""

    status = 409


class NotFoundError(RefusalError):
    """No such route, persona or version."""

    code = "not_found"
    status = 404
    title = "There is nothing here"
    next_step = "leave"


class TargetNotFoundError(RefusalError):
    """`to_version` was never published."""

    code = "target_not_found"
    status = 404
    title = "That version does not exist"


class NothingToRollBackError(RefusalError):
    """The target is what is active, or no earlier good version exists."""

    code = "nothing_to_rollback"
    title = "There is nothing to roll back"


class VersionDamagedError(RefusalError):
    """The target's content is not the one that was published."""

    code = "version_damaged"
    title = "That version was changed since it was published"


class ConfigChangedError(RefusalError):
    """`expected_version` is not active any more: somebody was faster, or the link is stale."""

    code = "config_changed_since_alert"
    title = "Somebody was faster: nothing was changed"
    advice = "Version {active_version} serves now."


class IdempotencyKeyReusedError(RefusalError):
    """The key was used by the same actor for another request."""

    code = "idempotency_key_reused"
    status = 422
    title = "This form was sent before with other contents"
    advice = "Nothing was changed this time. Open the page again: it says what came of the first time."


class OwnAccessError(RefusalError):
    """Whoever asks decides about their own access (`driftback access`)."""

    code = "own_access"


class TooManyShutOutError(RefusalError):
    """As many people are shut out as may be."""

    code = "too_many_shut_out"


class ShutOutError(ForbiddenError, RefusalError):
    """A known caller of whom an operator decided that they may do nothing (`driftback access`)."""

    code = "shut_out"
    title = "You are shut out"
    advice = "Nothing was changed."

    def __init__(self) -> None:
        super().__init__("an operator decided that you may do nothing here")


class UnavailableError(ConfigRollbackError):
    """A dependency does not answer; repeating the request later can help."""

    status = 503
    advice = "Nothing was changed. Look at the service's log, then try again."
    next_step = "open again"


class AuditUnavailableError(UnavailableError):
    """The audit row could not be written, so the act was not done."""

    code = "audit_unavailable"
    title = "Refused: the audit record cannot be written"


class StorageBusyError(UnavailableError):
    """Another writer held the database for longer than the busy timeout."""

    code = "storage_busy"
    title = "The database is busy"


class StorageUnavailableError(UnavailableError):
    """The database failed for another reason."""

    code = "storage_unavailable"
    title = "The database does not answer"


class OutcomeUnknownError(UnavailableError):
    """The connection broke or fell silent at the commit: a retry with the same `Idempotency-Key` tells."""

    code = "outcome_unknown"
    title = "It is not certain whether this was done"
    advice = "Open the persona again: the page says which version serves, and its history who did what."


class ConfigWithheldError(UnavailableError):
    """The audit does not vouch for what is active, so it is not delivered."""

    code = "config_withheld"


class MonitoringUnavailableError(UnavailableError):
    """Prometheus does not answer, or not in time."""

    code = "monitoring_unavailable"


class LoginUnavailableError(UnavailableError):
    """The OpenID provider does not answer."""

    code = "login_unavailable"
    title = "The login provider does not answer"
