"""Starts a Prometheus of its own for a measurement."""

import re
import subprocess
import time
from pathlib import Path

READY_SECONDS = 60
ENDS_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL")
"""Before a command: the kernel ends it with the thread that started it, even when that is killed."""


def start(
    program: Path, config: Path, data: Path, log: Path, *options: str
) -> tuple[subprocess.Popen[bytes], str]:
    """The process and the URL of its queries, once it answers; else raises RuntimeError with its log."""
    command = [
        *ENDS_WITH_PARENT,
        str(program),
        f"--config.file={config}",
        f"--storage.tsdb.path={data}",
        "--web.listen-address=127.0.0.1:0",
        *options,
    ]
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        return process, f"http://{_address(process, log)}/api/v1/query"
    except BaseException:
        process.kill()
        process.wait()
        raise


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + READY_SECONDS
    while "ready to receive web requests" not in (log_text := log.read_text(encoding="utf-8")):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"Prometheus did not start: {log_text[-2000:]}")
        time.sleep(0.05)
    address = re.search(r'msg="Listening on" (?:component=\S+ )?address=(\S+)', log_text)
    if address is None:
        raise RuntimeError(f"Prometheus does not say where it listens: {log_text[-2000:]}")
    return address[1]
