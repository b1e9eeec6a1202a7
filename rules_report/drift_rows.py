"""False alarms, delays, persistence and ends of the drift alerts; versions named by the regression alert."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from rules_report import traffic
from rules_report.drift_model import DAY, WEEK, Flags, Floats, drift, regression
from rules_report.rows import Row

RATE, BAD_RATE, FLOOR = 0.03, 0.09, 0.005
QUIET_WOBBLE, DRIFT_WOBBLE = 0.3, 0.2
VOLUMES = (5, 20, 100, 500, 5_000, 50_000)
DELAY_GOALS = {20: 480, 100: 150, 5_000: 60}
VERSION_DELAY_GOALS = {100: 150, 5_000: 15}
LIFETIME = 34 * 60
"""Minutes that each of the five versions serves; the third is bad."""


def rows(runs: int, volumes: tuple[int, ...] = VOLUMES) -> Iterator[Row]:
    """Every figure about drift, from this many random personas each."""
    for volume in volumes:
        rng = np.random.default_rng(volume)
        yield Row(f"false alarms, {volume} msg/h", _false_alarms(rng, volume, runs), "per week", "most", 0.5)
        delay, share, end = _drift(rng, volume, runs)
        if volume in DELAY_GOALS:
            yield Row(f"delay of 3% -> 9%, {volume} msg/h", delay, "min", "most", DELAY_GOALS[volume])
            half = DELAY_GOALS[volume] / 2
            yield Row(f"delay of 3% -> 9%, {volume} msg/h, aim", delay, "min", "most", half)
        yield Row(f"on through a drift, {volume} msg/h", share, "share", "least", 0.85)
        if volume >= 100:
            yield Row(f"end after recovery, {volume} msg/h", end, "min", "most", 80)
        if volume >= 20 and volume <= 5_000:
            yield from _versions(rng, volume, runs)


def _false_alarms(rng: np.random.Generator, volume: int, runs: int) -> float:
    minutes = DAY + 2 * WEEK
    sent = traffic.messages(rng, minutes, runs, volume)
    events = traffic.events(rng, sent, np.full(minutes, RATE), QUIET_WOBBLE)
    on = drift(sent, events, FLOOR, start=WEEK).on[WEEK + DAY :]
    return float(_onsets(on).mean() * WEEK / len(on))


def _onsets(on: Flags, gap: int = 60) -> Floats:
    """Alarms per run; one that comes back within the gap is the same."""
    count, last = np.zeros(on.shape[1]), np.full(on.shape[1], -WEEK)
    for i in range(len(on)):
        now = on[i]
        count += now & (i - last > gap)
        last = np.where(now, i, last)
    return count


def _drift(rng: np.random.Generator, volume: int, runs: int) -> tuple[float, float, float]:
    """Median delay (minutes), share of the rest of the drift that it is on, median time to its end."""
    length = (5 if volume < 100 else 2) * DAY
    begin, over = WEEK + DAY, WEEK + DAY + length
    share = np.full(over + DAY, RATE)
    share[begin:over] = BAD_RATE
    sent = traffic.messages(rng, len(share), runs, volume)
    on = drift(sent, traffic.events(rng, sent, share, DRIFT_WOBBLE), FLOOR, start=WEEK).on
    during, after = on[begin:over], on[over:]
    found: Flags = np.any(during, axis=0)
    delay = np.where(found, during.argmax(axis=0) + 1, np.inf)
    stayed = [during[int(delay[r]) :, r].mean() for r in range(runs) if delay[r] < length]
    ends = [_end(after[:, r]) for r in range(runs) if found[r]]
    return float(np.median(delay)), float(np.mean(stayed)), float(np.median(ends))


def _end(on: Flags, quiet: int = 60) -> int:
    """Minutes until the alert is off for an hour."""
    last = -1
    for i in np.flatnonzero(on):
        if i - last > quiet:
            break
        last = int(i)
    return last + 1


def _versions(rng: np.random.Generator, volume: int, runs: int) -> Iterator[Row]:
    births = [version * LIFETIME for version in range(5)]
    limit = 5 * LIFETIME
    share = np.full(limit, RATE)
    share[births[2] : births[3]] = BAD_RATE
    sent = traffic.messages(rng, limit, runs, volume)
    found = regression(sent, traffic.events(rng, sent, share, DRIFT_WOBBLE), births, limit)
    named, paged = (_found(flags, births[2]) for flags in (found.worse, found.severe))
    often = volume >= 100
    yield Row(f"bad version named, {volume} msg/h", named.right, "share", "least", 1.0 if often else 0.85)
    yield Row(f"bad version paged, {volume} msg/h", paged.right, "share", "least", 0.99 if often else 0.75)
    yield Row(f"good versions named, {volume} msg/h", named.wrong, "share", "most", 0.02)
    yield Row(f"good versions paged, {volume} msg/h", paged.wrong, "share", "most", 0.005)
    yield Row(f"named all the time that is left, {volume} msg/h", named.stayed, "share", "least", 0.85)
    if volume in VERSION_DELAY_GOALS:
        goal = VERSION_DELAY_GOALS[volume]
        yield Row(f"delay of the bad version, {volume} msg/h", named.delay, "min", "most", goal)
        yield Row(f"delay of its page, {volume} msg/h", paged.delay, "min", "most", goal)


class _Found(NamedTuple):
    """Share of bad and of good versions, median delay (minutes), share of the time after it that it is on."""

    right: float
    wrong: float
    delay: float
    stayed: float


def _found(flags: Flags, born: int) -> _Found:
    bad = flags[2, born : born + LIFETIME]
    right = bad.any(axis=0)
    first = np.where(right, bad.argmax(axis=0), LIFETIME)
    return _Found(
        float(right.mean()),
        float(flags[[1, 3, 4]].any(axis=1).mean()),
        float(np.median(np.where(right, first + 1, np.inf))),
        float(bad.sum() / (LIFETIME - first).sum()),
    )
