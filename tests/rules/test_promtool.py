"""Prometheus accepts the rules, and they do what their promtool tests say."""

import subprocess
from pathlib import Path

import pytest

from tests.rules.files import RULE_FILES, TEST_FILES


def test_prometheus_accepts_the_rules(promtool: Path) -> None:
    done = subprocess.run([promtool, "check", "rules", *RULE_FILES], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", TEST_FILES, ids=lambda path: path.stem)
def test_rules_pass_their_promtool_tests(promtool: Path, path: Path) -> None:
    done = subprocess.run([promtool, "test", "rules", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", RULE_FILES, ids=lambda path: path.stem)
def test_every_rule_file_has_a_promtool_test(path: Path) -> None:
    assert path.parent / "tests" / f"{path.stem}_test.yml" in TEST_FILES
