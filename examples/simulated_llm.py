"""A stand-in for a language model: how long an answer takes follows from the model and the token limit.

A model reads the prompt (time to first token) and then writes at a steady pace. The answer that a message
deserves has a natural length; `max_output_tokens` cuts it. Nothing here knows of personas or versions, so
drift in the demo has its cause in the configuration and nowhere else.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Model:
    """How fast a model is."""

    first_token_seconds: float
    tokens_per_second: float


MODELS = {
    "swift-1": Model(first_token_seconds=0.15, tokens_per_second=120.0),
    "budget-1": Model(first_token_seconds=0.45, tokens_per_second=40.0),
}


class APIError(Exception):
    """What the library of a provider raises when the provider refuses a call."""


async def stream(
    model: str, natural_tokens: int, max_output_tokens: int, rng: random.Random
) -> AsyncIterator[int]:
    """Yields how many tokens were written since the last time: the first one, then the rest.

    Takes as long as the model would. Raises APIError for a model that the provider does not have.
    """
    speed = MODELS.get(model)
    if speed is None:
        raise APIError(f"no such model: {model}")
    tokens = min(natural_tokens, max_output_tokens)
    wobble = rng.lognormvariate(0.0, 0.25)
    await asyncio.sleep(speed.first_token_seconds * wobble)
    yield 1
    await asyncio.sleep(tokens / speed.tokens_per_second * wobble)
    yield tokens - 1
