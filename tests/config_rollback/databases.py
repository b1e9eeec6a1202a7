"""The two kinds of database, as another client than the service sees them."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any, Protocol

import psycopg

from tests.support.postgres import OWNER, Server

Content = dict[str, list[tuple[Any, ...]]]


class Database(Protocol):
    """A database that a service may use."""

    kind: str
    """`sqlite` or `postgresql`."""
    url: str

    def execute(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Runs one statement as the tables' owner, and commits. A parameter is written `?`."""

    def content(self) -> Content:
        """Every row of every table, to see that nothing changed."""

    def disable_triggers(self) -> None:
        """Does what an intruder with the owner's rights would do first."""


class Sqlite:
    """A file."""

    kind = "sqlite"

    def __init__(self, file: Path) -> None:
        self.file = file
        self.url = f"sqlite:///{file}"

    def execute(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        connection = sqlite3.connect(self.file, timeout=10)
        try:
            with connection:
                return connection.execute(sql, parameters).fetchall()
        finally:
            connection.close()

    def content(self) -> Content:
        names = [name for (name,) in self.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: self.execute(f"SELECT * FROM {name}") for name in sorted(names)}

    def disable_triggers(self) -> None:
        for (name,) in self.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'"):
            self.execute(f"DROP TRIGGER {name}")


class Postgresql:
    """A database of a server."""

    kind = "postgresql"

    def __init__(self, server: Server, name: str, role: str = OWNER) -> None:
        self.server = server
        self.name = name
        self.url = server.url(name, role)

    def execute(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url) as connection:
            statement = sql.replace("%", "%%").replace("?", "%s") if parameters else sql
            cursor = connection.execute(statement.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

    def content(self) -> Content:
        names = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
        return {name: self.execute(f"SELECT * FROM {name}") for (name,) in sorted(self.execute(names))}

    def disable_triggers(self) -> None:
        for table in ("audit", "activations", "versions"):
            self.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
