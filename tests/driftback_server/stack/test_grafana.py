"""`driftback up` where a Grafana is on PATH: a stand-in that gets the same arguments and requests.

No package has Grafana itself; its arguments and files are checked as Grafana would read them.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from tests.support.stacks import ROOT, answers, stack, wait_for

# Writes its arguments and environment, then answers its health check.
STAND_IN = f"""#!{sys.executable}
import http.server, json, os, pathlib, sys
told = {{"arguments": sys.argv[1:], "environment": dict(os.environ)}}
pathlib.Path(os.environ["GF_PATHS_DATA"], "told.json").write_text(json.dumps(told))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/api/health" else 404)
        self.end_headers()
address = (os.environ["GF_SERVER_HTTP_ADDR"], int(os.environ["GF_SERVER_HTTP_PORT"]))
http.server.HTTPServer(address, Handler).serve_forever()
"""


def test_grafana_on_the_path_gets_the_committed_files_and_what_they_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin" / "grafana"
    program.parent.mkdir()
    program.write_text(STAND_IN)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    with stack(tmp_path / "state", grafana=True) as running:
        wait_for("Grafana", 30, lambda: answers(f"{running.url('grafana')}/api/health"))
        told = json.loads((tmp_path / "state" / "data" / "grafana" / "told.json").read_text())
        environment = told["environment"]
        assert told["arguments"][0] == "server"
        assert f"--config={ROOT}/grafana/grafana.ini" in told["arguments"]

        provisioning = Path(environment["GF_PATHS_PROVISIONING"])
        assert provisioning == ROOT / "grafana" / "provisioning"
        sources = _read(provisioning / "datasources" / "driftback.yml", environment)["datasources"]
        urls = {source["type"]: source["url"] for source in sources}
        assert urls.keys() == {"prometheus", "alertmanager"}
        wait_for("both", 30, lambda: all(answers(f"{url}/-/ready") for url in urls.values()))
        (provider,) = _read(provisioning / "dashboards" / "driftback.yml", environment)["providers"]
        found = {path.stem for path in Path(provider["options"]["path"]).glob("*.json")}
        assert found == {"driftback-conversation", "driftback-persona", "driftback-pipeline"}
        home = _ini()["dashboards"]["default_home_dashboard_path"]
        variable = re.compile(r"\$__env\{(\w+)\}")
        assert Path(variable.sub(lambda name: environment[name[1]], home)).is_file()

        file = re.fullmatch(r"\$__file\{(.+)\}", environment["GF_SECURITY_ADMIN_PASSWORD"])
        assert file
        assert len(Path(file[1]).read_text().strip()) >= 32
        assert Path(file[1]).stat().st_mode & 0o077 == 0

        page = requests.Session()
        token = running.info["login_link"].partition("token=")[2].partition("&")[0]
        page.post(
            f"{running.url('config_rollback')}/login",
            data={"token": token, "next": "/"},
            headers={"Sec-Fetch-Site": "same-origin"},
            timeout=10,
        ).raise_for_status()
        overview = page.get(f"{running.url('config_rollback')}/", timeout=10).text
        assert f'href="{running.url("grafana")}' in overview


def _read(path: Path, environment: dict[str, str]) -> Any:
    """As Grafana reads provisioning: `$NAME` is the environment's, `$$` a dollar."""
    text = re.sub(r"\$([A-Z_]+)", lambda name: environment[name[1]], path.read_text(encoding="utf-8"))
    return yaml.safe_load(text)


def _ini() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "grafana" / "grafana.ini", encoding="utf-8")
    return parser
