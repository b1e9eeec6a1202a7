"""What the parts of a transaction have in common."""

from __future__ import annotations

from sqlalchemy.orm import Session


class Queries:
    """Queries about one subject, named by what they are for. Rows they return stay readable afterwards."""

    def __init__(self, session: Session) -> None:
        self._session = session
