"""The exceptions of the exporter. `app.py` holds the one table that maps them to HTTP status and error code."""

from collections.abc import Mapping
from typing import Any


class ExporterError(Exception):
    """Base of everything the exporter raises on purpose. `details` goes to the client, so it holds no secret."""

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


class StateLocked(StartError):
    """Another exporter runs on the same state folder."""


class StateUnusable(StartError):
    """The state folder cannot be created, read or written, or was written by a newer exporter."""


class RequestRefused(ExporterError):
    """A request that changed nothing."""


class Unauthenticated(RequestRefused):
    """No bearer token was sent."""


class TokenInvalid(RequestRefused):
    """The bearer token is none of the ingest tokens."""


class InvalidJson(RequestRefused):
    """The body is not JSON (RFC 8259)."""


class InvalidRequest(RequestRefused):
    """The body is JSON, but not what the call takes."""


class LabelNotAllowed(RequestRefused):
    """A journey or a reason that the label policy does not know."""


class BodyTooLarge(RequestRefused):
    """The body is longer than the limit."""


class BodyTimeout(RequestRefused):
    """The body did not arrive in time."""


class UnsupportedMediaType(RequestRefused):
    """The body is not declared as JSON."""


class UnsupportedEncoding(RequestRefused):
    """The body is compressed."""


class IdempotencyKeyMissing(RequestRefused):
    """A batch of observations came without `Idempotency-Key`."""


class IdempotencyKeyReused(RequestRefused):
    """The same `Idempotency-Key` came with another body."""


class StorageError(ExporterError):
    """The journal did not take a record: nothing was counted, and the client should retry."""


class StorageBusy(StorageError):
    """More is waiting to be written than the exporter is willing to hold."""


class StorageFull(StorageError):
    """The disk or the quota is full."""


class StorageFailed(StorageError):
    """The journal could not be written for another reason."""
