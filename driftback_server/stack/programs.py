"""The processes of a native stack: how each is called, with what environment, and how it shows readiness."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from driftback_server.stack.components import working_directory
from driftback_server.stack.layout import Layout
from driftback_server.stack.ports import LOOPBACK, Ports
from driftback_server.stack.secrets import SecretFiles

_GRAFANA_HOME = Path("/usr/share/grafana")

# Programs inherit the user's environment, which may be meant for another stack. What says
# where state and secrets are is this stack's alone: a demo must not publish to a database that is exported
# for `driftback db`. An empty variable counts as not set.
_EXPORTERS_OWN = {"EXPORTER_INGEST_TOKENS": ""}
_CONFIG_ROLLBACKS_OWN = {
    f"CONFIG_ROLLBACK_{name}": ""
    for name in ("DATABASE_URL", "DATABASE_URL_FILE", "JWT_SECRET", "SERVICE_TOKENS", "ALERTMANAGER_TOKENS")
}


@dataclass(frozen=True)
class Program:
    """A process to supervise; `ready_path` answers 200 below its port when it can serve, `directory` is where
    it starts (default: the state folder)."""

    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    ready_path: str | None = None
    directory: Path | None = None


def core(
    layout: Layout, ports: Ports, secret: SecretFiles, binaries: Mapping[str, Path], grafana: bool
) -> list[Program]:
    """Exporter, config_rollback, Prometheus and Alertmanager."""
    links = {"CONFIG_ROLLBACK_GRAFANA_URL": ports.url("grafana")} if grafana else {}
    return [
        Program(
            "exporter",
            [sys.executable, "-m", "exporter"],
            _EXPORTERS_OWN
            | {
                "EXPORTER_HOST": LOOPBACK,
                "EXPORTER_PORT": str(ports.exporter),
                "EXPORTER_STATE_DIR": str(layout.data / "exporter"),
                "EXPORTER_INGEST_TOKENS_FILE": str(secret.ingest_token),
            },
            "/-/ready",
        ),
        Program(
            "config_rollback",
            [sys.executable, "-m", "config_rollback"],
            _CONFIG_ROLLBACKS_OWN
            | {
                "CONFIG_ROLLBACK_HOST": LOOPBACK,
                "CONFIG_ROLLBACK_PORT": str(ports.config_rollback),
                "CONFIG_ROLLBACK_STATE_DIR": str(layout.data / "config_rollback"),
                "CONFIG_ROLLBACK_EXTERNAL_URL": ports.url("config_rollback"),
                "CONFIG_ROLLBACK_JWT_SECRET_FILE": str(secret.jwt_secret),
                "CONFIG_ROLLBACK_SERVICE_TOKENS_FILE": str(secret.service_token),
                "CONFIG_ROLLBACK_ALERTMANAGER_TOKENS_FILE": str(secret.alertmanager_token),
                "CONFIG_ROLLBACK_PROMETHEUS_URL": ports.url("prometheus"),
                "CONFIG_ROLLBACK_ALERTMANAGER_URL": ports.url("alertmanager"),
                **links,
            },
            "/-/ready",
        ),
        Program(
            "prometheus",
            [
                str(binaries["prometheus"]),
                f"--config.file={layout.config / 'prometheus.yml'}",
                f"--storage.tsdb.path={layout.data / 'prometheus'}",
                "--storage.tsdb.retention.time=15d",
                f"--web.listen-address={LOOPBACK}:{ports.prometheus}",
                f"--web.external-url={ports.url('prometheus')}",
            ],
            ready_path="/-/ready",
            directory=working_directory(binaries["prometheus"]),
        ),
        Program(
            "alertmanager",
            [
                str(binaries["alertmanager"]),
                f"--config.file={layout.config / 'alertmanager.yml'}",
                f"--storage.path={layout.data / 'alertmanager'}",
                f"--web.listen-address={LOOPBACK}:{ports.alertmanager}",
                f"--web.external-url={ports.url('alertmanager')}",
                "--cluster.listen-address=",  # one instance: no gossip port
            ],
            ready_path="/-/ready",
            directory=working_directory(binaries["alertmanager"]),
        ),
    ]


def grafana_binary() -> Path | None:
    """The `grafana` program, if it is on PATH; the stack also runs without it."""
    found = shutil.which("grafana")
    return Path(found) if found else None


def grafana(layout: Layout, ports: Ports, secret: SecretFiles, binary: Path, assets: Path) -> Program:
    """Grafana with the provisioned data sources and dashboards."""
    home = _GRAFANA_HOME if _GRAFANA_HOME.is_dir() else binary.resolve().parents[1]
    return Program(
        "grafana",
        [
            str(binary),
            "server",
            f"--homepath={home}",
            f"--config={assets / 'grafana' / 'grafana.ini'}",
        ],
        {
            "GF_SERVER_HTTP_ADDR": LOOPBACK,
            "GF_SERVER_HTTP_PORT": str(ports.grafana),
            "GF_PATHS_DATA": str(layout.data / "grafana"),
            "GF_PATHS_LOGS": str(layout.logs),
            "GF_PATHS_PROVISIONING": str(assets / "grafana" / "provisioning"),
            # Grafana's own way to read a file; `__FILE` variables are known to its container image only.
            "GF_SECURITY_ADMIN_PASSWORD": f"$__file{{{secret.grafana_admin_password}}}",
            "DRIFTBACK_DASHBOARDS_DIR": str(assets / "grafana" / "generated"),
            "DRIFTBACK_PROMETHEUS_URL": ports.url("prometheus"),
            "DRIFTBACK_ALERTMANAGER_URL": ports.url("alertmanager"),
        },
        "/api/health",
    )


def examples(layout: Layout, ports: Ports, secret: SecretFiles, assets: Path) -> list[Program]:
    """The two example services and their customers."""

    def service(name: str) -> Program:
        return Program(
            name,
            [sys.executable, "-m", f"examples.{name}"],
            {
                "PYTHONPATH": str(assets),
                "HOST": LOOPBACK,  # a shell may export its machine's name as HOST
                "PORT": str(getattr(ports, name)),
                "EXPORTER_URL": ports.url("exporter"),
                "EXPORTER_TOKEN_FILE": str(secret.ingest_token),
                "CONFIG_ROLLBACK_URL": ports.url("config_rollback"),
                "SERVICE_TOKEN_FILE": str(secret.service_token),
                "CACHE_DIR": str(layout.data / name),
            },
            "/active-version",
        )

    customers = Program(
        "traffic",
        [
            sys.executable,
            "-m",
            "examples.traffic",
            f"--chat-url={ports.url('chat')}",
            f"--guidance-url={ports.url('guidance')}",
        ],
        {"PYTHONPATH": str(assets)},
    )
    return [service("chat"), service("guidance"), customers]
