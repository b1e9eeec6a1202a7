"""Forms must come from this service's own page, in the same session."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from urllib.parse import urlsplit

from config_rollback.errors import CsrfRejectedError


def check_origin(headers: Mapping[str, str], external_url: str) -> None:
    """Raises `CsrfRejectedError` unless the browser says that the form is the service's own.

    The rule of Go 1.25's `CrossOriginProtection`: Sec-Fetch-Site decides, else Origin must be the host that
    was asked; stricter in that a request with neither header is refused, and so is `same-site`.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        if site in ("same-origin", "none"):
            return
        raise CsrfRejectedError("this form was sent from another site")
    origin = headers.get("origin")
    if origin is None:
        raise CsrfRejectedError("the request does not say which page it comes from")
    if origin != _origin(external_url) and not _is_of_host(origin, headers.get("host")):
        raise CsrfRejectedError("this form was sent from another site")


def form_token(cookie: str) -> str:
    """The token that forms of this session carry; it cannot be turned back into the cookie."""
    return hmac.new(cookie.encode(), b"driftback form token", hashlib.sha256).hexdigest()


def check_form_token(cookie: str, given: str) -> None:
    """Raises `CsrfRejectedError` unless the form was made in this session."""
    if not hmac.compare_digest(form_token(cookie).encode(), given.encode("utf-8", "surrogateescape")):
        raise CsrfRejectedError("this form belongs to another session; open the page again")


def _is_of_host(origin: str, host: str | None) -> bool:
    try:
        return urlsplit(origin).netloc == host
    except ValueError:  # it is no URL
        return False


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
