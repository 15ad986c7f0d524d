"""Who proposes points: ask for the point of a group, tell how its trials went.

A searcher is a function of its seed, the group asked for, and what it was told: a sweep that is taken up again from
its journal proposes what it would have proposed had it never stopped. The searchers that don't learn do not even
depend on what they are told, so they propose the same points whatever the groups' order.
"""

from __future__ import annotations

import itertools
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
import torch
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from rayconvai._optional import require
from rayconvai.errors import ConfigError, SweepError
from rayconvai.sweep.domains import Choice, Grid, Point, Value
from rayconvai.sweep.grammar import to_overrides
from rayconvai.sweep.space import Dimension, Space
from rayconvai.sweep.spec import SearchSpec, SweepSpec

DRAWS = 20
"""So many draws in a row may be refused in one cell of a grid within a random search."""
INSISTING = 20
"""So many proposals of a learner in a row may be refused; then it is left to chance."""
_STATE = {"cmaes": "cma:", "nsga2": "NSGA2:"}
"""Where a sampler keeps on a trial what it will need again; others need only the points and values."""
_GENERATION, _PARENTS = "NSGA2:generation", "NSGA2:parent:"
MOST_GRID_POINTS = 1_000_000
"""Of a grid with constraints: each point has to be looked at to count those that are allowed."""
MOST_COMPOSED = 10_000
"""The same, where constraints name keys that do not vary: each point has to be composed."""


class Searcher(ABC):
    """Proposes points of one space.

    Args:
        space: what varies.
        seed: the same seed proposes the same points.
        first: the points of the first groups.
    """

    total: int | None = None
    """How many groups there are in all; None: no end."""
    learns = False
    """Whether results change what is proposed."""

    def __init__(self, space: Space, seed: int, first: Sequence[Point] = ()) -> None:
        self.space, self.seed, self.first = space, seed, tuple(first)

    def ask(self, group: int) -> Point | None:
        """Propose the point of a group; None: there are no more.

        Raises:
            SweepError: the constraints refuse all that is proposed.
        """
        return self.first[group] if group < len(self.first) else self._propose(group)

    @abstractmethod
    def _propose(self, group: int) -> Point | None: ...

    def notes(self, group: int) -> dict[str, Any]:
        """Return what ``recall`` will need besides the point, as JSON."""
        return {}

    def recall(self, group: int, point: Point, notes: dict[str, Any]) -> None:  # noqa: B027
        """Take note of a point that an earlier session proposed for a group; in the order of the groups."""

    def tell(self, group: int, values: Sequence[float] | None, *, stopped_at: int | None = None) -> None:  # noqa: B027
        """Take note of how a group ended.

        Args:
            group: the number it was asked for by.
            values: of each metric of the sweep; None if the point cannot work.
            stopped_at: the epoch at which the scheduler stopped the trial, if it did.
        """

    def learn(self, point: Point, values: Sequence[float]) -> None:  # noqa: B027
        """Take note of a result of another sweep; before anything is asked for or recalled."""


