"""A service under load, made to be killed: notes each push in a file before it is sent, and its answer.

What a process wrote stays when it is killed, so the file says exactly what may and what must be counted.
"""

import os
import random
import sys
import time
from pathlib import Path

from exporter.client import Recorder
from exporter.client.transport import Answer, Transport, Verdict


def main(url: str, token: str, log: Path) -> None:
    """Record for ever."""
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    send = Transport.send

    def noted_send(self: Transport, body: bytes) -> Answer:
        os.write(fd, b"> " + body + b"\n")
        answer = send(self, body)
        if answer.verdict is Verdict.ACKNOWLEDGED:
            os.write(fd, b"< " + body + b"\n")
        return answer

    Transport.send = noted_send  # type: ignore[method-assign]
    recorder = Recorder(url, token, flush_interval=0.02)
    while True:
        for _ in range(20):
            outcome = random.choice(["ok", "ok", "out_of_scope", "llm_error"])
            recorder.record(
                journey="chat",
                persona=random.choice("ab"),
                config_version=random.randint(1, 3),
                latency_ms=random.uniform(1, 1000),
                outcome=outcome,
                input_tokens=3,
            )
        time.sleep(0.005)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
