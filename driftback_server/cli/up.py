"""`driftback up`: runs the whole stack on this machine until Ctrl-C."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from driftback_server.stack.errors import StackError
from driftback_server.stack.layout import Layout, default_state_dir, demo_state_dir
from driftback_server.stack.ports import Ports

if TYPE_CHECKING:
    from driftback_server.stack.stack import Stack

_LIVENESS_SECONDS = 1.0
# The demo evaluates the same rules more often, so that its alert comes sooner.
_DEMO_SCRAPE, _DEMO_EVALUATION = "5s", "15s"


def up(
    demo: Annotated[
        bool, typer.Option("--demo", help="Also run the example services with traffic, and break one.")
    ] = False,
    state_dir: Annotated[
        Path | None,
        typer.Option(
            help="The folder for all data; a second stack needs another one.",
            show_default=False,
            file_okay=False,
        ),
    ] = None,
    port_offset: Annotated[
        int, typer.Option(help="Number added to every port; a second stack needs another one.")
    ] = 0,
    no_grafana: Annotated[
        bool, typer.Option("--no-grafana", help="Do not start Grafana, even if it is on PATH.")
    ] = False,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print one JSON line on standard output when all is ready.")
    ] = False,
    scrape_interval: Annotated[
        str | None, typer.Option(help="Overrides prometheus.yml (demo: 5s).", show_default=False)
    ] = None,
    evaluation_interval: Annotated[
        str | None, typer.Option(help="Overrides prometheus.yml (demo: 15s).", show_default=False)
    ] = None,
    remote_write: Annotated[
        str | None,
        typer.Option(
            help="Also write every series to this URL (Prometheus remote write).", show_default=False
        ),
    ] = None,
    careless_after: Annotated[
        float, typer.Option(min=0, help="Seconds until the demo publishes its careless configuration.")
    ] = 90.0,
) -> None:
    """Run exporter, Prometheus, Alertmanager, config_rollback and, if it is on PATH, Grafana.

    It needs no root and listens on loopback only. The data in the state folder survives a restart.
    Ctrl-C stops every process.
    """
    from driftback_server.stack.demo import Drama
    from driftback_server.stack.render import PrometheusOptions
    from driftback_server.stack.stack import Options, Stack

    notes = Console(stderr=True, highlight=False, markup=False, emoji=False)
    try:
        ports = Ports().shifted(port_offset)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    folder = (state_dir or (demo_state_dir() if demo else default_state_dir())).resolve()
    if demo:
        scrape_interval = scrape_interval or _DEMO_SCRAPE
        evaluation_interval = evaluation_interval or _DEMO_EVALUATION
    prometheus = PrometheusOptions(scrape_interval, evaluation_interval, remote_write)
    options = Options(demo, not no_grafana, prometheus)
    stack = Stack(Layout(folder), ports, options)

    def say(text: str) -> None:
        notes.print(text, soft_wrap=True)

    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)
    try:
        stack.start(say)
        drama = Drama(stack, say, careless_after) if demo else None
        if drama:
            drama.prepare()
        if json_output:
            print(json.dumps(stack.describe()), flush=True)  # noqa: T201 the command's output
        else:
            say(_banner(stack))
        for _ in drama.steps() if drama else ():
            stack.require_alive()
        while True:
            stack.require_alive()
            time.sleep(_LIVENESS_SECONDS)
    except KeyboardInterrupt:
        say("stopping")
    except StackError as error:
        say(f"error: {error}")
        raise typer.Exit(1) from None
    finally:
        # A second Ctrl-C must not leave processes behind.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        stack.stop()
    say("stopped; the data is kept in " + str(folder))


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _banner(stack: Stack) -> str:
    described = stack.describe()
    lines = ["", *(f"{name:16} {url}" for name, url in described["urls"].items())]
    lines += [
        f"{'log in (once)':16} {described['login_link']}",
        f"{'state and logs':16} {described['state_dir']}",
    ]
    if "grafana" not in described["urls"]:
        lines.append("no `grafana` on PATH: the stack runs without dashboards")
    return "\n".join(lines) + "\n"
