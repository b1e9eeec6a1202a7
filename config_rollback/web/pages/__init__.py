"""The pages, rendered on the server; they need no JavaScript. A GET changes nothing."""

from __future__ import annotations

from starlette.routing import BaseRoute

from config_rollback.web.pages import alerts, assets, audit, login, oidc, overview, rollback


def routes() -> list[BaseRoute]:
    """All pages, and the files that they need."""
    return [
        *overview.routes,
        *rollback.routes,
        *audit.routes,
        *alerts.routes,
        *login.routes,
        *oidc.routes,
        *assets.routes,
    ]
