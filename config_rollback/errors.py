"""All errors, as one tree: each with its public code, HTTP status, meaning and page text.

docs/reference.md and `/openapi.json` are made from it. `details` goes to the caller unchanged: it never
contains a secret or unvalidated input.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal, TypedDict, Unpack

NextStep = Literal["log in", "open again", "open the form again", "leave"]


class Declared(TypedDict, total=False):
    """What a class of errors says in its head, see `ConfigRollbackError`."""

    code: str
    status: int
    title: str
    advice: str
    next_step: NextStep
    headers: Mapping[str, str]


class ConfigRollbackError(Exception):
    """Base of everything this package raises on purpose."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "This failed"
    """Heading of its page."""
    advice: ClassVar[str] = "Nothing was changed."
    """Text of the page below the message; a format string for `details`."""
    next_step: ClassVar[NextStep] = "open the form again"
    """The first button of the page."""
    headers: Mapping[str, str] = MappingProxyType({})
    """Of the HTTP response."""

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    def __init_subclass__(cls, **declared: Unpack[Declared]) -> None:
        for name, value in declared.items():
            setattr(cls, name, value)


def with_codes(base: type[ConfigRollbackError] = ConfigRollbackError) -> Iterator[type[ConfigRollbackError]]:
    """Every error below `base` that a caller can get."""
    for kind in base.__subclasses__():
        if "code" in vars(kind):
            yield kind
        yield from with_codes(kind)


class SettingsError(ConfigRollbackError):
    """The settings are unusable; the message names each variable. Never reaches HTTP."""


class AuthenticationError(
    ConfigRollbackError,
    status=401,
    headers={"WWW-Authenticate": "Bearer"},
    advice="",
    next_step="log in",
):
    """The caller is not authenticated."""

    reason: str | None = None
    """What is wrong with the credentials. Only the log shows it."""


class UnauthenticatedError(AuthenticationError, code="unauthenticated", title="Log in first"):
    """No credentials at all."""


class TokenInvalidError(AuthenticationError, code="token_invalid", title="This login link is not valid"):
    """A token that this service did not sign for this purpose, or that breaks a rule."""


class TokenExpiredError(AuthenticationError, code="token_expired", title="This login link has expired"):
    """A genuine token past its `exp`."""


class TokenScopeMismatchError(
    AuthenticationError, code="token_scope_mismatch", title="This login link is not valid"
):
    """A genuine token made for something else: a login token on the API, or the reverse."""


class SessionRevokedError(
    AuthenticationError, code="session_revoked", title="Your session has ended", advice="Nothing was changed."
):
    """The session was valid once, and has ended."""


class TokenAlreadyUsedError(
    AuthenticationError, code="token_already_used", status=409, title="This login link was used before"
):
    """A one-time login token was used a second time."""


class OidcStateMismatchError(
    AuthenticationError,
    code="oidc_state_mismatch",
    status=400,
    title="This login was started in another browser",
):
    """The response of the OpenID provider belongs to a login of another browser, or to an old one."""


class LoginFailedError(AuthenticationError, code="login_failed", title="The login failed"):
    """The OpenID provider refused the login, or its response is not valid."""


class ForbiddenError(
    ConfigRollbackError,
    code="forbidden",
    status=403,
    title="You may not do this",
    advice="Nothing was changed. Ask somebody who has the role. This attempt is in the audit log.",
    next_step="leave",
):
    """A known caller without the role `ops`."""


class CsrfRejectedError(ConfigRollbackError, code="csrf_rejected", status=403, title="This form was refused"):
    """A form that does not come from this service's own page in this session."""


class RequestError(ConfigRollbackError):
    """The request itself is wrong; repeating it as it is cannot help."""


class InvalidJsonError(RequestError, code="invalid_json", status=400):
    """The body is not JSON (RFC 8259), is nested too deeply, or has a key twice in an object."""


class InvalidRequestError(RequestError, code="invalid_request", status=422, title="This was not accepted"):
    """Well-formed, but a field is missing, unknown, or out of range."""


class MalformedRequestError(InvalidRequestError, status=400):
    """The request is not valid HTTP/1.1, or is not safe."""


class InvalidRedirectError(RequestError, code="invalid_redirect", status=400):
    """`next` does not name a page of this service."""


class BodyTooLargeError(RequestError, code="body_too_large", status=413, headers={"Connection": "close"}):
    """The body is over the limit."""


class RequestTimeoutError(RequestError, code="request_timeout", status=408, headers={"Connection": "close"}):
    """The body did not arrive in time."""


class UnsupportedMediaTypeError(RequestError, code="unsupported_media_type", status=415):
    """The Content-Type is not the one this route reads."""


class UnsupportedEncodingError(RequestError, code="unsupported_encoding", status=415):
    """The body has a Content-Encoding."""


class MethodNotAllowedError(RequestError, code="method_not_allowed", status=405):
    """The route exists, but does not allow this method."""


