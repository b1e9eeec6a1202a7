"""The secrets of a native stack: made at the first start, kept in files that only the owner reads."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

_BYTES = 32


@dataclass(frozen=True)
class SecretFiles:
    """The files with the stack's secrets."""

    jwt_secret: Path
    ingest_token: Path
    service_token: Path
    alertmanager_token: Path
    grafana_admin_password: Path

    @classmethod
    def create(cls, folder: Path) -> SecretFiles:
        """The files under `folder`, each created with mode 0600 and 256 random bits if it is missing."""
        paths = {name: folder / name for name in cls.__dataclass_fields__}
        for path in paths.values():
            if not path.exists():
                _write_new(path, secrets.token_urlsafe(_BYTES))
        return cls(**paths)


def _write_new(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text + "\n")
