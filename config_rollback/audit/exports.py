"""An export of the audit (JSON Lines), checked without the database that it came from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import datetime
from itertools import chain
from typing import Any

import msgspec

from config_rollback.audit import chain as audit
from config_rollback.audit import record
from config_rollback.audit.chain import Head, RecordedAttempt, Verification
from config_rollback.audit.record import Entry
from config_rollback.clock import isoformat
from exporter.strict import check_json

_TOLD = ("activation", "version")
_FIELDS = {*audit.FIELDS, *_TOLD}


def line(item: Entry | str) -> bytes:
    """An entry, or the name of an activation or version that has no row."""
    content: dict[str, Any] = {"stray": item}
    if isinstance(item, Entry):
        content = asdict(item)
        content = content.pop("row") | content
    return msgspec.json.encode(_spelled(content)) + b"\n"


def _spelled(content: dict[str, Any]) -> dict[str, Any]:
    """Moments as they are hashed."""
    return {
        name: isoformat(value)
        if isinstance(value, datetime)
        else _spelled(value)
        if isinstance(value, dict)
        else value
        for name, value in content.items()
    }


def read(lines: Iterable[bytes]) -> Iterator[Entry | RecordedAttempt | str]:
    """The entries in the lines of an export; raises `ValueError` for an invalid line.

    An export from before the second scheme of the chain has rows alone.
    """
    for number, text in enumerate(lines, 1):
        try:
            check_json(text)  # so every reader reads what was verified
            content = msgspec.json.decode(text, type=dict[str, Any])
            if content.keys() == {"stray"}:
                yield str(content["stray"])
                continue
            row = {name: value for name, value in content.items() if name in audit.FIELDS}
            if content.keys() == set(audit.FIRST_FIELDS) and str(content["hash"]).startswith("1:"):
                yield msgspec.convert(row, RecordedAttempt)
                continue
            if content.keys() != _FIELDS:
                raise ValueError("its fields are not those of an audit row")
            yield msgspec.convert({"row": row} | {name: content[name] for name in _TOLD}, Entry)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None


def verify(lines: Iterable[bytes], known_head: Head | None = None) -> Verification:
    """Walks an export; rows cut off its end are found by a head kept elsewhere, and by nothing else.

    One that begins late is taken at its word for what its first row follows. Raises `ValueError`.
    """
    strays: list[str] = []

    def entries() -> Iterator[Entry | RecordedAttempt]:
        for item in read(lines):
            if isinstance(item, str):
                strays.append(item)
            else:
                yield item

    walked = entries()
    first = next(walked, None)
    if first is None and not strays and known_head is None:
        raise ValueError("the file is empty: there are no rows to verify")
    if first is None:
        return record.verify((), strays, None, known_head)
    row = first.row if isinstance(first, Entry) else first
    late = row.audit_id > 1
    start = Head(row.audit_id - 1, row.previous_hash) if late else audit.EMPTY
    if known_head is not None and known_head.audit_id < start.audit_id:
        raise ValueError(f"the export begins at row {row.audit_id}, after the known head")
    return record.verify(chain((first,), walked), strays, None, known_head, start)
