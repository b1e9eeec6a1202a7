"""Security case 42: `kill -9` at any moment leaves no activation without its audit row."""

from __future__ import annotations

import subprocess
import sys

import pytest

from config_rollback.storage.store import Store
from tests.config_rollback.databases import Database


@pytest.mark.parametrize("kills", [20, pytest.param(1000, marks=pytest.mark.soak)])
def test_42_a_killed_process_leaves_no_activation_without_its_audit_row(
    database: Database, store: Store, kills: int
) -> None:
    command = [sys.executable, "-m", "tests.config_rollback.crashing", database.url, str(kills), "7"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    acknowledged = [int(line) for line in done.stdout.splitlines()]
    assert len(acknowledged) >= kills
    with store.write() as transaction:  # after the COMMIT of the last child, where PostgreSQL is still at it
        transaction.lock_audit_head()
    with store.read() as transaction:
        assert transaction.verify_audit().valid
    audited = database.execute(
        "SELECT audit_id, persona, to_version, action FROM audit WHERE status = 'succeeded' ORDER BY audit_id"
    )
    activated = database.execute(
        "SELECT audit_id, persona, version, action FROM activations ORDER BY audit_id"
    )
    assert activated == audited
    published = database.execute("SELECT count(*) FROM versions")
    assert published == [(sum(row[3] == "publish" for row in audited),)]
    assert set(acknowledged) <= {row[0] for row in audited}, "something acknowledged was lost"
