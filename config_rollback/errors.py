"""What can go wrong, as one tree. `app.py` maps each class to an HTTP status; `code` is public and stable.

`details` goes to the caller as it is: it never holds a secret or an echo of unvalidated input.
"""

from __future__ import annotations

from typing import Any, ClassVar


class ConfigRollbackError(Exception):
    """Base of everything this package raises on purpose."""

    code: ClassVar[str] = "internal_error"

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class SettingsError(ConfigRollbackError):
    """The settings are unusable; the message names each variable. Never reaches HTTP."""


class AuthenticationError(ConfigRollbackError):
    """The caller did not prove who they are."""

    reason: str | None = None
    """What is wrong with the credentials, for the log alone."""


class UnauthenticatedError(AuthenticationError):
    """No credentials at all."""

    code = "unauthenticated"


class TokenInvalidError(AuthenticationError):
    """A token that this service did not sign for this purpose, or that breaks a rule."""

    code = "token_invalid"


class TokenExpiredError(AuthenticationError):
    """A genuine token past its `exp`."""

    code = "token_expired"


class TokenScopeMismatchError(AuthenticationError):
    """A genuine token made for something else: a login token on the API, or the reverse."""

    code = "token_scope_mismatch"


class SessionRevokedError(AuthenticationError):
    """The session cookie was valid once: logged out, or over."""

    code = "session_revoked"


class TokenAlreadyUsedError(AuthenticationError):
    """A one-time login token, a second time."""

    code = "token_already_used"


class OidcStateMismatchError(AuthenticationError):
    """The answer of the OpenID provider belongs to no login that this browser began, or to an old one."""

    code = "oidc_state_mismatch"


class LoginFailedError(AuthenticationError):
    """The OpenID provider refused the login, or what it sent does not hold."""

    code = "login_failed"


class ForbiddenError(ConfigRollbackError):
    """A known caller without the role `ops`."""

    code = "forbidden"


class ShutOutError(ForbiddenError):
    """A known caller of whom an operator decided that they may do nothing (`driftback access`)."""

    code = "shut_out"

    def __init__(self) -> None:
        super().__init__("an operator decided that you may do nothing here")


class CsrfRejectedError(ConfigRollbackError):
    """A form that did not provably come from this service's own page in this session."""

    code = "csrf_rejected"


class RequestError(ConfigRollbackError):
    """The request itself is wrong; repeating it as it is cannot help."""


class InvalidJsonError(RequestError):
    """The body is not JSON (RFC 8259), nests too deeply, or gives a key twice in an object."""

    code = "invalid_json"


class InvalidRequestError(RequestError):
    """Well-formed, but a field is missing, unknown, or out of range."""

    code = "invalid_request"


class InvalidRedirectError(RequestError):
    """`next` does not name a page of this service."""

    code = "invalid_redirect"


class BodyTooLargeError(RequestError):
    """The body is over the limit."""

    code = "body_too_large"


class RequestTimeoutError(RequestError):
    """The body did not arrive in time."""

    code = "request_timeout"


class UnsupportedMediaTypeError(RequestError):
    """The Content-Type is not the one this route reads."""

    code = "unsupported_media_type"


class UnsupportedEncodingError(RequestError):
    """The body carries a Content-Encoding."""

    code = "unsupported_encoding"


class MethodNotAllowedError(RequestError):
    """The route exists, this method on it does not."""

    code = "method_not_allowed"


class IdempotencyKeyMissingError(RequestError):
    """A publication, rollback or acceptance without the header `Idempotency-Key`."""

    code = "idempotency_key_missing"


class RequestInProgressError(RequestError):
    """A request with the same actor and `Idempotency-Key` has not ended yet."""

    code = "request_in_progress"


class RateLimitedError(RequestError):
    """Too many calls; `details` holds the seconds to wait as `retry_after`."""

    code = "rate_limited"


class OverloadedError(ConfigRollbackError):
    """A bound of the server is reached; repeating the request later can help."""


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


class NotFoundError(RefusalError):
    """No such route, persona or version."""

    code = "not_found"


class TargetNotFoundError(RefusalError):
    """`to_version` was never published."""

    code = "target_not_found"


class NothingToRollBackError(RefusalError):
    """The target is what is active, or no earlier good version exists."""

    code = "nothing_to_rollback"


class VersionDamagedError(RefusalError):
    """The target's content is not the one that was published."""

    code = "version_damaged"


class ConfigChangedError(RefusalError):
    """`expected_version` is not active any more: somebody was faster, or the link is stale."""

    code = "config_changed_since_alert"


class IdempotencyKeyReusedError(RefusalError):
    """The key was used by the same actor for another request."""

    code = "idempotency_key_reused"


class OwnAccessError(RefusalError):
    """Whoever asks decides about their own access (`driftback access`)."""

    code = "own_access"


class TooManyShutOutError(RefusalError):
    """As many people are shut out as may be."""

    code = "too_many_shut_out"


class UnavailableError(ConfigRollbackError):
    """A dependency does not answer; repeating the request later can help."""


class AuditUnavailableError(UnavailableError):
    """The audit row could not be written, so the act was not done."""

    code = "audit_unavailable"


class StorageBusyError(UnavailableError):
    """Another writer held the database for longer than the busy timeout."""

    code = "storage_busy"


class StorageUnavailableError(UnavailableError):
    """The database failed for another reason."""

    code = "storage_unavailable"


class OutcomeUnknownError(UnavailableError):
    """The connection broke or fell silent at the commit: a retry with the same `Idempotency-Key` tells."""

    code = "outcome_unknown"


class ConfigWithheldError(UnavailableError):
    """The audit does not vouch for what is active, so it is not delivered."""

    code = "config_withheld"


class MonitoringUnavailableError(UnavailableError):
    """Prometheus does not answer, or not in time."""

    code = "monitoring_unavailable"


class LoginUnavailableError(UnavailableError):
    """The OpenID provider does not answer."""

    code = "login_unavailable"
