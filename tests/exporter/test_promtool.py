"""What Prometheus' own linter says of a scrape, hostile label values included."""

import subprocess

from driftback_server.stack.components import ensure
from tests.exporter.running import Running, series

HOSTILE = [
    'quote"',
    "back\\slash",
    "new\nline",
    '"} 1\nconversation_messages_total{persona="forged',
    "\r\n# TYPE forged counter\nforged 1",
    "{}=,~! %d %s {0}",
    "\x01\x1b[31m\x7f",
    "نمونه 例子 😀",
    " ",
    "\\n",
    "\\",
]


def test_promtool_finds_nothing_and_no_series_is_forged(exporter: Running) -> None:
    exporter.push(*(series(persona=value, config_version=value, messages=1) for value in HOSTILE))
    scrape = exporter.scrape()
    promtool = ensure(["promtool"])["promtool"]
    result = subprocess.run(
        [promtool, "check", "metrics"], input=scrape, capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert scrape.count("\nconversation_messages_total{") == len(HOSTILE)
    assert "\nforged" not in scrape
