"""A machine in the machine: network, mounts and processes of its own.

What runs in it touches no interface, firewall rule or folder outside, no packet leaves it, and the end of its
first process ends all others. The one way in is a pair of interfaces, from `MACHINE` to `INSIDE`. Needs root.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.support.commands import run
from tests.support.stacks import wait_for

MACHINE, INSIDE = "10.76.0.1", "10.76.0.2"
_CGROUPS = Path("/sys/fs/cgroup")


class Sandbox:
    """`folder` is its only place on disk; logs of what was started are there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cgroup = f"driftback-test-{os.getpid()}"
        """In each hierarchy (version 1) one of that name."""
        words = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sleep", "infinity"]
        self._processes = [subprocess.Popen(["unshare", *words])]
        self._enter: list[str] = []
        try:
            parent = self._processes[0].pid
            children = Path(f"/proc/{parent}/task/{parent}/children")
            first = wait_for("first process", 10, lambda: children.read_text().split(), pause=0.05)[0]
            command = Path(f"/proc/{first}/comm")
            wait_for("its name spaces", 10, lambda: command.read_text() == "sleep\n", pause=0.05)
            self._enter = ["nsenter", "--target", first, "--net", "--mount", "--pid", "--"]
            self._make_mounts()
            self._make_network(first)
            for hierarchy in self._hierarchies():
                (hierarchy / self.cgroup).mkdir()
        except BaseException:
            self.end()
            raise

    def run(self, *words: str | Path) -> str:
        """What a command in it printed."""
        return run(*self._enter, *words)

    def start(self, name: str, *words: str | Path) -> None:
        """Starts a command in it that goes on; it writes <name>.log."""
        with (self.folder / f"{name}.log").open("wb") as log:
            command = [*self._enter, *map(str, words)]
            self._processes.append(subprocess.Popen(command, stdout=log, stderr=log))

    def end(self) -> None:
        """Ends everything in it, and takes its groups away."""
        self._processes[0].kill()
        for process in self._processes:
            process.wait(30)
        for hierarchy in self._hierarchies():
            group = hierarchy / self.cgroup
            for path in sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True):
                path.rmdir()
            if group.exists():
                group.rmdir()

    @staticmethod
    def _hierarchies() -> list[Path]:
        return [path for path in _CGROUPS.iterdir() if (path / "cgroup.procs").exists()]

    def _make_mounts(self) -> None:
        self.run("mount", "--make-rshared", "/")
        self.run("mount", "-t", "tmpfs", "tmpfs", "/run")
        # What goes to fixed places, such as /var/log/pods, stays in the folder.
        for name in ("var", "work"):
            (self.folder / name).mkdir()
        options = f"lowerdir=/var,upperdir={self.folder / 'var'},workdir={self.folder / 'work'}"
        self.run("mount", "-t", "overlay", "overlay", "-o", options, "/var")

    def _make_network(self, first: str) -> None:
        name = f"driftback{os.getpid()}"[:15]
        run("ip", "link", "add", name, "type", "veth", "peer", "name", "inside", "netns", first)
        run("ip", "address", "add", f"{MACHINE}/30", "dev", name)
        run("ip", "link", "set", name, "up")
        for command in (
            ["ip", "link", "set", "lo", "up"],
            ["ip", "address", "add", f"{INSIDE}/30", "dev", "inside"],
            ["ip", "link", "set", "inside", "up"],
            # Nothing is behind it: there has to be one.
            ["ip", "route", "add", "default", "dev", "inside"],
            ["sysctl", "-q", "-w", "net.ipv4.ip_forward=1", "net.bridge.bridge-nf-call-iptables=1"],
        ):
            self.run(*command)
