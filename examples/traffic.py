"""Customers of the example services: a seeded stream of messages with topics, or the arrivals of a trace.

Messages arrive by a Poisson process. Topics are drawn from a fixed mix in which about 3% are on no persona's
list. Natural answer lengths are lognormal, or the trace's GeneratedTokens.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import requests

TOPICS = {
    "chat": {"orders": 34, "shipping": 24, "billing": 22, "returns": 17, "politics": 2, "medicine": 1},
    "guidance": {"listing": 50, "pricing": 30, "payout": 20},
}


@dataclass(frozen=True)
class Message:
    """A message to send `wait_seconds` after the one before it."""

    wait_seconds: float
    topic: str
    input_tokens: int
    natural_tokens: int


def generated(journey: str, per_second: float, seed: int) -> Iterator[Message]:
    """Messages without end, the same for the same seed."""
    rng = random.Random(f"{seed} {journey}")
    topics, weights = list(TOPICS[journey]), list(TOPICS[journey].values())
    while True:
        yield Message(
            rng.expovariate(per_second),
            rng.choices(topics, weights)[0],
            input_tokens=int(rng.lognormvariate(5.5, 0.6)),
            natural_tokens=int(rng.lognormvariate(4.1, 0.5)),
        )


def traced(journey: str, path: Path, seed: int) -> Iterator[Message]:
    """The arrivals and tokens of a trace (TIMESTAMP,ContextTokens,GeneratedTokens), with drawn topics."""
    rng = random.Random(f"{seed} {journey}")
    topics, weights = list(TOPICS[journey]), list(TOPICS[journey].values())
    before: datetime | None = None
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            at = datetime.fromisoformat(row["TIMESTAMP"])
            at = at.replace(tzinfo=at.tzinfo or UTC)  # Azure's traces are in UTC, some without saying so
            wait = (at - before).total_seconds() if before else 0.0
            before = at
            yield Message(
                wait,
                rng.choices(topics, weights)[0],
                int(row["ContextTokens"]),
                int(row["GeneratedTokens"]),
            )


async def send(url: str, messages: Iterator[Message], parallel: int = 64) -> None:
    """Sends each message at its time; a service that fails for a moment does not stop the traffic."""
    loop = asyncio.get_running_loop()
    slots = asyncio.Semaphore(parallel)
    pending: set[asyncio.Future[None]] = set()
    with ThreadPoolExecutor(parallel) as pool, requests.Session() as session:
        session.trust_env = False  # the services are near by: neither a proxy nor ~/.netrc is meant

        def post(message: Message) -> None:
            body = {
                "topic": message.topic,
                "input_tokens": message.input_tokens,
                "natural_tokens": message.natural_tokens,
            }
            try:
                session.post(f"{url}/messages", json=body, timeout=30)
            except requests.RequestException:
                return  # the customer goes away; the next one comes

        due = loop.time()
        for message in messages:
            due += message.wait_seconds
            await asyncio.sleep(max(0.0, due - loop.time()))
            await slots.acquire()
            call = loop.run_in_executor(pool, post, message)
            pending.add(call)
            call.add_done_callback(pending.discard)
            call.add_done_callback(lambda _: slots.release())
        await asyncio.gather(*pending)


async def main() -> None:
    """Sends to both services until it is stopped, or until the traces end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chat-url", default="http://127.0.0.1:9821")
    parser.add_argument("--guidance-url", default="http://127.0.0.1:9822")
    parser.add_argument("--chat-rate", type=float, default=5.0, help="messages per second")
    parser.add_argument("--guidance-rate", type=float, default=3.0, help="messages per second")
    parser.add_argument("--chat-trace", type=Path, help="take arrivals from this file instead")
    parser.add_argument("--guidance-trace", type=Path, help="take arrivals from this file instead")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()

    def stream(journey: str, trace: Path | None, rate: float) -> Iterator[Message]:
        return traced(journey, trace, options.seed) if trace else generated(journey, rate, options.seed)

    async with asyncio.TaskGroup() as group:
        group.create_task(send(options.chat_url, stream("chat", options.chat_trace, options.chat_rate)))
        group.create_task(
            send(options.guidance_url, stream("guidance", options.guidance_trace, options.guidance_rate))
        )


if __name__ == "__main__":
    asyncio.run(main())
