"""An export of the audit (JSON Lines), checked without the database that it came from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import chain

import msgspec

from config_rollback import audit
from config_rollback.audit import Head, Verification


class ExportedRow(msgspec.Struct, forbid_unknown_fields=True):
    """A line of an export."""

    audit_id: int
    at: datetime
    request_id: str
    actor: str
    role: str
    action: str
    persona: str | None
    from_version: int | None
    to_version: int | None
    status: str
    error_code: str | None
    reason: str | None
    alert: str | None
    previous_hash: str
    hash: str


def rows(lines: Iterable[bytes]) -> Iterator[ExportedRow]:
    """The rows of an export; raises `ValueError` for a line that is none."""
    decoder = msgspec.json.Decoder(ExportedRow)
    for number, line in enumerate(lines, 1):
        try:
            yield decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
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


def parse_head(text: str) -> Head:
    """`<audit_id>:<hash>`; raises `ValueError`."""
    number, _, digest = text.partition(":")
    if not (number.isdecimal() and digest):
        raise ValueError("a head is <audit_id>:<hash>")
    return Head(int(number), digest)
