"""Population based training (arXiv 1711.09846): the worst trials go on from the best ones' checkpoints.

All trials of the population wait for each other at each exploit, so that one seed gives one schedule whatever the
trials' pace. Each exploit stands in the journal with its donor and its new point: what a trial has been trained with,
epoch by epoch, can be told and trained again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rayconvai.sweep.domains import Choice, Domain, Float, Int, Point, Value
from rayconvai.sweep.scheduler import Go, Order, Scheduler, TakeOver
from rayconvai.sweep.space import Dimension, Space
from rayconvai.sweep.spec import MetricSpec, SchedulerSpec
from rayconvai.sweep.state import SweepState, TrialRecord

_TRIES = 100
"""So many changed points are looked at for one that the constraints allow."""


class Pbt(Scheduler):
    def __init__(
        self, metric: MetricSpec, max_epochs: int, spec: SchedulerSpec, space: Space, *, seed: int, population: int
    ) -> None:
        super().__init__(metric, max_epochs)
        self.spec, self.space, self.seed, self.population = spec, space, seed, population

    def until(self, trial: TrialRecord) -> int | None:
        epoch = (trial.released_at // self.spec.interval + 1) * self.spec.interval
        return epoch if epoch < self.max_epochs else None

    def release(self, state: SweepState, *, exhausted: bool) -> list[Order]:
        alive = list(state.live.values())
        paused = [trial for trial in alive if trial.paused_at is not None]
        if not paused or not (exhausted or len(state.trials) == self.population):
            return []
        # One that took over before a driver died, or while a donor made its checkpoint anew, may be further.
        epoch = min(trial.paused_at or 0 for trial in paused)
        if any(epoch not in (trial.paused_at, trial.released_at) for trial in alive):
            return []
        known = [trial for trial in state.trials.values() if trial.usable and self.loss(trial, epoch) is not None]
        ranked = sorted(known, key=lambda trial: (self.loss(trial, epoch), trial.number))
        count = int(len(ranked) * self.spec.quantile)
        # Who has ended or gone on, as trials of a sweep that is extended may have, has no checkpoint of this epoch.
        best = [trial for trial in ranked[:count] if trial.number in state.live and trial.epoch == epoch]
        worst = ranked[len(ranked) - count :] if best else []
        waiting = [trial for trial in paused if trial.paused_at == epoch]
        orders: list[Order] = [self._exploit(trial, best, epoch) for trial in waiting if trial in worst]
        # Nobody goes on before all have taken over what they are to.
        return orders + [Go(trial.number) for trial in waiting if trial not in worst]

    def _exploit(self, trial: TrialRecord, best: Sequence[TrialRecord], epoch: int) -> TakeOver:
        rng = np.random.default_rng([self.seed, epoch, trial.number])
        donor = best[int(rng.integers(len(best)))]
        point = explore(self.space, donor.point, rng, self.spec.resample)
        return TakeOver(trial.number, donor.number, epoch, point)


def explore(space: Space, point: Point, rng: np.random.Generator, resample: float) -> Point:
    """Change a point: each key is drawn anew, as one that only the changed point has, or moved to a value nearby.

    A point that the constraints forbid is not taken; if none is found, the old one stays.
    """

    def choose(dimension: Dimension) -> Value:
        anew = dimension.key not in point or rng.random() < resample
        return dimension.domain.sample(rng) if anew else _nearby(dimension.domain, point[dimension.key], rng)

    changed = (space.walk(choose) for _ in range(_TRIES))
    return next((found for found in changed if space.refused_by(found) is None), point)


def _nearby(domain: Domain, value: Value, rng: np.random.Generator) -> Value:
    """Move a number by a fifth, but at least by a step, and an option to its neighbour."""
    up = bool(rng.integers(2))
    if isinstance(domain, Choice):
        place = domain.encode(value) + (1 if up else -1)
        return domain.options[min(max(place, 0), len(domain.options) - 1)]
    if isinstance(domain, (Int, Float)):
        step = domain.step or 0
        moved = max(value * 1.2, value + step) if up else min(value * 0.8, value - step)
        kept = min(max(moved, domain.low), domain.high)
        return domain.low + round((kept - domain.low) / step) * step if isinstance(domain, Int) else domain.decode(kept)
    return value * (1.2 if up else 0.8)  # a normal one has no bounds to keep to
