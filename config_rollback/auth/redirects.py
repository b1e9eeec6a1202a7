"""Where a login leads: only to a page of this service."""

from __future__ import annotations

from config_rollback.errors import InvalidRedirectError

MAX_LENGTH = 2000
CALLBACK_PATH = "/auth/callback"
"""Where the OpenID provider sends a browser back to."""
LOGIN_SECONDS = 600
"""How long a login at the provider may take."""


def check_next(path: str) -> str:
    """The path and query, if they stay on this service; raises `InvalidRedirectError`.

    Browsers read `//host` and `/\\host` as another host, and drop tabs and line breaks before they look.
    """
    inside = path.startswith("/") and not path.startswith("//")
    if not inside or "\\" in path or not path.isascii() or not path.isprintable() or len(path) > MAX_LENGTH:
        raise InvalidRedirectError("the link does not lead to a page of this service")
    return path
