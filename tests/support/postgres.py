"""A real PostgreSQL for the tests: a fresh cluster in a temporary folder, reached by a Unix socket only.

It never runs as root and listens on no port. It ends with the process that started it, however that ends.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import psycopg
from psycopg import sql

START_SECONDS = 30

OWNER = "driftback"
"""The role that the service connects as: owns its database, and is no superuser."""


class PostgresMissingError(Exception):
    """No PostgreSQL server on this machine."""


def find_binaries() -> Path:
    """The folder with `initdb` and `postgres`: of PATH, else the newest where Debian puts it."""
    on_path = shutil.which("initdb")
    if on_path is not None:
        return Path(on_path).resolve().parent
    installed = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3])
    )
    if not installed:
        raise PostgresMissingError("no PostgreSQL server is installed; `make test` installs one")
    return installed[-1].parent


class Server:
    """A running server; `close` ends it and removes its files. With `primary`, a hot standby of that one."""

    def __init__(self, primary: Server | None = None) -> None:
        self._binaries = find_binaries()
        # Not below pytest's folder: that one is for its user alone, and a socket's path is at most 107 bytes.
        self._folder = Path(tempfile.mkdtemp(prefix="driftback-pg-", dir="/tmp"))
        self._log = self._folder / "log"
        self._names = (f"test_{number}" for number in count(1))
        if os.geteuid() == 0:
            user = unprivileged()
            os.chown(self._folder, user.pw_uid, user.pw_gid)
        data = self._folder / "data"
        if primary is None:
            self._run_as_user(
                "initdb",
                "--wal-segsize=1",
                "-D",
                data,
                "-U",
                "postgres",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--locale=C.UTF-8",
                "--no-sync",
            )
        else:
            source = ("-h", primary.folder, "-U", "postgres", "--checkpoint=fast")
            self._run_as_user("pg_basebackup", *source, "-D", data, "--write-recovery-conf", "--no-sync")
        # No fsync: these tests kill clients and backends, not the machine.
        options = {
            "listen_addresses": "",
            "unix_socket_directories": str(self._folder),
            "fsync": "off",
            "autovacuum": "off",  # it would start a process for each of hundreds of databases
            "max_connections": "300",
            "shared_buffers": "32MB",
        }
        arguments = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*as_user(), str(self._binaries / "postgres"), "-D", str(data), *arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
            )
        self._wait()
        if primary is None:
            self.execute(f"CREATE ROLE {OWNER} LOGIN")

    @property
    def folder(self) -> Path:
        """A folder that the server may write to."""
        return self._folder

    def url(self, database: str, role: str = OWNER) -> str:
        """SQLAlchemy URL of a database of this server."""
        return f"postgresql://{role}@/{database}?host={self._folder}"

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Runs one statement as the superuser."""
        with psycopg.connect(
            f"host={self._folder} user=postgres dbname={database}", autocommit=True
        ) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def create_database(self, template: str = "template1") -> str:
        """The name of a new database, owned by `OWNER`: a copy of `template`, which nobody may have open."""
        name = next(self._names)
        self.execute(
            sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE {}")
            .format(*map(sql.Identifier, (name, OWNER, template)))
            .as_string()
        )
        return name

    @contextmanager
    def file_size_limit(self, size: int) -> Iterator[None]:
        """New connections cannot let a file grow beyond `size` bytes, as if the disk were full."""
        self._limit_files(str(size))
        try:
            yield
        finally:
            self._limit_files("unlimited")

    def _limit_files(self, size: str) -> None:
        # The soft limit alone, by the server's own user: no privilege is needed for that.
        command = [*as_user(), "prlimit", "--pid", str(self._process.pid), f"--fsize={size}:"]
        subprocess.run(command, check=True)

    def program(self, name: str) -> str:
        """The path of one of PostgreSQL's programs, such as `pg_dump`."""
        return str(self._binaries / name)

    def close(self) -> None:
        """Ends the server."""
        self._process.terminate()
        try:
            self._process.wait(1)
        except subprocess.TimeoutExpired:  # SIGTERM waits for clients
            self._process.send_signal(3)  # SIGQUIT, an immediate stop: nothing here is to be kept
            self._process.wait(START_SECONDS)
        shutil.rmtree(self._folder)

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.execute("SELECT 1")
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"PostgreSQL did not start: {self._log.read_text()}") from None
                time.sleep(0.05)
            else:
                return

    def _run_as_user(self, program: str, *arguments: object) -> None:
        command = [*as_user(), self.program(program), *map(str, arguments)]
        done = subprocess.run(command, cwd=self._folder, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{program} failed: {done.stdout}{done.stderr}")


def unprivileged() -> pwd.struct_passwd:
    """Whom the server runs as where the tests run as root, which PostgreSQL refuses."""
    known = {user.pw_name: user for user in pwd.getpwall()}
    return known.get("postgres") or known["nobody"]


def as_user() -> list[str]:
    """The words before a command that keep it from outliving the tests, and from being root."""
    command = ["setpriv", "--pdeathsig", "INT"]
    if os.geteuid() == 0:
        user = unprivileged()
        command += [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    return command
