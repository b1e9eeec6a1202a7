"""Where a native stack keeps things: the state folder, its files, and the data files of the distribution."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from driftback_server.stack.errors import StackError


def default_state_dir() -> Path:
    """`$DRIFTBACK_STATE_DIR`, else `driftback/default` in the user's state folder (XDG base directories)."""
    configured = os.environ.get("DRIFTBACK_STATE_DIR")
    if configured:
        return Path(configured)
    return _user_state_home() / "driftback" / "default"


def demo_state_dir() -> Path:
    """The state folder of `driftback up --demo`, apart from the default so that a demo spoils nothing."""
    return _user_state_home() / "driftback" / "demo"


def _user_state_home() -> Path:
    configured = os.environ.get("XDG_STATE_HOME")
    if configured:
        return Path(configured)
    try:
        return Path.home() / ".local" / "state"
    except RuntimeError:  # no HOME, and the user id has no name
        raise StackError(
            "no home folder is known: give --state-dir, or set HOME or DRIFTBACK_STATE_DIR"
        ) from None


def assets_dir() -> Path:
    """The folder of rules/, prometheus/, grafana/ and examples/: the checkout, else the wheel's copy."""
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "pyproject.toml").is_file():
        return checkout
    return Path(__file__).resolve().parents[1] / "_assets"


@dataclass(frozen=True)
class Layout:
    """The files of one stack under its state folder."""

    root: Path

    @property
    def secrets(self) -> Path:
        """Secrets, one a file, readable by the owner only."""
        return self.root / "secrets"

    @property
    def logs(self) -> Path:
        """What each process prints."""
        return self.root / "logs"

    @property
    def config(self) -> Path:
        """Configuration files rendered at each start."""
        return self.root / "config"

    @property
    def data(self) -> Path:
        """What must survive a restart, a folder per component."""
        return self.root / "data"

    @property
    def stack_file(self) -> Path:
        """What `driftback up --json` prints, for commands that look for the running stack."""
        return self.root / "stack.json"

    @property
    def lock_file(self) -> Path:
        """Held while a stack runs on this folder."""
        return self.root / "lock"

    def in_use(self) -> bool:
        """Whether a stack runs on this folder now; its files may be left from one that was killed."""
        try:
            with self.lock_file.open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def create(self) -> None:
        """Makes the folders; the state folder is for its owner only, for it holds secrets."""
        self.root.mkdir(parents=True, exist_ok=True)
        self.root.chmod(0o700)
        for folder in (self.secrets, self.logs, self.config, self.data):
            folder.mkdir(exist_ok=True)
