"""A Python model of rules/drift.yml for many runs at once.

tests/rules_report/test_drift_model.py holds it against promtool.

One version per persona, one evaluation a minute, no outages. Arrays are [minute, run].
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from rules.build import TEMPLATES

Counts = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

DAY = 1440
WEEK = 7 * DAY


def parameters() -> dict[str, Any]:
    """The parameters that the rule files are built from."""
    loaded: dict[str, Any] = yaml.safe_load((TEMPLATES / "parameters.yml").read_text(encoding="utf-8"))
    return loaded


@dataclass(frozen=True)
class Trace:
    """What the rules record: baseline (nan while there is none), evidence, whether the alert is on."""

    baseline: Floats
    evidence: Floats
    on: Flags


def _cumulated(counts: Counts) -> Counts:
    return np.concatenate([np.zeros((1, counts.shape[1]), np.int64), np.cumsum(counts, axis=0)])


def drift(messages: Counts, events: Counts, floor: float, start: int = 0) -> Trace:
    """Follows every run from minute `start` on (before it, counts are only kept)."""
    p = parameters()["drift"]
    minutes, runs = messages.shape
    n, k = _cumulated(messages), _cumulated(events)
    step = math.log(p["odds"])
    surge_minutes = p["surge_seconds"] // 60
    trace = Trace(
        np.full((minutes, runs), np.nan), np.zeros((minutes, runs)), np.zeros((minutes, runs), bool)
    )
    baseline, summed = np.full(runs, np.nan), np.zeros(runs)
    on, seen_on = np.zeros(runs, bool), np.full(runs, -WEEK)

    def last(counts: Counts, i: int, width: int) -> Counts:
        result: Counts = counts[i + 1] - counts[max(0, i + 1 - width)]
        return result

    for i in range(start, minutes):
        n0, k0 = last(n, i, WEEK) - last(n, i, DAY), last(k, i, WEEK) - last(k, i, DAY)
        frozen = i - seen_on <= DAY
        if i % 5 == 0:  # the newest look finds what the evaluation before this one recorded
            frozen |= on
        if frozen.any() and i - WEEK >= start:
            since = max(start, i - WEEK - DAY)
            since += -since % 5  # the rule looks every five minutes
            frozen &= ~trace.on[since : i - WEEK + 1 : 5].any(axis=0)
        renewed = (n0 >= p["baseline_minimum_messages"]) & ~frozen
        baseline = np.where(renewed, np.maximum((k0 + 1) / np.maximum(n0, 1), floor), baseline)
        known = ~np.isnan(baseline)
        b = np.where(known, baseline, 1.0)
        weight = 1 + p["wobble"] * b * last(n, i, 60)
        change = (step * events[i] - messages[i] * np.log1p((p["odds"] - 1) * b)) / weight
        summed = np.where(known, np.clip(summed + change, 0, p["start"]), 0)
        prior = p["surge_prior"]
        ratio = (last(k, i, surge_minutes) + prior) / (last(n, i, surge_minutes) * b + prior)
        surge = np.where(known, np.maximum(p["surge_gain"] * np.log(ratio), 0), 0)
        evidence = np.minimum(summed + surge, p["start"])
        on = (evidence >= p["start"]) | (on & (evidence >= p["end"]))
        if i % 5 == 0:
            seen_on = np.where(on, i, seen_on)
        trace.baseline[i], trace.evidence[i], trace.on[i] = baseline, evidence, on
    return trace


@dataclass(frozen=True)
class Regression:
    """Whether each version is called worse than the one before it, and bad enough for a page.

    Arrays are [version, minute, run]. Pages that come with a page about drift are left out.
    """

    worse: Flags
    severe: Flags


def regression(messages: Counts, events: Counts, births: list[int], limit: int) -> Regression:
    """Judges each version while it serves.

    `births` are the minutes in which the versions take over, one after the other, until `limit`.
    """
    p = parameters()["regression"]
    runs = messages.shape[1]
    shape = (len(births), limit, runs)
    found = Regression(np.zeros(shape, bool), np.zeros(shape, bool))
    ends = [*births[1:], limit]
    n, k = _cumulated(messages), _cumulated(events)

    def counted(c: Counts, version: int, i: int, width: int) -> Counts:
        until, since = min(i + 1, ends[version]), max(births[version], i + 1 - width)
        result: Counts = c[max(until, since)] - c[since]
        return result

    def wobble(version: int, i: int, width: int) -> float:
        """What is left of the wobble's variance after the hours that the rule finds the version serving."""
        last = min(i, ends[version])
        hours = last // 60 - max(births[version] - 1, i - width) // 60
        return 1 / (1 + float(max(hours, 0)) / float(p["wobble_hours"]))

    for version in range(1, len(births)):
        worse, severe = np.zeros(runs, bool), np.zeros(runs, bool)
        for i in range(births[version], ends[version]):
            n1, k1 = counted(n, version, i, DAY), counted(k, version, i, DAY)
            n0, k0 = counted(n, version - 1, i, WEEK), counted(k, version - 1, i, WEEK)
            enough = (
                (n1 >= p["minimum_messages"]) & (n0 >= p["minimum_messages"]) & (k1 >= p["minimum_events"])
            )
            m1, m0 = np.maximum(n1, 1), np.maximum(n0, 1)
            rate, reference, pooled = k1 / m1, k0 / m0, (k1 + k0) / (m1 + m0)
            left = wobble(version, i, DAY) + wobble(version - 1, i, WEEK)
            variance = pooled * (1 - pooled) * (1 / m1 + 1 / m0) + (p["wobble"] * reference) ** 2 * left
            z = (rate - reference) / np.sqrt(np.maximum(variance, 1e-300))
            # Where there is no z the rules remember what they last said.
            worse = np.where(enough, (z > p["threshold"]) | (worse & (z >= p["end"])), worse)
            large = (rate > p["page_factor"] * reference) & (k1 - m1 * reference >= p["page_excess_events"])
            page = (z > p["page_threshold"]) & large
            severe = np.where(enough, worse & (page | severe), severe)
            found.worse[version, i], found.severe[version, i] = enough & worse, enough & severe
    return found
