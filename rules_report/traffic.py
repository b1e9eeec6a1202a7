"""Random traffic: a daily cycle, a wobbling true rate, a step. Arrays are [minute, run]."""

import math

import numpy as np

from rules_report.drift_model import DAY, Counts, Floats

_CORRELATION_MINUTES = 120.0


def wobble(rng: np.random.Generator, minutes: int, runs: int, deviation: float) -> Floats:
    """Factors on the true rate: log-normal around 1, correlated over two hours (Ornstein-Uhlenbeck)."""
    keep = math.exp(-1 / _CORRELATION_MINUTES)
    state = rng.standard_normal(runs)
    factors = np.empty((minutes, runs))
    for i in range(minutes):
        factors[i] = state
        state = keep * state + math.sqrt(1 - keep**2) * rng.standard_normal(runs)
    result: Floats = np.exp(deviation * factors - deviation**2 / 2)
    return result


def messages(rng: np.random.Generator, minutes: int, runs: int, per_hour: float) -> Counts:
    """Messages of each minute; their rate swings by 70% over the day, each run at another hour."""
    phase = rng.integers(0, DAY, runs)
    cycle = 1 + 0.7 * np.sin(2 * np.pi * (np.arange(minutes)[:, None] + phase) / DAY)
    return rng.poisson(per_hour / 60 * cycle)


def events(rng: np.random.Generator, sent: Counts, share: Floats, deviation: float) -> Counts:
    """Events among the messages sent, `share` being the expected rate of each minute."""
    factors = wobble(rng, sent.shape[0], sent.shape[1], deviation)
    return rng.binomial(sent, np.minimum(share[:, None] * factors, 1))
