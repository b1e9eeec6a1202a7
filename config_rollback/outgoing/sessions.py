"""HTTP to other services: the only place that creates sessions, and decides what the environment may change.

The environment may name a CA bundle, and a proxy to other machines. `~/.netrc` is never read: an entry there
would replace the given token or password. A proxy to this machine is never used, and no redirect is followed.
"""

from __future__ import annotations

import ipaddress
import os
import time
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.utils import get_environ_proxies

FETCH_SECONDS = 3.0
MAX_DOCUMENT_BYTES = 1_048_576
CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
"""The first that is set names the file of the authorities that are trusted."""


def request(method: str, url: str, **arguments: Any) -> requests.Response:
    """`requests.request` in a new session; raises the same errors."""
    with requests.Session() as session:
        prepare(session, url)
        return session.request(method, url, allow_redirects=False, **arguments)


def prepare(session: requests.Session, url: str) -> None:
    """Gives a new session, which is for `url`, what the environment may change."""
    session.trust_env = False
    session.verify = next((bundle for name in CA_VARIABLES if (bundle := os.environ.get(name))), True)
    if not _is_this_machine(urlsplit(url).hostname or ""):
        session.proxies.update(get_environ_proxies(url))


def fetch(url: str, method: str = "GET", seconds: float | None = None, **arguments: Any) -> bytes:
    """A small document. Raises `requests.RequestException`, or `ValueError` for a large one or a redirect.

    It takes at most `seconds` (by default `FETCH_SECONDS`), plus one silence of that length.
    """
    seconds = FETCH_SECONDS if seconds is None else seconds
    deadline = time.monotonic() + seconds
    with request(method, url, timeout=seconds, stream=True, **arguments) as answer:
        answer.raise_for_status()
        if answer.is_redirect:
            raise ValueError("a redirect")
        body = bytearray()
        for part in answer.iter_content(256):  # small: a part may come byte by byte
            body += part
            if len(body) > MAX_DOCUMENT_BYTES:
                raise ValueError("too large")
            if time.monotonic() > deadline:
                raise requests.Timeout("the document comes too slowly")
    return bytes(body)


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
