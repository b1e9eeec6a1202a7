"""`driftback kpis`: the four KPIs of a window, as the service reads them from Prometheus."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from driftback_server.cli import connection
from driftback_server.cli.connection import Connection


@connection.with_service
def kpis(
    service: Connection,
    window: Annotated[str, typer.Option(help="1h, 6h, 24h or 7d.")] = "1h",
    journey: Annotated[str | None, typer.Option(help="Only this journey.")] = None,
    persona: Annotated[str | None, typer.Option(help="Only this persona.")] = None,
    config_version: Annotated[str | None, typer.Option(help="Only this version of --persona.")] = None,
    json_output: connection.JsonOption = False,
) -> None:
    """Show messages, out-of-scope rate, LLM error rate and p95 latency."""
    data = service.get(
        "/v1/ops/monitoring/conversation-kpis",
        window=window,
        journey=journey,
        persona=persona,
        config_version=config_version,
    )["data"]
    if json_output:
        connection.print_json(data)
        return
    table = connection.table("KPI", "value", "95% interval", "window before", "counts", "data")
    for name, kpi in data["kpis"].items():
        value, before = _value(name, kpi["value"]), _value(name, kpi["previous"])
        table.add_row(name, value, _interval(name, kpi), before, _counts(kpi), kpi["data_status"])
    connection.print_table(table)
    if data["coverage"] is not None:
        connection.out.print(f"{data['coverage']:.1%} of the window was scraped.")


def _value(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    if name.endswith("_rate"):
        return f"{value:.2%}"
    return f"{value:,.0f} ms" if name.endswith("_ms") else f"{value:,.0f}"


def _interval(name: str, kpi: dict[str, Any]) -> str:
    if kpi.get("low") is None:
        return ""
    if kpi["high"] is None:
        return f"above {_value(name, kpi['low'])}"
    return f"{_value(name, kpi['low'])} to {_value(name, kpi['high'])}"


def _counts(kpi: dict[str, Any]) -> str:
    return f"{kpi['numerator']:,.0f} of {kpi['denominator']:,.0f}" if "numerator" in kpi else ""
