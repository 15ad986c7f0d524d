"""How points compare: by the mean of their repeats, and by several metrics at once."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rayconvai.sweep.spec import MetricSpec

if TYPE_CHECKING:
    from rayconvai.sweep.state import SweepState, TrialRecord


@dataclass(frozen=True)
class GroupRank:
    """A point by the mean of its repeats, with the interval that holds the true mean 95 times in 100."""

    group: int
    trials: list[TrialRecord]
    values: list[float]
    """The best of each trial that has one."""
    mean: float | None
    low: float | None
    """None for one value: it says nothing of the spread."""
    high: float | None


def rank_group(number: int, trials: list[TrialRecord], metric: str, mode: str) -> GroupRank:
    """Take the mean of a point's trials."""
    bests = [trial.best(metric, mode) for trial in trials if trial.usable]
    values = [best[0] for best in bests if best]
    mean = statistics.fmean(values) if values else None
    if mean is None or len(values) < 2:
        return GroupRank(number, trials, values, mean, None, None)
    half = t_quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return GroupRank(number, trials, values, mean, mean - half, mean + half)


_T = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622)


def t_quantile(freedom: int) -> float:
    """Return Student's t that 97.5 % lie below, to a ten-thousandth of it."""
    if freedom <= len(_T):
        return _T[freedom - 1]
    # The expansion in 1/freedom around the normal quantile (Abramowitz and Stegun, 26.7.5).
    z = statistics.NormalDist().inv_cdf(0.975)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


@dataclass(frozen=True)
class FrontPoint:
    """A point of the Pareto front, with the mean over its trials of each metric of the sweep."""

    group: int
    trials: list[TrialRecord]
    values: list[float]


def outcome(trial: TrialRecord, metrics: Sequence[MetricSpec]) -> list[float] | None:
    """Return a trial's metrics at the epoch where the first is best; None if one is not known there."""
    best = trial.best(metrics[0].name, metrics[0].mode)
    if best is None:
        return None
    values = [trial.value_at(metric.name, best[1]) for metric in metrics]
    return None if None in values else [value for value in values if value is not None]


def front(state: SweepState) -> list[FrontPoint]:
    """Return the Pareto front, the best in the first metric first."""
    metrics = state.metrics
    signs = [1 if metric.mode == "min" else -1 for metric in metrics]
    points = []
    for group, trials in state.groups().items():
        rows = [found for trial in trials if trial.usable and (found := outcome(trial, metrics)) is not None]
        if rows:
            points.append(FrontPoint(group, trials, [statistics.fmean(column) for column in zip(*rows, strict=True)]))

    def losses(point: FrontPoint) -> list[float]:
        return [sign * value for sign, value in zip(signs, point.values, strict=True)]

    best: list[FrontPoint] = []
    for point in sorted(points, key=losses):  # what beats a point stands before it
        if not any(all(a <= b for a, b in zip(losses(other), losses(point), strict=True)) for other in best):
            best.append(point)
    return best
