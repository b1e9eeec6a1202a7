"""The drama of `make demo`: healthy personas, a careless change, an alert, and the wait for a click."""

from __future__ import annotations

import shlex
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from config_rollback.outgoing import sessions as outgoing
from driftback_server.stack.errors import StackDiedError
from driftback_server.stack.layout import assets_dir
from driftback_server.stack.stack import Stack
from exporter.strict import read_yaml

PERSONA = "concierge"
_HEALTHY = ("concierge.yaml", "coach.yaml")
_CARELESS = "concierge-careless.yaml"
_POLL_SECONDS = 1.0
_TIMEOUT_SECONDS = 10
_SERVICES_FOLLOW_SECONDS = 60


@dataclass(frozen=True)
class Drama:
    """What the demo does, step by step; `say` prints a paragraph for the person who watches."""

    stack: Stack
    say: Callable[[str], None]
    careless_after_seconds: float

    def prepare(self) -> None:
        """Publishes the healthy personas if they are missing, or if an earlier demo ended before the
        click; returns when both services serve one."""
        active = {row["persona"]: row["active_version"] for row in self._get("/v1/ops/personas")["data"]}
        careless = _document(_CARELESS)["config"]
        for document in map(_document, _HEALTHY):
            persona = document["persona"]
            if persona not in active or self._config(persona, active[persona]) == careless:
                self._publish(document)
        deadline = time.monotonic() + _SERVICES_FOLLOW_SECONDS
        while not all(self._served(service) for service in ("chat", "guidance")):
            if time.monotonic() > deadline:
                raise StackDiedError("the example services did not receive a configuration; see their logs")
            time.sleep(_POLL_SECONDS)

    def steps(self) -> Iterator[None]:
        """Plays the whole story once; yields about once a second, so that the caller can stop it."""
        started = time.monotonic()
        self.say(
            f"Two healthy services answer customers. In {self.careless_after_seconds:.0f} s somebody "
            f"publishes a careless configuration of the persona {PERSONA}."
        )
        yield from _until(lambda: time.monotonic() >= started + self.careless_after_seconds)
        careless = _document(_CARELESS)
        bad = self._active_version()
        if self._config(PERSONA, bad) != careless["config"]:
            bad = self._publish(careless)
        self.say(
            f"Version {bad} of {PERSONA} is live: a cheaper model, a shorter time-out, two topics lost. "
            "Now wait for the alert (within 3 minutes)."
        )
        yield from _until(lambda: self._firing(bad))
        alert = self._firing(bad)[0]
        self.say(
            f"ALERT {alert['labels']['alertname']}: {alert['annotations']['summary']}\n"
            f"Click:           {alert['annotations']['rollback_url']}\n"
            f"Not logged in?   {self.stack.login_link(_path_of(alert['annotations']['rollback_url']))}\n"
            "                 (works once; more with `driftback login-link --state-dir "
            f"{shlex.quote(str(self.stack.layout.root))}`)"
        )
        yield from _until(lambda: self._active_version() != bad)
        self.say(
            f"{PERSONA} is on version {self._active_version()} again. The alert ends when nothing has served "
            f"version {bad} for a few minutes."
        )
        yield from _until(lambda: not self._firing(bad))
        self.say("The alert is resolved: the conversation is healthy. Ctrl-C stops everything.")

    def _publish(self, document: dict[str, Any]) -> int:
        answer = outgoing.request(
            "POST",
            f"{self._url}/v1/ops/personas/{document['persona']}/versions",
            json={"config": document["config"], "note": document["note"]},
            headers=self._headers | {"Idempotency-Key": str(uuid.uuid4())},
            timeout=_TIMEOUT_SECONDS,
        )
        answer.raise_for_status()
        return int(answer.json()["data"]["version"])

    def _active_version(self) -> int:
        rows = self._get("/v1/ops/personas")["data"]
        return int(next(row["active_version"] for row in rows if row["persona"] == PERSONA))

    def _config(self, persona: str, version: int) -> dict[str, Any]:
        config: dict[str, Any] = self._get(f"/v1/ops/personas/{persona}/versions/{version}")["data"]["config"]
        return config

    def _firing(self, version: int) -> list[dict[str, Any]]:
        """Alertmanager's active alerts about that version of the persona."""
        answer = outgoing.request(
            "GET",
            f"{self.stack.ports.url('alertmanager')}/api/v2/alerts",
            params={"active": "true", "filter": [f'persona="{PERSONA}"', f'config_version="{version}"']},
            timeout=_TIMEOUT_SECONDS,
        )
        answer.raise_for_status()
        alerts: list[dict[str, Any]] = answer.json()
        return alerts

    def _served(self, service: str) -> bool:
        try:
            url = f"{self.stack.ports.url(service)}/active-version"
            answer = outgoing.request("GET", url, timeout=_TIMEOUT_SECONDS)
        except requests.RequestException:
            return False
        return answer.json()["config_version"] is not None

    @property
    def _url(self) -> str:
        return self.stack.ports.url("config_rollback")

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.stack.ops_token()}"}

    def _get(self, path: str) -> dict[str, Any]:
        answer = outgoing.request("GET", self._url + path, headers=self._headers, timeout=_TIMEOUT_SECONDS)
        answer.raise_for_status()
        body: dict[str, Any] = answer.json()
        return body


def _until(condition: Callable[[], object]) -> Iterator[None]:
    """Yields about once a second until the condition holds."""
    while True:
        try:
            if condition():
                return
        except requests.RequestException:
            pass  # what was asked is being restarted: ask again
        time.sleep(_POLL_SECONDS)
        yield


def _document(name: str) -> dict[str, Any]:
    path: Path = assets_dir() / "examples" / "personas" / name
    document: dict[str, Any] = read_yaml(path.read_text(encoding="utf-8"))
    return document


def _path_of(url: str) -> str:
    return "/" + url.split("/", 3)[3]
