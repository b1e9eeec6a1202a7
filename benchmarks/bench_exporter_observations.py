"""`POST /v1/observations` in batches of 100, beside JSON into prometheus_client children."""

import json
import random
import sys
from collections.abc import Iterator
from statistics import median
from typing import Any

import uvicorn
from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from benchmarks import servers
from benchmarks.row import Row, compare
from driftback.contract import LATENCY_BOUNDS

LABELS = ("journey", "persona", "config_version")
BATCH = 100
CONNECTIONS = 32
SECONDS = 2.0
ROUNDS = 3


def rows() -> Iterator[Row]:
    """The one row."""
    ours, theirs = [], []
    for run in range(ROUNDS):
        with servers.exporter() as (port, _):
            ours.append(servers.load(port, CONNECTIONS, SECONDS, _request(run)).requests_per_second)
        with servers.program("benchmarks.bench_exporter_observations") as port:
            theirs.append(servers.load(port, CONNECTIONS, SECONDS, _request(run)).requests_per_second)
    yield compare(
        f"/v1/observations, batches of {BATCH}, vs json into prometheus_client children",
        median(ours) * BATCH,
        median(theirs) * BATCH,
        "messages/s",
        ">=",
        3.5,
        "The peer runs on Starlette, uvicorn's h11 and keeps nothing on disk; ours does.",
    )


def _request(run: int) -> servers.Request:
    source = random.Random(5)
    body = json.dumps([_observation(source) for _ in range(BATCH)]).encode()

    def request(connection: int, number: int) -> bytes:
        key = f"Idempotency-Key: {run}-{connection}-{number}\r\n"
        return servers.post("/v1/observations", body, key)

    return request


def _observation(source: random.Random) -> dict[str, Any]:
    return {
        "journey": "chat",
        "persona": f"persona-{source.randrange(5)}",
        "config_version": "1",
        "outcome": source.choice(["ok"] * 9 + ["out_of_scope"]),
        "latency_ms": source.lognormvariate(7, 0.5),
        "input_tokens": source.randrange(1000),
        "output_tokens": source.randrange(500),
    }


def peer() -> Starlette:
    """What one writes with json and prometheus_client."""
    registry = CollectorRegistry()
    messages = Counter("messages", "m", LABELS, registry=registry)
    out_of_scope = Counter("out_of_scope", "o", LABELS, registry=registry)
    latency = Histogram("latency", "l", LABELS, buckets=LATENCY_BOUNDS, registry=registry)
    tokens = Counter("tokens", "t", (*LABELS, "direction"), registry=registry)

    async def observations(request: Request) -> JSONResponse:
        for item in json.loads(await request.body()):
            labels = (item["journey"], item["persona"], item["config_version"])
            messages.labels(*labels).inc()
            latency.labels(*labels).observe(item["latency_ms"] / 1000)
            tokens.labels(*labels, "input").inc(item["input_tokens"])
            tokens.labels(*labels, "output").inc(item["output_tokens"])
            if item["outcome"] == "out_of_scope":
                out_of_scope.labels(*labels).inc()
        return JSONResponse({"data": {}})

    return Starlette(routes=[Route("/v1/observations", observations, methods=["POST"])])


if __name__ == "__main__":
    uvicorn.run(peer(), port=int(sys.argv[1]), http="h11", log_config=None, access_log=False)
