"""Adapts the shipped Prometheus and Alertmanager configuration, which names compose's hosts and paths, to a
native run: other addresses, other files, and shorter intervals if the user asks for them."""

from __future__ import annotations

import glob
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from driftback_server.stack.layout import Layout
from driftback_server.stack.ports import LOOPBACK, Ports
from driftback_server.stack.secrets import SecretFiles
from exporter.strict import read_yaml

# Compose reaches a process by its service name, on the port that it has in a native run without an offset.
_COMPOSE_PORTS = Ports()
_SERVICES = ("exporter", "config_rollback", "prometheus", "alertmanager")
_TOKEN_IN_COMPOSE = "/run/secrets/alertmanager_token"  # noqa: S105 a path, not a secret


@dataclass(frozen=True)
class PrometheusOptions:
    """What a person may change of the shipped prometheus.yml: intervals in Prometheus' notation, None for the
    shipped ones, and the URL of an engine that is to have a copy of every series."""

    scrape_interval: str | None = None
    evaluation_interval: str | None = None
    remote_write: str | None = None


def render(
    layout: Layout,
    ports: Ports,
    secret: SecretFiles,
    assets: Path,
    options: PrometheusOptions,
    grafana: bool,
) -> None:
    """Writes prometheus.yml and alertmanager.yml into the stack's config folder.

    Without Grafana alerts have no link to it.
    """
    prometheus = _load(assets / "prometheus" / "prometheus.yml")
    prometheus["rule_files"] = [f"{glob.escape(str(assets / 'rules'))}/*.yml"]
    links = {"driftback_url": ports.url("config_rollback")}
    if grafana:
        links["grafana_url"] = ports.url("grafana")
    prometheus["global"]["external_labels"] = links
    if options.scrape_interval:
        interval = options.scrape_interval
        prometheus["global"] |= {"scrape_interval": interval, "scrape_timeout": interval}
    if options.evaluation_interval:
        prometheus["global"]["evaluation_interval"] = options.evaluation_interval
    if options.remote_write:
        # The labels that only annotations need stay behind, as prometheus.yml says.
        relabel = prometheus["alerting"]["alert_relabel_configs"]
        prometheus["remote_write"] = [{"url": options.remote_write, "write_relabel_configs": relabel}]
    _save(layout.config / "prometheus.yml", _readdressed(prometheus, ports, secret))

    alertmanager = _load(assets / "prometheus" / "alertmanager.yml")
    alertmanager["templates"] = [f"{glob.escape(str(assets / 'prometheus' / 'templates'))}/*.tmpl"]
    _save(layout.config / "alertmanager.yml", _readdressed(alertmanager, ports, secret))


def _readdressed(value: Any, ports: Ports, secret: SecretFiles) -> Any:
    """`value` with every compose address and secret path in its strings replaced."""
    if isinstance(value, dict):
        return {key: _readdressed(item, ports, secret) for key, item in value.items()}
    if isinstance(value, list):
        return [_readdressed(item, ports, secret) for item in value]
    if isinstance(value, str):
        for name in _SERVICES:
            value = value.replace(
                f"{name}:{getattr(_COMPOSE_PORTS, name)}", f"{LOOPBACK}:{getattr(ports, name)}"
            )
        return value.replace(_TOKEN_IN_COMPOSE, str(secret.alertmanager_token))
    return value


def _load(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = read_yaml(path.read_text(encoding="utf-8"))
    return loaded


def _save(path: Path, content: Any) -> None:
    path.write_text("# Written at each start by `driftback up`.\n" + yaml.safe_dump(content, sort_keys=False))
