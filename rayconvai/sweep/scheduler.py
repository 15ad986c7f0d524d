"""Who stops trials early, and who waits for whom.

A scheduler is a function of what the journal knows: it remembers nothing itself, so a sweep that is taken up again
decides as it would have. Trials are asked about in two ways. ``stops`` is asked after each report. Where trials have
to be seen together, each runs ``until`` an epoch and pauses there, and ``release`` says how they go on.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

import numpy as np

from rayconvai.sweep.domains import Point
from rayconvai.sweep.spec import MetricSpec
from rayconvai.sweep.state import ENDED, SweepState, TrialRecord

MEDIAN_OF = 3
"""The median rule waits for so many other trials."""


@dataclass(frozen=True)
class Go:
    """A paused trial goes on."""

    trial: int


@dataclass(frozen=True)
class Stop:
    """A paused trial is at its end."""

    trial: int


@dataclass(frozen=True)
class TakeOver:
    """A paused trial goes on from another one's checkpoint of the same epoch, at a new point."""

    trial: int
    donor: int
    epoch: int
    point: Point


Order = Go | Stop | TakeOver


class Scheduler:
    """Lets every trial run to its end; what the others have in common."""

    def __init__(self, metric: MetricSpec, max_epochs: int) -> None:
        self.metric, self.max_epochs = metric, max_epochs

    def until(self, trial: TrialRecord) -> int | None:
        """Return the epoch after which the trial is to pause next; None: it need not."""
        return None

    def stops(self, state: SweepState, trial: TrialRecord) -> bool:
        """Tell whether the last report of a trial is to be its last."""
        return False

    def release(self, state: SweepState, *, exhausted: bool) -> Sequence[Order]:
        """Return how paused trials go on, those that can be judged now.

        Args:
            state: what is known.
            exhausted: no more trials will be added.
        """
        return []

    def loss(self, trial: TrialRecord, epoch: int) -> float | None:
        """Return the metric at an epoch such that less is better; None if it was not reported."""
        value = trial.value_at(self.metric.name, epoch)
        return None if value is None else value if self.metric.mode == "min" else -value


class Asha(Scheduler):
    """Asynchronous successive halving (arXiv 1810.05934), with the cutoff that Ray Tune's has.

    A trial at a rung is stopped if it is worse than the best 1/reduction of those that reached the rung before it. With
    repeats the trials of a point wait for each other at the rung, and their mean is judged.
    """

    def __init__(self, metric: MetricSpec, max_epochs: int, *, grace: int, reduction: float, repeats: int = 1) -> None:
        super().__init__(metric, max_epochs)
        self.reduction, self.repeats = reduction, repeats
        self.rungs = rungs(grace, reduction, max_epochs)

    def until(self, trial: TrialRecord) -> int | None:
        if self.repeats == 1:
            return None
        return next((rung for rung in self.rungs if rung > trial.released_at), None)

    def stops(self, state: SweepState, trial: TrialRecord) -> bool:
        reached = [rung for rung in self.rungs if self._epoch_at(trial, rung) == trial.epoch]
        if self.repeats > 1 or not reached:
            return False
        others = [other for other in state.trials.values() if other is not trial]
        return self._falls_behind(self._at(trial, reached[-1]), [self._at(other, reached[-1]) for other in others])

    def release(self, state: SweepState, *, exhausted: bool) -> list[Order]:
        orders: list[Order] = []
        means: dict[int, dict[int, float]] = {}
        for members in state.groups().values():
            for rung in {trial.paused_at for trial in members if trial.paused_at is not None}:
                if not self._all_at(members, rung):
                    continue
                if rung not in means:
                    means[rung] = self._means(state, rung)
                group = members[0].group
                others = [mean for other, mean in means[rung].items() if other != group]
                falls_behind = self._falls_behind(means[rung].get(group), others)
                waiting = [trial.number for trial in members if trial.paused_at == rung]
                orders += [Stop(number) if falls_behind else Go(number) for number in waiting]
        return orders

    def _means(self, state: SweepState, rung: int) -> dict[int, float]:
        """Return the mean of every point all of whose trials have been at the rung."""
        means = {}
        for number, members in state.groups().items():
            values = [value for trial in members if (value := self._at(trial, rung)) is not None]
            if values and self._all_at(members, rung):
                means[number] = fmean(values)
        return means

    def _all_at(self, members: Sequence[TrialRecord], rung: int) -> bool:
        arrived = [trial.status in ENDED or self._at(trial, rung) is not None for trial in members]
        return len(members) == self.repeats and all(arrived)

    def _falls_behind(self, loss: float | None, others: Sequence[float | None]) -> bool:
        known = [other for other in others if other is not None]
        return loss is not None and bool(known) and loss > float(np.percentile(known, 100 / self.reduction))

    def _epoch_at(self, trial: TrialRecord, rung: int) -> int | None:
        """Return the first epoch reported at or after the rung."""
        index = bisect_left(trial.epochs, rung)
        return trial.epochs[index] if index < len(trial.epochs) else None

    def _at(self, trial: TrialRecord, rung: int) -> float | None:
        epoch = self._epoch_at(trial, rung)
        return None if epoch is None else self.loss(trial, epoch)


