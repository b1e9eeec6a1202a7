"""A real PgBouncer for the tests, in transaction mode, reached by a Unix socket only."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

from tests.support.postgres import OWNER, START_SECONDS, Server, as_user, unprivileged

PORT = 6432


class PgBouncer:
    """In front of a PostgreSQL server of the tests; `close` ends it."""

    def __init__(self, server: Server) -> None:
        program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
        assert program, "pgbouncer is missing: run `make test`, which installs it"
        self.folder = server.folder / "pgbouncer"
        self.folder.mkdir()
        users, config = self.folder / "users", self.folder / "pgbouncer.ini"
        users.write_text(f'"{OWNER}" ""\n')
        config.write_text(
            f"[databases]\n* = host={server.folder}\n"
            "[pgbouncer]\npool_mode = transaction\nauth_type = trust\n"
            f"auth_file = {users}\nlisten_port = {PORT}\nunix_socket_dir = {self.folder}\n"
            f"default_pool_size = 3\nlogfile = {self.folder}/log\n"
        )
        if os.geteuid() == 0:  # which PgBouncer refuses, too
            user = unprivileged()
            for path in (self.folder, users, config):
                os.chown(path, user.pw_uid, user.pw_gid)
        self._process = subprocess.Popen([*as_user(), program, "--quiet", config])
        self._wait(self.folder / f".s.PGSQL.{PORT}")

    def url(self, database: str, **query: str) -> str:
        """SQLAlchemy URL of a database of the server, through the pooler."""
        more = "".join(f"&{name}={value}" for name, value in query.items())
        return f"postgresql://{OWNER}@/{database}?host={self.folder}&port={PORT}{more}"

    def close(self) -> None:
        """Ends it."""
        self._process.terminate()
        self._process.wait(START_SECONDS)
        shutil.rmtree(self.folder)

    def _wait(self, socket: Path) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not socket.exists():
            assert self._process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline, "pgbouncer does not answer"
            time.sleep(0.02)
