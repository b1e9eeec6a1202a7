"""The hand-written lists of docs/reference.md are complete; tests/rules/test_build.py compares the rest."""

from __future__ import annotations

import re

import pytest

from docs import build
from exporter.app import ROUTES

PAGE = (build.FILES.folder / "reference.md").read_text(encoding="utf-8")


def test_the_exporters_calls_are_its_routes() -> None:
    assert {call.split()[1] for call, _, _ in build.EXPORTER_CALLS} == ROUTES.keys()


def test_every_other_variable_is_listed() -> None:
    folders = ("cli", "stack")
    source = "".join(
        path.read_text(encoding="utf-8")
        for folder in folders
        for path in (build.ROOT / "driftback_server" / folder).glob("*.py")
    )
    assert set(re.findall(r"\bDRIFTBACK_[A-Z_]+", source)) == {name for name, _ in build.ENVIRONMENT}


@pytest.mark.parametrize(
    "entry",
    [
        "| `conversation_latency_seconds` | histogram |",
        "| `config_rollbacks_total` | counter | `status` |",
        "| `kpi:out_of_scope_rate` |",
        "| `ConfigVersionRegression` (drift.yml) | page |",
        "| `ConfigVersionRegression` (drift.yml) | ticket |",
        "| `EXPORTER_INGEST_TOKENS_FILE` |",
        "| `CONFIG_ROLLBACK_RATE_LIMIT_STORE` | `memory://` |",
        "| `POST /v1/ops/personas/{persona}/rollback` | ops |",
        "| `GET /rollback/{persona}` |",
        "| `config_changed_since_alert` | 409 |",
        "#### `driftback audit verify`",
        "| `make compose-test` |",
    ],
)
def test_it_holds_an_entry_of_each_kind(entry: str) -> None:
    assert entry in PAGE


def test_no_secret_default_is_printed() -> None:
    assert "x" * 32 not in PAGE
