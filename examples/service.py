"""What the two example services share: a Starlette app that follows its persona's active configuration
and reports every finished message, both by `driftback`."""

from __future__ import annotations

import asyncio
import os
import random
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from driftback import Active, ConfigClient, Recorder
from examples.simulated_llm import APIError, stream

log = structlog.get_logger(__name__)


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


def create_app(recorder: Recorder, configs: ConfigClient, journey: str, refuses_topics: bool) -> Starlette:
    """A service of one journey; `refuses_topics` says whether a message can be out of scope."""
    rng = random.Random(journey)

    async def message(request: Request) -> JSONResponse:
        body = await request.json()
        request_id = uuid.uuid4().hex
        active = configs.current  # once per message: the version may change while one is answered
        if active is None:
            return JSONResponse({"error": "no configuration yet", "request_id": request_id}, status_code=503)
        about = log.bind(request_id=request_id, persona=active.persona, config_version=active.version)
        config = active.config
        refused = refuses_topics and body["topic"] not in config["allowed_topics"]
        # A refusal is one short sentence.
        natural_tokens = 15 if refused else int(body["natural_tokens"])
        written = 0
        try:
            async with recorder.message(journey=journey, config=active) as counted:
                counted.tokens(input=int(body["input_tokens"]))
                if refused:
                    counted.out_of_scope()
                async with asyncio.timeout(config["timeout_ms"] / 1000):
                    answer = stream(config["model"], natural_tokens, config["max_output_tokens"], rng)
                    async for tokens in answer:
                        counted.first_token()
                        written += tokens
                counted.tokens(output=written)
        except (TimeoutError, APIError) as error:
            about.warning("message_failed", error=repr(error))
            return JSONResponse({"error": "no answer", "request_id": request_id}, status_code=502)
        about.info("message_answered", refused=refused, output_tokens=written)
        return JSONResponse({"refused": refused, "output_tokens": written, "request_id": request_id})

    async def active_version(_: Request) -> JSONResponse:
        active = configs.current
        return JSONResponse({"config_version": active.version if active else None})

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
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ]
    )
    recorder = Recorder(settings.exporter_url, token=settings.exporter_token)

    def announce(active: Active) -> None:
        recorder.declare(journey=journey, persona=active.persona, config_version=active.version)

    configs = ConfigClient(
        settings.config_rollback_url,
        token=settings.service_token,
        persona=settings.persona,
        cache_dir=settings.cache_dir,
        on_change=announce,
    )
    app = create_app(recorder, configs, journey, refuses_topics)
    uvicorn.run(app, host=settings.host, port=settings.port, log_level="warning", timeout_graceful_shutdown=3)
