"""`/static`: the files that pages need, from memory: reading them takes a thread that a rollback needs."""

from __future__ import annotations

import mimetypes
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_FILES = {file.name: file.read_bytes() for file in Path(__file__).with_name("static").iterdir()}


def _route(name: str, content: bytes) -> Route:
    media_type, _ = mimetypes.guess_type(name)

    async def serve(_: Request) -> Response:
        """A file of the pages."""
        return Response(content, media_type=media_type, headers={"Cache-Control": "max-age=60"})

    return Route(f"/static/{name}", serve)


routes = [_route(name, content) for name, content in sorted(_FILES.items())]
