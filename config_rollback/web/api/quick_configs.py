"""The usual fetch of a configuration, past the router and the middleware, which cost more than the answer."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from config_rollback.delivery.delivery import ActiveConfig
from config_rollback.errors import InvalidRequestError
from config_rollback.web.api.configs import CACHE_CONTROL, envelope, read_query
from config_rollback.web.dependencies import Dependencies
from config_rollback.web.http import new_request_id
from config_rollback.web.middleware import RAW_SECURITY_HEADERS

Headers = list[tuple[bytes, bytes]]

log = structlog.get_logger(__name__)


class _Prepared(NamedTuple):
    """A configuration as it is sent."""

    config: ActiveConfig
    etag: bytes
    body: bytes
    """Up to the request id."""


class _Answer(NamedTuple):
    status: int
    headers: Headers
    body: bytes


class QuickConfigs:
    """Answers requests that memory can answer at once, and passes the others to the application.

    That is: every refusal, every wait, every tag but the current one.
    """

    def __init__(self, app: ASGIApp, deps: Dependencies) -> None:
        self._app = app
        self._deps = deps
        self._tokens = [token.get_secret_value().encode() for token in deps.settings.service_tokens]
        self._active: Mapping[str, ActiveConfig] = {}
        self._prepared: dict[bytes, _Prepared] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        answer = None
        if scope["type"] == "http" and scope["method"] == "GET":
            try:
                answer = self._answer(scope)
            except Exception:  # a defect here must cost time, not the configuration
                log.exception("quick_config_failed")
        if answer is None:
            await self._app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
        await send({"type": "http.response.body", "body": answer.body})

    def _answer(self, scope: Scope) -> _Answer | None:
        """The answer, unless the application has to give it."""
        prepared = self._by_path().get(scope.get("raw_path", b""))
        if prepared is None:
            return None
        given: dict[bytes, bytes] = dict(
            reversed(scope["headers"])
        )  # if a header occurs twice, the first one counts
        if b"content-length" in given or b"transfer-encoding" in given:
            return None
        if not self._accepts(given.get(b"authorization", b"")):
            return None
        try:
            query = read_query(scope["query_string"])
        except InvalidRequestError:
            return None
        tag = given.get(b"if-none-match")
        if tag is not None and (tag != prepared.etag or query.wait):
            return None
        if query.client is not None and query.serving is not None:
            self._deps.clients.report(prepared.config.persona, query.client, query.serving)
        request_id = new_request_id(given.get(b"x-request-id", b"").decode("latin-1")).encode()
        headers = [
            (b"etag", prepared.etag),
            (b"cache-control", CACHE_CONTROL.encode()),
            (b"x-request-id", request_id),
            *RAW_SECURITY_HEADERS,
        ]
        if tag is not None:
            return _Answer(304, headers, b"")
        body = b'%b"%b"}' % (prepared.body, request_id)
        headers += [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]
        return _Answer(200, headers, body)

    def _by_path(self) -> Mapping[bytes, _Prepared]:
        """The active configuration for our client's path; other spellings go to the application."""
        active = self._deps.delivery.active
        if active is not self._active:
            self._prepared = {
                f"/v1/personas/{quote(persona, safe='')}/config".encode(): _Prepared(
                    config, config.etag.encode(), envelope(config).encode()
                )
                for persona, config in active.items()
            }
            self._active = active
        return self._prepared

    def _accepts(self, authorization: bytes) -> bool:
        """Whether it is a token of a service; each is compared, so that the time tells nothing."""
        scheme, _, token = authorization.partition(b" ")
        matches = [hmac.compare_digest(token, known) for known in self._tokens]
        return scheme.lower() == b"bearer" and any(matches)
