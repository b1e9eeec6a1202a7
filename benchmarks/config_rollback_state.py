"""What the benchmarks of config_rollback stand on: a database with history, and calls as a person's."""

import contextlib
import math
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import requests

from benchmarks import servers
from config_rollback.audit.chain import Attempt
from config_rollback.auth.tokens import mint_access_token
from config_rollback.clock import utc_now
from config_rollback.personas import persona_config
from config_rollback.storage import database
from config_rollback.storage.models import Version
from config_rollback.storage.store import Store

PERSONA = "concierge"
CONFIG: dict[str, Any] = {
    "model": "swift-1",
    "system_prompt": "You help customers of a marketplace with their orders, briefly and kindly. " * 14,
    "allowed_topics": ["orders", "shipping", "returns", "billing"],
    "temperature": 0.3,
    "max_output_tokens": 400,
    "timeout_ms": 8000,
}
"""About a kilobyte, as personas have."""


@contextlib.contextmanager
def served(versions: int) -> Iterator[servers.Server]:
    """A service on this disk whose persona has so many versions, the last one active."""
    (servers.ROOT / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=servers.ROOT / "build") as folder:
        _publish(Path(folder) / "config_rollback.db", versions)
        with servers.config_rollback(Path(folder)) as server:
            yield server


def _publish(file: Path, versions: int) -> None:
    """What so many publications leave, in one transaction."""
    store = Store(database.connect(f"sqlite:///{file}"))
    database.upgrade(store.engine)
    with store.write() as transaction:
        for number in range(1, versions + 1):
            leaves = number - 1 or None
            config = persona_config.canonical_json(CONFIG | {"max_output_tokens": number})
            attempt = Attempt(
                at=utc_now(), request_id="bench", actor="bench", role="ops", action="publish",
                persona=PERSONA, from_version=leaves, to_version=number,
            )  # fmt: skip
            transaction.add_version(
                Version(
                    persona=PERSONA, number=number, content_hash=persona_config.content_hash(config),
                    config_json=config, created_at=attempt.at, created_by="bench", note="",
                )
            )  # fmt: skip
            transaction.activate(attempt, transaction.append_audit(attempt).audit_id)
    store.close()


class Operator:
    """A person with an access token and a connection kept open."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._session = requests.Session()
        token = mint_access_token(servers.JWT_SECRET, subject="bench", role="ops")
        self._session.headers["Authorization"] = f"Bearer {token}"

    def roll_back(self, leaves: int, to: int | None) -> int:
        """The version that serves now."""
        answer = self._session.post(
            f"{self.url}/v1/ops/personas/{PERSONA}/rollback",
            json={"expected_version": leaves, "to_version": to, "reason": "a benchmark"},
            headers={"Idempotency-Key": uuid.uuid4().hex},
            timeout=30,
        )
        answer.raise_for_status()
        return int(answer.json()["data"]["to_version"])

    def metrics(self) -> str:
        """What Prometheus would scrape."""
        return self._session.get(f"{self.url}/metrics", timeout=30).text

    def close(self) -> None:
        """Closes the connection."""
        self._session.close()


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)), 1) - 1]
