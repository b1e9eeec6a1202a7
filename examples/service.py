"""What the two example services share: a Starlette app that follows its persona's active configuration
and reports every finished message, both by `driftback`."""

from __future__ import annotations

import os
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from driftback import Active, ConfigClient, Recorder
from examples.simulated_llm import generate


@dataclass(frozen=True)
class ServiceSettings:
    """Where a service listens and whom it talks to; see `from_environment`."""

    host: str
    port: int
    persona: str
    exporter_url: str
    exporter_token: str
    config_rollback_url: str
    service_token: str
    cache_dir: Path

    @classmethod
    def from_environment(cls, persona: str, port: int) -> ServiceSettings:
        """Reads HOST, PORT, PERSONA, EXPORTER_URL, EXPORTER_TOKEN_FILE, CONFIG_ROLLBACK_URL,
        SERVICE_TOKEN_FILE and CACHE_DIR; raises KeyError with the name of a missing one."""
        env = os.environ
        return cls(
            host=env.get("HOST", "127.0.0.1"),
            port=int(env.get("PORT", port)),
            persona=env.get("PERSONA", persona),
            exporter_url=env.get("EXPORTER_URL", "http://127.0.0.1:9810"),
            exporter_token=Path(env["EXPORTER_TOKEN_FILE"]).read_text(encoding="utf-8-sig").strip(),
            config_rollback_url=env.get("CONFIG_ROLLBACK_URL", "http://127.0.0.1:9811"),
            service_token=Path(env["SERVICE_TOKEN_FILE"]).read_text(encoding="utf-8-sig").strip(),
            cache_dir=Path(env["CACHE_DIR"]),
        )


def create_app(settings: ServiceSettings, journey: str, refuses_topics: bool) -> Starlette:
    """A service of one journey; `refuses_topics` says whether a message can be out of scope."""
    recorder = Recorder(settings.exporter_url, token=settings.exporter_token)
    rng = random.Random(f"{journey} {settings.persona}")

    def announce(active: Active) -> None:
        recorder.declare(journey=journey, persona=active.persona, config_version=str(active.version))

    configs = ConfigClient(
        settings.config_rollback_url,
        token=settings.service_token,
        persona=settings.persona,
        cache_dir=settings.cache_dir,
        on_change=announce,
    )

    async def message(request: Request) -> JSONResponse:
        body = await request.json()
        active = configs.current
        if active is None:
            return JSONResponse({"error": "no configuration yet"}, status_code=503)
        config = active.config
        outcome, reason, answer = "ok", None, None
        started = time.monotonic()
        if refuses_topics and body["topic"] not in config["allowed_topics"]:
            outcome = "out_of_scope"
        try:
            answer = await generate(
                config["model"],
                # A refusal is one short sentence.
                15 if outcome == "out_of_scope" else int(body["natural_tokens"]),
                config["max_output_tokens"],
                config["timeout_ms"] / 1000,
                rng,
            )
        except TimeoutError:
            outcome, reason = "llm_error", "timeout"
        except KeyError:
            outcome, reason = "llm_error", "provider_error"
        recorder.record(
            journey=journey,
            persona=active.persona,
            config_version=str(active.version),
            latency_ms=(time.monotonic() - started) * 1000,
            outcome=outcome,
            reason=reason,
            ttft_ms=answer.first_token_seconds * 1000 if answer else None,
            input_tokens=int(body["input_tokens"]),
            output_tokens=answer.output_tokens if answer else None,
        )
        return JSONResponse({"outcome": outcome, "reason": reason, "config_version": active.version})

    async def active_version(_: Request) -> JSONResponse:
        active = configs.current
        return JSONResponse(
            {"persona": settings.persona, "config_version": active.version if active else None}
        )

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        configs.start()
        try:
            yield
        finally:
            configs.close()
            recorder.close()

    return Starlette(
        routes=[
            Route("/messages", message, methods=["POST"]),
            Route("/active-version", active_version),
        ],
        lifespan=lifespan,
    )


def run(settings: ServiceSettings, journey: str, refuses_topics: bool) -> None:
    """Serves until SIGTERM; on loopback unless HOST says otherwise."""
    app = create_app(settings, journey, refuses_topics)
    uvicorn.run(app, host=settings.host, port=settings.port, log_level="warning", timeout_graceful_shutdown=3)