class IdempotencyKeyMissingError(RequestError, code="idempotency_key_missing", status=400):
    """A publication, rollback or acceptance without the header `Idempotency-Key`."""


class RequestInProgressError(
    RequestError,
    code="request_in_progress",
    status=409,
    title="This is already in progress",
    advice="Open the page again in a moment: it shows the result.",
):
    """A request with the same actor and `Idempotency-Key` is still running."""


class RateLimitedError(
    RequestError,
    code="rate_limited",
    status=429,
    title="Too many requests",
    advice="Nothing was changed. Try again in {retry_after} seconds.",
    next_step="open again",
):
    """Too many calls; `details` holds the seconds to wait as `retry_after`."""

    def __init__(self, message: str, *, limit: str, retry_after: int) -> None:
        super().__init__(message, limit=limit, retry_after=retry_after)
        self.headers = {"Retry-After": str(retry_after)}


class OverloadedError(ConfigRollbackError, status=429, next_step="open again", headers={"Retry-After": "1"}):
    """A bound of the server is reached; repeating the request later can help."""


class TooManyConnectionsError(OverloadedError, code="too_many_connections"):
    """As many connections are open as may be (`CONFIG_ROLLBACK_MAX_CONNECTIONS`), and all are in use."""


class TooManyPipelinedError(OverloadedError, code="too_many_pipelined"):
    """A connection sent more requests ahead of the responses than may wait on it."""


class TooManyRequestsError(OverloadedError, code="too_many_requests"):
    """The service is answering as many requests as it may."""


class TooManyPollsError(OverloadedError, code="too_many_polls"):
    """Three quarters of the allowed connections already wait for a change."""


class RefusalError(ConfigRollbackError, status=409):
    """The act was refused by a decision inside the transaction, which is audited there."""


class NotFoundError(
    RefusalError, code="not_found", status=404, title="This was not found", next_step="leave"
):
    """No such route, persona or version."""


class TargetNotFoundError(
    RefusalError, code="target_not_found", status=404, title="That version does not exist"
):
    """`to_version` was never published."""


class NothingToRollBackError(RefusalError, code="nothing_to_rollback", title="There is nothing to roll back"):
    """The target is active already, or there is no earlier good version."""


class VersionDamagedError(
    RefusalError, code="version_damaged", title="That version was changed after it was published"
):
    """The target's content was changed after it was published."""


class ConfigChangedError(
    RefusalError,
    code="config_changed_since_alert",
    title="Somebody else was faster: nothing was changed",
    advice="Version {active_version} is active now.",
):
    """`expected_version` is not active any more: somebody was faster, or the link is stale."""


class IdempotencyKeyReusedError(
    RefusalError,
    code="idempotency_key_reused",
    status=422,
    title="This form was sent before with other content",
    advice="Nothing was changed this time. Open the page again: it shows the result of the first time.",
):
    """The key was used by the same actor for another request."""


class OwnAccessError(RefusalError, code="own_access"):
    """The caller tried to decide about their own access (`driftback access`)."""


class TooManyShutOutError(RefusalError, code="too_many_shut_out"):
    """As many people are blocked as may be."""


class ShutOutError(ForbiddenError, RefusalError):
    """A known caller whom an operator has blocked (`driftback access`)."""

    code = "shut_out"
    title = "You are blocked"
    advice = "Nothing was changed."

    def __init__(self) -> None:
        super().__init__("an operator has blocked you")


class UnavailableError(
    ConfigRollbackError,
    status=503,
    advice="Nothing was changed. Look at the service's log, then try again.",
    next_step="open again",
):
    """A dependency cannot be reached; repeating the request later can help."""


class AuditUnavailableError(
    UnavailableError, code="audit_unavailable", title="Refused: the audit row cannot be written"
):
    """The audit row could not be written, so the act was not done."""


class StorageBusyError(UnavailableError, code="storage_busy", title="The database is busy"):
    """Another writer held the database for longer than the busy timeout."""


class StorageUnavailableError(
    UnavailableError, code="storage_unavailable", title="The database cannot be reached"
):
    """The database failed for another reason."""


class OutcomeUnknownError(
    UnavailableError,
    code="outcome_unknown",
    title="The outcome is unknown",
    advice="Open the persona again: the page shows which version is active, and who did what.",
):
    """The connection failed at the commit. A retry with the same `Idempotency-Key` gets the result."""


class ConfigWithheldError(UnavailableError, code="config_withheld"):
    """The audit log does not confirm the active version, so it is not delivered."""


class MonitoringUnavailableError(UnavailableError, code="monitoring_unavailable"):
    """Prometheus cannot be reached, or did not answer in time."""


class LoginUnavailableError(
    UnavailableError, code="login_unavailable", title="The login provider cannot be reached"
):
    """The OpenID provider cannot be reached."""
