"""Everything about the rules again, with Prometheus 3: left-open ranges, another promtool, another server."""

import os
import subprocess
import sys

import pytest

from tests.rules.files import CHECKOUT
from tests.support import prometheus_3

SUITES = (
    "rules/test_promtool.py",
    "rules/test_live.py",
    "rules/test_notifications.py",
    "rules/test_acceptance.py",
    "rules_report",
)


@pytest.mark.soak
def test_the_rules_do_the_same_in_prometheus_3() -> None:
    programs = prometheus_3.ensure()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *(f"tests/{name}" for name in SUITES)],
        cwd=CHECKOUT,
        env=os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"},  # found before Debian's
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    print(done.stdout)
