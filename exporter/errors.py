"""The exceptions of the exporter. `answers.py` maps them to HTTP status and error code."""

from collections.abc import Mapping
from typing import Any


class ExporterError(Exception):
    """Base of everything the exporter raises on purpose. `message` and `details` go to the client."""

    def __init__(self, message: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.details = dict(details or {})


class StartError(ExporterError):
    """The exporter cannot start."""


class SettingsError(StartError):
    """A setting is missing or invalid; the message names the variable and never its value."""


class PolicyError(StartError):
    """The label policy file cannot be read or is invalid."""


class ClockError(StartError):
    """The system clock was never set."""


class StateLockedError(StartError):
    """Another exporter runs on the same state folder."""


class StateUnusableError(StartError):
    """The state folder cannot be created, read or written, or was written by a newer exporter."""


class RequestRefusedError(ExporterError):
    """A request that changed nothing."""


class InvalidHttpError(RequestRefusedError):
    """The request is not valid HTTP/1.1, or is not safe."""


class NotFoundError(RequestRefusedError):
    """No such route."""


class MethodNotAllowedError(RequestRefusedError):
    """The route exists, this method on it does not."""

    def __init__(self, *allowed: str) -> None:
        super().__init__("Method Not Allowed")
        self.allowed = ", ".join(allowed)


class TooManyConnectionsError(RequestRefusedError):
    """As many connections are open as may be (`EXPORTER_MAX_CONNECTIONS`), and all are being answered."""


class TooManyPipelinedError(RequestRefusedError):
    """A connection sent more requests ahead of the responses than may wait on it."""


class TooManyScrapesError(RequestRefusedError):
    """As many scrapes are being answered as may be at once, and none was done in time."""


class UnauthenticatedError(RequestRefusedError):
    """No bearer token was sent."""


class TokenInvalidError(RequestRefusedError):
    """The bearer token is not one of the ingest tokens."""


class InvalidJsonError(RequestRefusedError):
    """The body is not JSON (RFC 8259), is nested too deeply, or has a key twice in an object."""


class InvalidRequestError(RequestRefusedError):
    """The body is JSON, but not of the required shape."""


class LabelNotAllowedError(RequestRefusedError):
    """A journey or a reason that is not in the label policy."""


class BodyTooLargeError(RequestRefusedError):
    """The body is longer than the limit."""


class BodyIncompleteError(RequestRefusedError):
    """The body did not arrive, or not in time."""


class UnsupportedMediaTypeError(RequestRefusedError):
    """The body is not declared as JSON."""


class UnsupportedEncodingError(RequestRefusedError):
    """The body is compressed."""


class IdempotencyKeyMissingError(RequestRefusedError):
    """A batch of observations came without `Idempotency-Key`."""


class IdempotencyKeyReusedError(RequestRefusedError):
    """The same `Idempotency-Key` came with another body."""


class StorageError(ExporterError):
    """A record could not be written to the journal: nothing was counted, and the client should retry."""


class StorageBusyError(StorageError):
    """Too many records wait to be written."""


class StorageFullError(StorageError):
    """The disk or the quota is full."""


class StorageLostError(StorageError):
    """The journal was removed or replaced while it was in use."""


class StorageFailedError(StorageError):
    """The journal could not be written for another reason."""
