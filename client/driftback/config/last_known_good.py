"""The last known good configuration, kept in a file: a service starts when config_rollback is away."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_log = logging.getLogger("driftback")


@dataclass(frozen=True)
class Active:
    """A configuration that a process serves."""

    persona: str
    version: int
    config: dict[str, Any]


class LastKnownGood:
    """The file of one persona in `folder`, readable by its owner alone. No method raises."""

    def __init__(self, folder: Path, persona: str) -> None:
        self._persona = persona
        name = hashlib.sha256(persona.encode()).hexdigest()[:16]
        self._path = folder / f"persona-{name}.json"
        self._kept: tuple[Active, str | None] | None = None
        """What the file holds, as far as this process read or wrote it."""
        self._failed = False

    def load(self) -> tuple[Active, str | None] | None:
        """The configuration and its tag. None if the file does not exist or is unusable."""
        try:
            kept = json.loads(self._path.read_text(encoding="utf-8"))
            active = Active(str(kept["persona"]), int(kept["version"]), dict(kept["config"]))
            etag = kept.get("etag")
        except FileNotFoundError:
            return None
        except Exception as error:  # noqa: BLE001 (whatever the file holds, the service starts)
            _log.warning("the cached configuration is unusable: %r", error)
            return None
        if active.persona != self._persona:
            return None
        usable = isinstance(etag, str) and etag.isascii() and etag.isprintable()
        self._kept = active, etag if usable else None
        return self._kept

    def save(self, active: Active, etag: str | None) -> None:
        """Write the file unless it holds this. A failure is logged once, until a save succeeds."""
        if self._kept == (active, etag):
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(dir=self._path.parent, prefix=self._path.name)
            try:
                with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                    json.dump(asdict(active) | {"etag": etag}, file)
                    file.flush()
                    os.fsync(file.fileno())
                Path(temporary).replace(self._path)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
        except Exception as error:  # noqa: BLE001 (it is served all the same)
            if not self._failed:
                _log.warning("the configuration could not be cached, will retry: %r", error)
            self._failed = True
        else:
            self._kept, self._failed = (active, etag), False
