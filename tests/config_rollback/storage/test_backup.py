"""Copies of the database: what comes back, what a head in the log proves, and numbers given a second time."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from driftback import ConfigClient
from tests.client.config.test_client import follow
from tests.config_rollback.databases import Database, Postgresql, Sqlite
from tests.config_rollback.delivery.test_delivery import wait_until
from tests.config_rollback.running import CONFIG, Service
from tests.config_rollback.test_cli import run

__all__ = ["follow"]


def back_up(database: Database, file: Path) -> None:
    """As docs/operations.md says."""
    if isinstance(database, Sqlite):
        done = run("db", "backup", str(file), "--database-url", database.url)
        assert done.exit_code == 0, done.output
        return
    assert isinstance(database, Postgresql)
    with file.open("wb") as target:
        command = [database.server.program("pg_dump"), "--format=custom", f"--dbname={database.url}"]
        subprocess.run(command, stdout=target, check=True)


def restore(database: Database, file: Path) -> Database:
    """The same, into the place of the file, or into a new database."""
    if isinstance(database, Sqlite):
        for suffix in ("-wal", "-shm"):
            Path(f"{database.file}{suffix}").unlink(missing_ok=True)
        shutil.copy(file, database.file)
        return database
    assert isinstance(database, Postgresql)
    fresh = Postgresql(database.server, database.server.create_database())
    command = [
        database.server.program("pg_restore"), "--single-transaction", "--exit-on-error", "--no-owner",
        f"--dbname={fresh.url}", str(file),
    ]  # fmt: skip
    subprocess.run(command, check=True)
    return fresh


def head(service: Service) -> str:
    """What the newest log line says."""
    newest = service.audit()[-1]
    return f"{newest['audit_id']}:{newest['hash']}"


def verification(service: Service, known: str) -> dict[str, Any]:
    found: dict[str, Any] = service.request("GET", f"/v1/ops/audit/verify?head={known}").json()["data"]
    return found


def test_a_restored_copy_is_whole_and_its_chain_goes_on(
    database: Database, start_on: Callable[..., Service], tmp_path: Path
) -> None:
    service = start_on(database)
    service.publish()
    service.publish(temperature=1)
    service.roll_back(expected_version=2)
    then, versions = head(service), database.execute("SELECT * FROM versions ORDER BY number")
    back_up(database, tmp_path / "copy")
    service.publish(temperature=2)
    later = head(service)
    service.stop()

    again = start_on(restore(database, tmp_path / "copy"))
    assert verification(again, then)["valid"]
    lost = verification(again, later)
    assert (lost["valid"], lost["broken_at"]) == (False, 4), "the log knows of a row that is not there"
    assert again.database.execute("SELECT * FROM versions ORDER BY number") == versions
    assert again.config().json()["data"]["config"] == CONFIG
    assert again.publish(temperature=1.5) == 3
    assert verification(again, then)["valid"]
    with pytest.raises(Exception, match="append-only"):
        again.database.execute("DELETE FROM audit")


def test_a_number_given_a_second_time_is_not_taken_for_the_first(
    database: Database,
    start_on: Callable[..., Service],
    follow: Callable[..., ConfigClient],
    tmp_path: Path,
) -> None:
    service = start_on(database)
    service.publish()
    back_up(database, tmp_path / "copy")
    service.publish(temperature=1)
    client = follow(service.url)
    wait_until(lambda: client.current is not None and client.current.config["temperature"] == 1)
    service.stop()

    again = start_on(restore(database, tmp_path / "copy"), port=service.port)
    assert again.publish(temperature=2) == 2
    wait_until(lambda: client.current is not None and client.current.config["temperature"] == 2)


def test_a_copy_taken_while_others_write_is_of_one_moment(
    sqlite: Sqlite, start_on: Callable[..., Service], tmp_path: Path
) -> None:
    service = start_on(sqlite)
    service.publish()
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            service.publish()

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    try:
        for number in range(5):
            back_up(sqlite, tmp_path / str(number))  # verifies the chain
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    copy = Sqlite(tmp_path / "4")
    ((rows,),) = copy.execute("SELECT count(*) FROM audit")
    assert copy.execute("SELECT count(*) FROM activations") == [(rows,)]


def test_a_backup_overwrites_nothing_and_keeps_no_broken_chain(
    sqlite: Sqlite, start_on: Callable[..., Service], tmp_path: Path
) -> None:
    service = start_on(sqlite)
    service.publish()
    file = tmp_path / "copy"
    file.write_text("mine")
    refused = run("db", "backup", str(file), "--database-url", sqlite.url)
    assert (refused.exit_code, file.read_text()) == (2, "mine")
    file.unlink()
    sqlite.disable_triggers()
    sqlite.execute("UPDATE audit SET actor = 'nobody'")
    broken = run("db", "backup", str(file), "--database-url", sqlite.url)
    assert (broken.exit_code, "not intact at row 1" in broken.stderr) == (1, True)
    assert not file.exists()
    nothing = run("db", "backup", str(file), "--database-url", f"sqlite:///{tmp_path / 'none.db'}")
    assert nothing.exit_code == 1
    assert run("db", "backup", str(file), "--database-url", "postgresql://x/y").exit_code == 2


def test_a_backup_that_cannot_be_written_names_its_file_and_leaves_none(
    sqlite: Sqlite, start_on: Callable[..., Service], tmp_path: Path
) -> None:
    start_on(sqlite).publish()
    file = tmp_path / "nowhere" / "copy.db"
    result = run("db", "backup", str(file), "--database-url", sqlite.url)
    assert result.exit_code == 1
    assert f"to {file}: unable to open database file" in result.stderr
