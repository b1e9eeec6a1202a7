"""An export of the audit (JSON Lines), checked without the database that it came from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import msgspec

from config_rollback import audit
from config_rollback.audit import Head, RecordedAttempt, Verification


def rows(lines: Iterable[bytes]) -> Iterator[RecordedAttempt]:
    """The rows of an export; raises `ValueError` for a line that is none."""
    for number, line in enumerate(lines, 1):
        try:
            content = msgspec.json.decode(line, type=dict[str, Any])
            if content.keys() != set(audit.FIELDS):
                raise ValueError("it has other fields than a row")
            yield msgspec.convert(content, RecordedAttempt)
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
            raise ValueError(f"line {number}: {error}") from None


def verify(lines: Iterable[bytes], known_head: Head | None = None) -> Verification:
    """Walks an export; rows cut off its end are found by a head kept elsewhere, and by nothing else.

    One that begins late is taken at its word for what its first row follows. Raises `ValueError`.
    """
    walked = rows(lines)
    first = next(walked, None)
    if first is None:
        return audit.verify((), None, known_head)
    late = first.audit_id > 1
    start = Head(first.audit_id - 1, first.previous_hash) if late else Head(0, audit.GENESIS)
    if known_head is not None and known_head.audit_id < start.audit_id:
        raise ValueError(f"the export begins at row {first.audit_id}, after the known head")
    return audit.verify(chain((first,), walked), None, known_head, start)
