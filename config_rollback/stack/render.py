"""Adapts the shipped Prometheus and Alertmanager configuration, which names compose's hosts and paths, to a
native run: other addresses, other files, and a faster clock where one is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from config_rollback.stack.layout import Layout
from config_rollback.stack.ports import LOOPBACK, Ports
from config_rollback.stack.secrets import SecretFiles

# Compose reaches a process by its service name, on the port that it has in a native run without an offset.
_COMPOSE_PORTS = Ports()
_SERVICES = ("exporter", "config_rollback", "prometheus", "alertmanager")
_TOKEN_IN_COMPOSE = "/run/secrets/alertmanager_token"  # noqa: S105 a path, not a secret


def render(
    layout: Layout,
    ports: Ports,
    secret: SecretFiles,
    assets: Path,
    scrape: str | None,
    evaluation: str | None,
) -> None:
    """Writes prometheus.yml and alertmanager.yml into the stack's config folder.

    `scrape` and `evaluation` are intervals in Prometheus' notation; None keeps those of the shipped file.
    """
    prometheus = _load(assets / "prometheus" / "prometheus.yml")
    prometheus["rule_files"] = [str(assets / "rules" / "*.yml")]
    prometheus["global"]["external_labels"] |= {
        "driftback_url": ports.url("config_rollback"),
        "grafana_url": ports.url("grafana"),
    }
    if scrape:
        prometheus["global"] |= {"scrape_interval": scrape, "scrape_timeout": scrape}
    if evaluation:
        prometheus["global"]["evaluation_interval"] = evaluation
    _save(layout.config / "prometheus.yml", _readdressed(prometheus, ports, secret))

    alertmanager = _load(assets / "prometheus" / "alertmanager.yml")
    alertmanager["templates"] = [str(assets / "prometheus" / "templates" / "*.tmpl")]
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
    loaded: dict[str, Any] = yaml.safe_load(path.read_text())
    return loaded


def _save(path: Path, content: Any) -> None:
    path.write_text("# Written at each start by `driftback up`.\n" + yaml.safe_dump(content, sort_keys=False))