class Median(Scheduler):
    """Stops a trial whose best is worse than the median of the others' running means (Vizier, KDD 2017, 3.2.2).

    As Ray Tune's does, the means leave out what comes before ``grace``.
    """

    def __init__(self, metric: MetricSpec, max_epochs: int, *, grace: int) -> None:
        super().__init__(metric, max_epochs)
        self.grace = grace

    def stops(self, state: SweepState, trial: TrialRecord) -> bool:
        best = trial.best(self.metric.name, self.metric.mode)
        if best is None or not self.grace <= trial.epoch < self.max_epochs:
            return False
        others = [other for other in state.trials.values() if other is not trial and other.epoch >= trial.epoch]
        means = [mean for other in others if (mean := self._mean(other, trial.epoch)) is not None]
        if len(means) < MEDIAN_OF:
            return False
        return best[0] > median(means) if self.metric.mode == "min" else best[0] < median(means)

    def _mean(self, trial: TrialRecord, until: int) -> float | None:
        curve = trial.curve(self.metric.name).items()
        known = [value for epoch, value in curve if self.grace <= epoch <= until]
        return fmean(known) if known else None


class HyperBand(Scheduler):
    """HyperBand (arXiv 1603.06560): brackets of successive halving, from many short trials to few long ones.

    The trials of a bracket pause at each of its rungs until the last has come there.
    """

    def __init__(self, metric: MetricSpec, max_epochs: int, *, grace: int, reduction: float) -> None:
        super().__init__(metric, max_epochs)
        self.reduction = reduction
        most = len(rungs(grace, reduction, max_epochs))
        self.brackets = [
            Bracket(
                math.ceil(round((most + 1) / (halvings + 1) * reduction**halvings, 9)),
                tuple(sorted({max(grace, int(max_epochs / reduction**k)) for k in range(1, halvings + 1)})),
            )
            for halvings in range(most, -1, -1)
        ]
        self.cycle = sum(bracket.size for bracket in self.brackets)

    def place(self, number: int) -> tuple[range, Bracket]:
        """Return the bracket of a trial and the numbers of all its trials."""
        cycles, place = divmod(number, self.cycle)
        first = cycles * self.cycle
        for bracket in self.brackets:
            if place < bracket.size:
                break
            place, first = place - bracket.size, first + bracket.size
        return range(first, first + bracket.size), bracket

    def until(self, trial: TrialRecord) -> int | None:
        _, bracket = self.place(trial.number)
        return next((rung for rung in bracket.rungs if rung > trial.released_at), None)

    def release(self, state: SweepState, *, exhausted: bool) -> list[Order]:
        orders: list[Order] = []
        paused = [trial for trial in state.trials.values() if trial.paused_at is not None]
        for numbers, rung in {(self.place(trial.number)[0], trial.paused_at or 0) for trial in paused}:
            members = [state.trials[number] for number in numbers if number in state.trials]
            alive = [trial for trial in members if trial.status not in ENDED]
            if (len(members) < len(numbers) and not exhausted) or any(trial.epoch < rung for trial in alive):
                continue
            _, bracket = self.place(numbers.start)
            best = self._best(members, rung, bracket.survivors(rung, self.reduction))
            orders += [
                Go(trial.number) if trial.number in best else Stop(trial.number)
                for trial in members
                if trial.paused_at == rung
            ]
        return orders

    def _best(self, members: Sequence[TrialRecord], rung: int, count: int) -> set[int]:
        usable = [trial for trial in members if trial.status not in ("infeasible", "failed")]
        losses = {trial.number: loss for trial in usable if (loss := self.loss(trial, rung)) is not None}
        return set(sorted(losses, key=lambda number: (losses[number], number))[:count])


@dataclass(frozen=True)
class Bracket:
    """So many trials, halved at these epochs."""

    size: int
    rungs: tuple[int, ...]

    def survivors(self, rung: int, reduction: float) -> int:
        return max(1, int(self.size / reduction ** (self.rungs.index(rung) + 1)))


def rungs(grace: int, reduction: float, max_epochs: int) -> tuple[int, ...]:
    """Return the epochs at which trials are judged: grace, and then ever more by the reduction, below the last."""
    found = []
    rung: float = grace
    while rung < max_epochs:
        if int(rung) not in found:
            found.append(int(rung))
        rung *= reduction
    return tuple(found)
