"""Who proposes points: ask for the point of a trial number, tell how the trial went.

A searcher is a function of its seed, the number asked for, and what it was told: a sweep that is taken up again from
its journal proposes what it would have proposed had it never stopped. The random and grid searchers do not even
depend on what they are told, so they propose the same points whatever the trials' order.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal

import numpy as np
import optuna

from rayconvai.errors import SweepError
from rayconvai.sweep.domains import Domain, Fixed, Grid, Point
from rayconvai.sweep.spec import SearchSpec


class Searcher(ABC):
    """Proposes points of one space."""

    total: int | None = None
    """How many points there are in all; None: no end."""

    @abstractmethod
    def ask(self, number: int) -> Point | None:
        """Propose the point of trial ``number``; None: there are no more."""

    def recall(self, number: int, point: Point) -> None:  # noqa: B027
        """Take note of a point that an earlier session proposed as trial ``number``."""

    def tell(self, number: int, value: float | None, *, stopped_at: int | None = None) -> None:  # noqa: B027
        """Take note of how a trial ended.

        Args:
            number: the trial's.
            value: the metric; None if the point cannot work.
            stopped_at: the epoch at which the scheduler stopped the trial, if it did.
        """


class RandomSearcher(Searcher):
    """Independent draws; keys with ``grid(...)`` go through all their combinations in turn, as Ray Tune's do."""

    def __init__(self, space: Mapping[str, Domain], seed: int) -> None:
        self.space, self.seed = dict(space), seed
        self.grid = {key: domain for key, domain in space.items() if isinstance(domain, Grid)}
        self.cells = math.prod(len(domain.options) for domain in self.grid.values())

    def ask(self, number: int) -> Point:
        rng = np.random.default_rng([self.seed, number])
        cell = dict(zip(self.grid, _cell(self.grid, number % self.cells), strict=True))
        return {key: cell[key] if key in cell else domain.sample(rng) for key, domain in self.space.items()}


class GridSearcher(Searcher):
    """Every combination once; the last key varies fastest."""

    def __init__(self, space: Mapping[str, Domain]) -> None:
        self.space = dict(space)
        for key, domain in space.items():
            if domain.values() is None:
                raise SweepError(f"space key '{key}' has no end of values; write choice(...) or range(...)")
        self.total = math.prod(len(domain.values() or ()) for domain in space.values())

    def ask(self, number: int) -> Point | None:
        assert self.total is not None
        return dict(zip(self.space, _cell(self.space, number), strict=True)) if number < self.total else None


class OptunaSearcher(Searcher):
    """Optuna's TPE. What the scheduler stopped it takes as pruned, what cannot work as worse than anything."""

    def __init__(self, space: Mapping[str, Domain], seed: int, mode: Literal["min", "max"]) -> None:
        for key, domain in space.items():
            if isinstance(domain, Grid):
                raise SweepError(f"space key '{key}': Optuna does not go through a grid; write choice(...)")
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.space, self.seed = dict(space), seed
        self.study = optuna.create_study(direction="minimize" if mode == "min" else "maximize")
        self.distributions = {
            key: domain.distribution() for key, domain in space.items() if not isinstance(domain, Fixed)
        }
        self.trials: dict[int, optuna.trial.Trial] = {}

    def ask(self, number: int) -> Point:
        # Seeded by number: an answer then does not depend on how many were given in this process.
        seed = int(np.random.default_rng([self.seed, number]).integers(2**31))
        self.study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        trial = self.study.ask(self.distributions)
        self.trials[number] = trial
        return {
            key: domain.decode(trial.params[key]) if key in trial.params else domain.corners()[0]
            for key, domain in self.space.items()
        }

    def recall(self, number: int, point: Point) -> None:
        self.study.enqueue_trial({key: self.space[key].encode(point[key]) for key in self.distributions})
        self.trials[number] = self.study.ask(self.distributions)

    def tell(self, number: int, value: float | None, *, stopped_at: int | None = None) -> None:
        trial = self.trials[number]
        if value is not None and stopped_at is None:
            self.study.tell(trial, value)
            return
        if value is not None and stopped_at is not None:
            trial.report(value, step=stopped_at)
        # Pruned without a value ranks below every other trial in TPE; a failed one would not be learnt from.
        self.study.tell(trial, state=optuna.trial.TrialState.PRUNED)


def build_searcher(spec: SearchSpec, space: Mapping[str, Domain], mode: Literal["min", "max"]) -> Searcher:
    """Make the searcher that a sweep file names.

    Raises:
        SweepError: the space has a domain that this searcher cannot search.
    """
    if spec.name == "random":
        return RandomSearcher(space, spec.seed)
    if spec.name == "grid":
        return GridSearcher(space)
    return OptunaSearcher(space, spec.seed, mode)


def _cell(domains: Mapping[str, Domain], index: int) -> list[object]:
    """Return combination ``index`` of the domains' values."""
    values = [domain.values() or () for domain in domains.values()]
    cell: list[object] = []
    for options in reversed(values):
        index, place = divmod(index, len(options))
        cell.append(options[place])
    return cell[::-1]
