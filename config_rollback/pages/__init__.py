"""The pages, rendered on the server; they need no JavaScript. A GET changes nothing."""

from __future__ import annotations

from pathlib import Path

from starlette.routing import BaseRoute, Mount
from starlette.staticfiles import StaticFiles

from config_rollback.pages import alerts, audit, login, oidc, overview, rollback


def routes() -> list[BaseRoute]:
    """All pages, and the files that they need."""
    static = StaticFiles(directory=Path(__file__).with_name("static"))
    return [
        *overview.routes,
        *rollback.routes,
        *audit.routes,
        *alerts.routes,
        *login.routes,
        *oidc.routes,
        Mount("/static", static),
    ]
