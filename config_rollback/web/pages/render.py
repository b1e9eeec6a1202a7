"""Templates, and how moments and differences are shown."""

from __future__ import annotations

from datetime import datetime
from functools import cache
from typing import Any
from urllib.parse import quote, urlencode

import jinja2

from config_rollback.clock import isoformat
from config_rollback.errors import InvalidRequestError
from config_rollback.evidence.inbox import unheard
from config_rollback.personas.diff import Piece
from config_rollback.visible import visible
from config_rollback.web.query import number_of

CONTEXT_CHARACTERS = 160
"""How much unchanged text is shown on either side of a change."""

_UNITS = ((86_400, "day"), (3600, "hour"), (60, "minute"))


def html(template: str, **context: Any) -> str:
    """The template with that context."""
    return _environment().get_template(template).render(context)


def rollback_path(persona: str, **query: str | int | None) -> str:
    """The persona's rollback page; any character of the name is safe."""
    given = {name: value for name, value in query.items() if value is not None}
    return f"/rollback/{quote(persona, safe='')}" + (f"?{urlencode(given)}" if given else "")


def ago(moment: datetime, now: datetime) -> str:
    """`3 minutes ago`, in the largest unit that fits."""
    seconds = int((now - moment).total_seconds())
    for size, name in _UNITS:
        if seconds >= size:
            count = seconds // size
            return f"{count} {name}{'s' if count > 1 else ''} ago"
    return "just now"


def version_number(label: str) -> int | None:
    """The version that an alert's label names; None for one that is no number, such as `other`."""
    try:
        return number_of(label, "config_version")
    except InvalidRequestError:
        return None


def shortened(pieces: list[Piece]) -> list[Piece]:
    """The pieces, with long unchanged runs cut to what surrounds the changes."""
    result = []
    for position, piece in enumerate(pieces):
        text = piece.text
        if piece.kind == "same" and len(text) > 3 * CONTEXT_CHARACTERS:
            head = "" if position == 0 else text[:CONTEXT_CHARACTERS]
            tail = "" if position == len(pieces) - 1 else text[-CONTEXT_CHARACTERS:]
            text = f"{head} […] {tail}"
        result.append(Piece(piece.kind, text))
    return result


def _shown(value: Any) -> Any:
    """What a template writes: text with invisible characters shown, and markup unchanged.

    A field that is sent back holds its own value: `value="{{ text|e }}"`, which is markup.
    """
    return visible(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        finalize=_shown,
        loader=jinja2.PackageLoader("config_rollback.web", "pages/templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        ago=ago, isoformat=isoformat, shortened=shortened, version_number=version_number
    )
    environment.tests["unheard"] = unheard
    environment.globals.update(rollback_path=rollback_path)
    return environment