class RandomSearcher(Searcher):
    """Independent draws; keys with ``grid(...)`` go through all their combinations in turn, as Ray Tune's do."""

    def __init__(self, space: Space, seed: int, first: Sequence[Point] = ()) -> None:
        super().__init__(space, seed, first)
        grids = {key: item for key, item in space.dimensions.items() if isinstance(item.domain, Grid)}
        among = [
            replace(item, when={key: values for key, values in item.when.items() if key in grids})
            for item in grids.values()
        ]
        self.cells = list(Space(among).all_points())

    def _propose(self, group: int) -> Point:
        rng, place = np.random.default_rng([self.seed, group]), group - len(self.first)
        # When enough draws were refused in one cell of the grid, the next has its turn.
        cells = (self.cells[(place + tried // DRAWS) % len(self.cells)] for tried in itertools.count())
        return self.space.first_allowed(self.space.sample(rng, cell) for cell in cells)


class _SequenceSearcher(Searcher):
    """Goes through a sequence of points, and leaves out those that the constraints refuse."""

    def __init__(self, space: Space, seed: int, first: Sequence[Point] = ()) -> None:
        super().__init__(space, seed, first)
        self._allowed = self._sequence()
        self._seen: list[Point] = []

    @abstractmethod
    def _sequence(self) -> Iterator[Point]: ...

    def _propose(self, group: int) -> Point | None:
        index = group - len(self.first)
        self._seen += itertools.islice(self._allowed, max(0, index + 1 - len(self._seen)))
        return self._seen[index] if index < len(self._seen) else None


class GridSearcher(_SequenceSearcher):
    """Every combination once; the last key varies fastest."""

    def __init__(self, space: Space, seed: int, first: Sequence[Point] = ()) -> None:
        for key, domain in space.items():
            if domain.values() is None:
                raise SweepError(f"space key '{key}' has no end of values; write choice(...) or range(...)")
        super().__init__(space, seed, list({_name(point): point for point in first}.values()))
        size = int(space.size)
        most = MOST_COMPOSED if space.beyond else MOST_GRID_POINTS
        if space.constraints and size > most:
            raise SweepError(
                f"a grid of {size} points is too large for these constraints (most: {most}); use search.name=random",
                key="constraints",
            )
        allowed = sum(1 for _ in self._sequence()) if space.constraints else size - len(self.first)
        self.total = len(self.first) + allowed

    def _sequence(self) -> Iterator[Point]:
        first = {_name(point) for point in self.first}
        for point in self.space.all_points():
            if not (first and _name(point) in first) and self.space.refused_by(point) is None:
                yield point


class QuasiRandomSearcher(_SequenceSearcher):
    """A scrambled Sobol sequence: fills the space more evenly than independent draws."""

    def _sequence(self) -> Iterator[Point]:
        engine = torch.quasirandom.SobolEngine(len(self.space), scramble=True, seed=self.seed)  # type: ignore[no-untyped-call]
        points = (self.space.at(engine.draw(dtype=torch.float64)[0].tolist()) for _ in itertools.count())
        while True:
            yield self.space.first_allowed(points)


class NSGA2(NSGAIISampler):
    """Optuna's, with a generation's parents in one order, whether they have been selected now or before."""

    def select_parent(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:
        return sorted(super().select_parent(study, generation), key=lambda trial: trial.number)


class OptunaSearcher(Searcher):
    """Optuna's samplers, each made anew for every group, so that a proposal depends on the study alone.

    A point that cannot work is worse than any other. TPE takes one that the scheduler stopped as pruned, the others by
    its value. CMA-ES searches the numbers that are in every point; other keys it draws.
    """

    learns = True

    def __init__(self, space: Space, search: SearchSpec, modes: Sequence[str], first: Sequence[Point] = ()) -> None:
        super().__init__(space, search.seed, first)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.search = search
        self.sampler = search.sampler or ("tpe" if len(modes) == 1 else "nsga2")
        self.worst = [math.inf if mode == "min" else -math.inf for mode in modes]
        self.storage = InMemoryStorage()
        directions = [StudyDirection.MINIMIZE if mode == "min" else StudyDirection.MAXIMIZE for mode in modes]
        self.study = self.storage.create_new_study(directions, "sweep")
        self.distributions = {key: item.distribution() for key, item in space.items() if len(item.corners()) > 1}
        self.common = {key: item for key, item in self.distributions.items() if not space.dimensions[key].when}
        if self.sampler == "cmaes":
            self.common = {key: item for key, item in self.common.items() if not isinstance(space[key], Choice)}
        self.trials: dict[int, int] = {}
        self.leaders: dict[int, int] = {}
        self.learned: list[FrozenTrial] = []

    def ask(self, group: int) -> Point:
        if group < len(self.first):
            self.trials[group] = self._add(self.first[group], self._first_generation)
            return self.first[group]
        trial = self.trials[group] = self._add({}, {})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some samplers call parts of themselves experimental
            point = self._propose(group)
        for key, value in self._encoded(point).items():
            distribution = self.distributions[key]
            self.storage.set_trial_param(trial, key, distribution.to_internal_repr(value), distribution)
        return point

    def notes(self, group: int) -> dict[str, Any]:
        attributes = self.storage.get_trial(self.trials[group]).system_attrs
        prefix = _STATE.get(self.sampler)
        notes = {key: value for key, value in attributes.items() if prefix and key.startswith(prefix)}
        if self.sampler == "nsga2" and self.leaders.setdefault(notes[_GENERATION], group) == group:
            # The first of a generation takes its parents along; those that warmed the search come before group 0.
            parents = self.storage.get_study_system_attrs(self.study).get(f"{_PARENTS}{notes[_GENERATION]}", [])
            notes["parents"] = [parent - len(self.learned) for parent in parents]
        return notes

    def recall(self, group: int, point: Point, notes: dict[str, Any]) -> None:
        self.trials[group] = self._add(point, {key: value for key, value in notes.items() if key != "parents"})
        if "parents" in notes:
            self.leaders[notes[_GENERATION]] = group
            parents = [parent + len(self.learned) for parent in notes["parents"]]
            self.storage.set_study_system_attr(self.study, f"{_PARENTS}{notes[_GENERATION]}", parents)

    def tell(self, group: int, values: Sequence[float] | None, *, stopped_at: int | None = None) -> None:
        trial = self.trials[group]
        if self.sampler == "tpe" and (values is None or stopped_at is not None):
            # Pruned without a value ranks below every other trial in TPE.
            if values is not None and stopped_at is not None:
                self.storage.set_trial_intermediate_value(trial, stopped_at, values[0])
            self.storage.set_trial_state_values(trial, TrialState.PRUNED)
        else:
            # The others rank, or clip to the worst that they know.
            self.storage.set_trial_state_values(trial, TrialState.COMPLETE, list(values or self.worst))

    def learn(self, point: Point, values: Sequence[float]) -> None:
        assert not self.trials
        numbers = {key: value for key, value in self._encoded(point).items() if key in self.common}
        self.learned.append(create_trial(params=numbers, distributions=self.common, values=list(values)))
        if self.sampler != "cmaes":
            trial = self._add(point, self._first_generation)
            self.storage.set_trial_state_values(trial, TrialState.COMPLETE, list(values))

    @property
    def _first_generation(self) -> dict[str, int]:
        """What makes CMA-ES and NSGA-II take notice of a point that they did not propose."""
        return {f"{_STATE[self.sampler]}generation": 0} if self.sampler in _STATE else {}

    def _add(self, point: Point, attributes: dict[str, Any]) -> int:
        encoded = self._encoded(point)
        trial = create_trial(
            state=TrialState.RUNNING,
            params=encoded,
            distributions={key: self.distributions[key] for key in encoded},
            system_attrs=attributes,
        )
        return self.storage.create_new_trial(self.study, trial)

    def _encoded(self, point: Point) -> dict[str, Any]:
        return {key: self.space[key].encode(value) for key, value in point.items() if key in self.distributions}

    def _propose(self, group: int) -> Point:
        return self.space.first_allowed(self._draw(group, tried) for tried in itertools.count())

    def _draw(self, group: int, tried: int) -> Point:
        # Seeded by group: an answer then does not depend on how many were given in this process.
        seed = int(np.random.default_rng([self.seed, group, tried]).integers(2**31))
        # A sampler may insist on what the constraints refuse; chance does not.
        sampler = self._sampler(seed) if tried < INSISTING else optuna.samplers.RandomSampler(seed)
        study = optuna.load_study(study_name="sweep", storage=self.storage, sampler=sampler)
        trial = self.storage.get_trial(self.trials[group])
        drawn = sampler.sample_relative(study, trial, self._together(sampler, study, trial))

        def choose(dimension: Dimension) -> Value:
            key, domain = dimension.key, dimension.domain
            if key not in self.distributions:
                return domain.corners()[0]
            if key in drawn:
                return domain.decode(drawn[key])
            return domain.decode(sampler.sample_independent(study, trial, key, self.distributions[key]))

        return self.space.walk(choose)

    def _together(self, sampler: BaseSampler, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the keys that are drawn together; the others are drawn one by one."""
        if isinstance(sampler, TPESampler) and self.search.multivariate and self.space.parents:
            return sampler.infer_relative_search_space(study, trial)
        alone = self.sampler == "tpe" and not self.search.multivariate
        return {} if alone or isinstance(sampler, optuna.samplers.RandomSampler) else self.common

    def _sampler(self, seed: int) -> BaseSampler:
        if self.sampler == "gp":
            return optuna.samplers.GPSampler(seed=seed)
        if self.sampler == "nsga2":
            return NSGA2(seed=seed, population_size=self.search.population)
        if self.sampler == "cmaes":
            # It begins around the best tenth of what it has learned: ten times each makes that at least one.
            learned = self.learned * 10 or None
            return optuna.samplers.CmaEsSampler(seed=seed, n_startup_trials=0, source_trials=learned)
        joint = self.search.multivariate
        return TPESampler(seed=seed, constant_liar=True, multivariate=joint, group=joint and bool(self.space.parents))


def build_searcher(spec: SweepSpec, space: Space) -> Searcher:
    """Make the searcher that a sweep file names.

    Raises:
        SweepError: the space has a domain that this searcher cannot search, ``points`` has one that isn't of the space,
            or what the searcher needs is not installed.
    """
    search = spec.search
    if search.name not in ("random", "grid"):
        for key, domain in space.items():
            if isinstance(domain, Grid):
                message = f"space key '{key}': {search.name} does not go through a grid; write choice(...)"
                raise SweepError(message, key=f"space.{key}")
    first = [_first_point(space, given, [search.seed, index]) for index, given in enumerate(spec.points)]
    if search.name == "random":
        return RandomSearcher(space, search.seed, first)
    if search.name == "grid":
        return GridSearcher(space, search.seed, first)
    if search.name == "quasirandom":
        return QuasiRandomSearcher(space, search.seed, first)
    searcher = OptunaSearcher(space, search, [metric.mode for metric in spec.metrics], first)
    _check_sampler(searcher)
    return searcher


def _check_sampler(searcher: OptunaSearcher) -> None:
    """Refuse a sampler that cannot work here."""
    needed = {"cmaes": "cmaes", "gp": "scipy"}.get(searcher.sampler)
    if searcher.sampler == "cmaes" and not searcher.common:
        raise SweepError("cmaes searches numbers, and the space has none that is in every point", key="search.sampler")
    try:
        if needed:
            require(needed, extra="search")
    except ConfigError as error:
        raise SweepError(f"search.sampler {searcher.sampler}: {error}", key="search.sampler") from error


def _first_point(space: Space, given: Point, seed: Sequence[int]) -> Point:
    """Complete a point of the sweep file; what it leaves out is drawn."""
    rng = np.random.default_rng(seed)
    try:
        return space.first_allowed(
            space.complete(given, lambda dimension: dimension.domain.sample(rng)) for _ in itertools.count()
        )
    except SweepError as error:
        raise SweepError(f"points: {given}: {error}", key="points") from error


def _name(point: Point) -> tuple[str, ...]:
    return tuple(to_overrides(point))
