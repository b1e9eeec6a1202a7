"""A stand-in for a language model: how long an answer takes follows from the model and the token limit.

A model reads the prompt (time to first token) and then writes at a steady pace. The answer that a message
deserves has a natural length; `max_output_tokens` cuts it. Nothing here knows of personas or versions, so
drift in the demo has its cause in the configuration and nowhere else.
"""

from __future__ import annotations

import asyncio
import random
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


@dataclass(frozen=True)
class Answer:
    """What a finished call gives."""

    output_tokens: int
    first_token_seconds: float


async def generate(
    model: str, natural_tokens: int, max_output_tokens: int, timeout_seconds: float, rng: random.Random
) -> Answer:
    """Takes as long as the model would; raises TimeoutError after `timeout_seconds`, KeyError for a model
    that the provider does not have."""
    speed = MODELS[model]
    tokens = min(natural_tokens, max_output_tokens)
    wobble = rng.lognormvariate(0.0, 0.25)
    first = speed.first_token_seconds * wobble
    async with asyncio.timeout(timeout_seconds):
        await asyncio.sleep(first + tokens / speed.tokens_per_second * wobble)
    return Answer(tokens, first)
