"""`GET /v1/personas/{persona}/config`, beside a bare Starlette route that answers the same bytes."""

import sys
from collections.abc import Iterator
from statistics import median

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from benchmarks import servers
from benchmarks.config_rollback_state import CONFIG, PERSONA, served
from benchmarks.row import Row, compare
from config_rollback.personas.persona_config import canonical_json

PATH = f"/v1/personas/{PERSONA}/config"
CONNECTIONS = 32
SECONDS = 2.0
ROUNDS = 3
PREPARED = 2_000
GOAL = 0.5


def rows() -> Iterator[Row]:
    """Beside the same HTTP parser as ours (httptools), and beside uvicorn's other one."""
    rates: dict[str, list[float]] = {"ours": [], "httptools": [], "h11": []}
    for _ in range(ROUNDS):
        with served(1) as server:
            rates["ours"].append(_rate(server.port))
        for parser in ("httptools", "h11"):
            with servers.program("benchmarks.bench_config_rollback_fetch", parser) as port:
                rates[parser].append(_rate(port))
    ours = median(rates["ours"])
    for parser in ("httptools", "h11"):
        yield compare(
            f"config fetch vs a bare Starlette route on uvicorn with {parser}",
            ours,
            median(rates[parser]),
            "requests/s",
            ">=",
            GOAL,
            f"{CONNECTIONS} connections; ours checks a token, notes the version, sets security headers.",
        )


def _rate(port: int) -> float:
    return servers.load(port, CONNECTIONS, SECONDS, _request, PREPARED).requests_per_second


def _request(connection: int, _: int) -> bytes:
    query = f"?wait=0&client=process-{connection}&serving=1"
    return f"GET {PATH}{query} HTTP/1.1\r\n{servers.HEADERS}\r\n".encode()


def peer() -> Starlette:
    """One route, no check, a body made beforehand."""
    body = f'{{"data":{{"persona":"{PERSONA}","version":1,"config":{canonical_json(CONFIG)}}}}}'.encode()

    async def config(_: Request) -> Response:
        return Response(body, media_type="application/json", headers={"ETag": '"1-1"'})

    return Starlette(routes=[Route("/v1/personas/{persona}/config", config)])


if __name__ == "__main__":
    uvicorn.run(peer(), port=int(sys.argv[1]), http=sys.argv[2], log_config=None, access_log=False)
