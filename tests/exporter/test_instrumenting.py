"""The examples of docs/instrumenting.md and README.md are run against a real exporter."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.exporter.running import TOKEN, Running

ROOT = Path(__file__).parents[2]
LABELS = {"journey": "chat", "persona": "concierge", "config_version": "3"}


def block(page: str, language: str) -> str:
    """The first code block of a language on a page."""
    found = re.search(rf"^```{language}\n(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None, f"{page} has no {language} block"
    return found[1]


def run(exporter: Running, *command: str) -> None:
    """Run an example as a reader would."""
    environment = {**os.environ, "EXPORTER_URL": exporter.url, "EXPORTER_TOKEN": TOKEN}
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert result.returncode == 0, result.stderr


def tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed: its example in docs/instrumenting.md was not run")
    return path


def test_python(exporter: Running) -> None:
    run(exporter, sys.executable, "-c", block("docs/instrumenting.md", "python"))
    assert exporter.value("conversation_out_of_scope_total", **LABELS) == 1
    assert exporter.value("conversation_time_to_first_token_seconds_count", **LABELS) == 1
    assert exporter.value("conversation_tokens_total", direction="input", **LABELS) == 412


def test_curl_twice_counts_once(exporter: Running) -> None:
    tool("curl")
    key, send = block("docs/instrumenting.md", "bash").split("\n", 1)
    run(exporter, "bash", "-euc", f"{key}\n{send}\n{send}")
    assert exporter.value("conversation_messages_total", **LABELS) == 1


def test_javascript(exporter: Running) -> None:
    run(exporter, tool("node"), "-e", block("docs/instrumenting.md", "javascript"))
    assert exporter.value("conversation_messages_total", **LABELS) == 1


@pytest.mark.parametrize("status", [408, 503])
def test_javascript_sends_again_what_the_table_says_to_send_again(exporter: Running, status: int) -> None:
    refuse_once = f"""
const send_it = fetch;
let calls = 0;
const refusal = () => Promise.resolve(new Response("", {{status: {status}}}));
fetch = (...request) => calls++ ? send_it(...request) : refusal();
"""
    run(exporter, tool("node"), "-e", refuse_once + block("docs/instrumenting.md", "javascript"))
    assert exporter.value("conversation_messages_total", **LABELS) == 1


def test_every_run_of_an_example_has_a_key_of_its_own(exporter: Running) -> None:
    for _ in range(2):
        run(exporter, "bash", "-euc", block("docs/instrumenting.md", "bash"))
    assert exporter.value("conversation_messages_total", **LABELS) == 2


def test_go(exporter: Running, tmp_path: Path) -> None:
    source = tmp_path / "main.go"
    source.write_text(block("docs/instrumenting.md", "go"))
    run(exporter, tool("go"), "run", str(source))
    assert exporter.value("conversation_messages_total", **LABELS) == 1


def test_the_snippet_of_the_readme(exporter: Running) -> None:
    snippet = block("README.md", "python")
    assert "from driftback import Recorder" in snippet
    code = [line for line in snippet.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert len(code) < 10
    moved = snippet.replace("http://127.0.0.1:9810", exporter.url).replace("the ingest token", TOKEN)
    run(exporter, sys.executable, "-c", moved)
    assert exporter.value("conversation_out_of_scope_total", **LABELS) == 1
