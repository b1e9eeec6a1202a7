"""How both clients talk to their server: a base URL, a token, one request after the other.

http.client takes nothing from the environment, neither a proxy nor a .netrc: a request goes where the service
says, with the token that it gave. SSL_CERT_FILE and SSL_CERT_DIR may name the certificates that `ssl` trusts.
"""

import ssl
from http.client import HTTPConnection, HTTPException, HTTPMessage, HTTPSConnection
from typing import NamedTuple
from urllib.parse import urlsplit


class Answer(NamedTuple):
    """What a server answered."""

    status: int
    headers: HTTPMessage
    body: bytes


def connection_to(url: str, seconds: float) -> tuple[HTTPConnection, str]:
    """A connection, not opened yet, that waits `seconds` for each step, and the path that the URL adds.

    Raises ValueError for a URL that no request can be sent to as it says.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"url: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("url must begin with http:// or https:// and name a host")
    if "@" in parts.netloc:
        raise ValueError("url holds a user or a password: the token alone is sent, so leave them out")
    if parts.query or parts.fragment:
        raise ValueError("url ends with a query (?) or a fragment (#): only a path may follow the host")
    if port == 0 or not parts.path.isascii() or not parts.path.isprintable() or " " in parts.path:
        raise ValueError("url names port 0, or holds a character in its path that must be percent-encoded")
    path = parts.path.rstrip("/")
    try:
        if parts.scheme == "http":
            return HTTPConnection(parts.netloc, timeout=seconds), path
        context = ssl.create_default_context()
        return HTTPSConnection(parts.netloc, timeout=seconds, context=context), path
    except HTTPException as error:
        raise ValueError(f"url: {error}") from error


def authorization(token: str) -> str:
    """The value of the header. Raises ValueError for a token that no header can carry."""
    if not (token and token.isascii() and token.isprintable() and token == token.strip()):
        raise ValueError("token holds characters that no header can carry: is it empty, or a line end in it?")
    return f"Bearer {token}"


def ask(
    connection: HTTPConnection,
    method: str,
    target: str,
    headers: dict[str, str],
    body: bytes | None,
    limit: int,
) -> Answer:
    """Send a request and read the answer, `limit` bytes of its body at most: what is longer is cut off."""
    connection.request(method, target, body, headers)
    with connection.getresponse() as response:
        content = response.read(limit)
        if not response.isclosed():
            connection.close()
        return Answer(response.status, response.headers, content)
