"""A sweep is checked whole before it starts: nothing is trained, and every fault is found with the value that made it.

Each value of every choice and both ends of every range are composed within points, then the points that the searcher
will propose (all of a grid) and the two joint corners. Each is checked against the schema, and its model is built on
the meta device (without memory) and its module graph type-checked. A value that no other value makes work is an error;
so is a whole space that cannot. Single points that cannot work are only named: in the sweep they will end as
infeasible.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.table import Table

from rayconvai.config.compose import Composer
from rayconvai.config.run import ResourcesConfig
from rayconvai.errors import ConfigError, SweepError, nearest
from rayconvai.sweep import preflight
from rayconvai.sweep.budget import bare
from rayconvai.sweep.checker import PointChecker
from rayconvai.sweep.domains import Choice, Fixed, Point
from rayconvai.sweep.engine import trials_of
from rayconvai.sweep.estimate import speed
from rayconvai.sweep.grammar import quote, to_overrides
from rayconvai.sweep.search import Searcher, build_searcher
from rayconvai.sweep.show import shown_value
from rayconvai.sweep.space import Space, parse_dimension, parse_space
from rayconvai.sweep.spec import ResourcesSpec, SweepFile
from rayconvai.sweep.warm import Warmth
from rayconvai.train.address import is_local

MOST_POINTS = 1000
"""Of a larger grid only so many points are checked."""
SAMPLES = 16
"""So many points are checked where a search has no end."""


@dataclass(frozen=True)
class PlannedPoint:
    point: Point
    problem: str = ""
    """Why it cannot work."""
    parameters: int | None = None
    """The model's weights; None if the point cannot work."""
    memory: int | None = None
    """Bytes of weights, gradients, optimizer state and the largest batch's activations; None: not known."""
    flops: float | None = None
    """Floating-point operations of an epoch of training; None: not known."""
    epochs: int | None = None


@dataclass
class Plan:
    """What is known of a sweep before it starts."""

    space: Space
    points: list[PlannedPoint] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """Each a line; with any of them the sweep must not start."""
    warnings: list[str] = field(default_factory=list)
    total: int | None = None
    """How many trials the sweep will have."""
    repeats: int = 1
    max_epochs: int = 0
    composed: int = 0
    learns: bool = False
    """The search makes use of results."""
    warmth: list[Warmth] = field(default_factory=list)
    """What other sweeps have to say."""
    base: DictConfig = field(default_factory=lambda: OmegaConf.create({}))
    """What the recipe composes to, without a point."""
    speed: float | None = None
    """Floating-point operations that a trial does in a second; None: not known here."""

    def table(self, rows: int = 24) -> Table:
        """Make the table of the points: what varies, and what each takes."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("point", justify="right")
        for key in self.space:
            table.add_column(key, overflow="fold")
        for name in ("parameters", "memory", "epoch"):
            table.add_column(name, justify="right")
        for number, planned in enumerate(self.points[:rows]):
            values = [shown_value(planned.point, key) for key in self.space]
            if planned.problem:
                table.add_row(str(number), *values, "infeasible")
                continue
            memory = "-" if planned.memory is None else _bytes(planned.memory)
            epoch = "-" if planned.flops is None else self._work(planned.flops)
            table.add_row(str(number), *values, f"{planned.parameters:,}", memory, epoch)
        if len(self.points) > rows:
            table.add_row("...", f"{len(self.points) - rows} more")
        return table

    def summary(self) -> list[str]:
        """Say how many trials there will be and what they will take, as far as it is known."""
        count = f"{self.total} trials" if self.total else "trials until the time is over"
        if self.repeats > 1:
            whole = (self.total or 0) // self.repeats
            points = f"{whole} point{'s' * (whole > 1)}" if whole else "each point"
            count += f": {points} x {self.repeats} seeds"
        lines = [f"{count}; {self.composed} points composed and checked"]
        known = [point for point in self.points if point.flops is not None and point.memory is not None]
        if known:
            largest = max(point.memory or 0 for point in known)
            trial = sum((point.flops or 0) * (point.epochs or 1) for point in known) / len(known)
            what = "a trial" if all(point.epochs for point in known) else "an epoch"
            works = f"{what} {self._work(trial)} on average"
            if self.total and what == "a trial":
                works += f", all together {self._work(trial * self.total)} if none is stopped early"
            part = "" if len(known) == len(self.points) else f" (from {len(known)} of {len(self.points)} points)"
            lines.append(f"estimated{part}: tensors of up to {_bytes(largest)} in a trial; {works}")
        return lines

    def _work(self, flops: float) -> str:
        return f"{flops / 1e12:.3g} TFLOP" if self.speed is None else _duration(flops / self.speed)


def trial_overrides(file: SweepFile) -> list[str]:
    """Return the overrides that all trials share; the file's own come last and so win."""
    checkpoints = "exp_manager.checkpoint_callback_params"
    return [
        "exp_manager.resume_if_exists=true",
        "exp_manager.resume_ignore_no_checkpoint=true",
        *([] if file.spec.budget.epochs is None else [f"trainer.max_epochs={file.spec.budget.epochs}"]),
        f"{checkpoints}.monitor={quote(file.spec.metric.name)}",
        f"{checkpoints}.mode={file.spec.metric.mode}",
        *file.spec.overrides,
        f"resources={quote(_told(file.spec.resources))}",
    ]


def of_trial(resources: ResourcesSpec) -> ResourcesConfig:
    """Return what a trial takes, as its own config says it.

    Raises:
        ValueError: what the check of a composed config would say.
    """
    return ResourcesConfig(**_told(resources))


def _told(resources: ResourcesSpec) -> dict[str, Any]:
    told = dataclasses.asdict(resources)
    del told["concurrent"]
    return {**told, "retries": 0}  # the sweep itself starts lost trials again


def plan_sweep(file: SweepFile) -> Plan:
    """Check a sweep; faults are gathered in the plan, not raised."""
    problems = list(preflight.contradictions(file))
    plan = Plan(Space(), problems=problems, repeats=file.spec.repeats)
    spec = file.spec
    try:
        composer = Composer(spec.recipe, trial_overrides(file), [Path(path) for path in spec.config_dirs])
        checker = PointChecker(composer, on_cpu=not spec.resources.gpus)
        plan.base = base = composer.compose()
        plan.space = _parse_space(file, problems, composer)
        if problems:
            return plan
        _check_keys(file, plan, composer)
        searcher = build_searcher(spec, plan.space)
    except SweepError as error:
        plan.problems.append(f"{file.at(error.key or 'space')}: {error}")
        return plan
    except ConfigError as error:
        plan.problems.append(f"{_guilty(str(error), file)}: {error}")
        return plan
    plan.total, plan.learns = trials_of(spec, searcher), searcher.learns
    if plan.total is None and spec.budget.hours is None:
        plan.problems.append(f"{file.at('budget')}: this search has no end; set budget.trials or budget.hours")
    plan.problems += [*preflight.checkpoints(file, base), *preflight.storage(file)]
    if plan.problems:
        return plan
    try:
        _check_values(file, plan, checker)
        if not plan.problems:
            _check_points(file, plan, checker, searcher)
    except SweepError as error:
        plan.problems.append(f"{file.at(error.key or 'space')}: {error}")
    plan.max_epochs = max((trainer.max_epochs or 0 for trainer in checker.trainers.values()), default=0)
    if not plan.problems:
        plan.problems += preflight.metrics(file, checker, base)
        plan.problems += preflight.rhythm(file, checker.trainers.values())
        plan.problems += preflight.interchangeable(file, checker, plan.space)
        _warn(file, plan, base)
    if not plan.problems and checker.on_cpu and any(point.flops for point in plan.points):
        plan.speed = speed(max(1, int(spec.resources.cpus))) * spec.resources.workers
    plan.composed = checker.composed
    return plan


def _parse_space(file: SweepFile, problems: list[str], composer: Composer) -> Space:
    for key, expression in file.spec.space.items():
        try:
            parse_dimension(key, expression)
        except SweepError as error:
            problems.append(f"{file.at(error.key)}: {error}")
    if problems:
        return Space()
    return parse_space(file.spec.space, file.spec.constraints, lambda point: composer.compose(to_overrides(point)))


def _check_keys(file: SweepFile, plan: Plan, composer: Composer) -> None:
    groups, keys = composer.groups(), composer.keys()
    for key, domain in plan.space.items():
        where = f"{file.at(f'space.{key}')}: space key '{key}'"
        if key in ("trainer.accelerator", "trainer.devices") or key.split(".")[0] == "resources":
            plan.problems.append(f"{where}: resources say what a trial runs on")
        elif key in groups:
            for option in domain.corners():
                if option not in groups[key]:
                    hint = nearest(str(option), groups[key])
                    plan.problems.append(
                        f"{where}: the group has no option {option!r}{hint}; it has: {', '.join(groups[key])}"
                    )
        elif key not in keys and not _within_choice(key, plan.space):
            hint = nearest(key, [*keys, *groups])
            plan.problems.append(f"{where} does not exist in recipe {file.spec.recipe}{hint}")
    for constraint in plan.space.constraints:
        for name in constraint.names:
            if name not in plan.space and name not in keys and not _within_choice(name, plan.space):
                hint = nearest(name, [*keys, *plan.space]) or "; a text stands in quotes"
                plan.problems.append(
                    f"{file.at('constraints')}: constraint '{constraint.text}': there is no key '{name}'{hint}"
                )


def _within_choice(key: str, space: Space) -> bool:
    """Tell whether a key may come with an option of a group that varies too; composing will say."""
    return any(key.startswith(f"{other.replace('/', '.')}.") for other in space if other != key)


def _check_values(file: SweepFile, plan: Plan, checker: PointChecker) -> None:
    space = plan.space
    corners = {key: domain.corners() for key, domain in space.items()}
    common = {checker.problem(point) for point in ({}, space.corner(0), space.corner(-1))}
    if len(common) == 1 and "" not in common:
        (problem,) = common  # whatever the point is
        plan.problems.append(f"{_guilty(problem, file)}: {problem}")
        return
    by_itself: dict[str, tuple[str, str]] = {}
    among_others: dict[str, tuple[str, str]] = {}
    for key, values in corners.items():
        others = [{other: option} for other in corners if other != key for option in corners[other]]
        for value in values:
            points = (space.holding({**other, key: value}) for other in ({}, *others))
            problems: list[str] = []
            for point in filter(None, points):
                problems.append(checker.problem(point))
                if not problems[-1]:
                    break
            if not problems and isinstance(space[key], Choice):  # of a range the constraints may leave a part
                plan.problems.append(f"{file.at('constraints')}: no point with {key}={quote(value)} meets them all")
            elif problems and all(problems):
                problem = "" if space.dimensions[key].when else checker.problem({key: value})
                # One line for a problem, however many values meet it: with a key that it names, if there is one.
                seen, text = (by_itself, problem) if problem else (among_others, problems[0])
                before = seen.get(text, ("", ""))[0]
                if text not in seen or (key in text and not (before in text and len(before) > len(key))):
                    seen[text] = key, f"{file.at(f'space.{key}')}: {key}={quote(value)}"
    # A value that is wrong by itself makes others fail.
    plan.problems += [f"{where}: {problem}" for problem, (_, where) in (by_itself or among_others).items()]


def _check_points(file: SweepFile, plan: Plan, checker: PointChecker, searcher: Searcher) -> None:
    count = SAMPLES if plan.total is None else min(plan.total // plan.repeats, MOST_POINTS)
    points = [point for point in map(searcher.ask, range(count)) if point is not None]
    plan.points = [_planned(point, checker) for point in points]
    joint = plan.space.corner_points()[:2]
    seen: dict[str, list[Point]] = {}
    for point in [*points, *(point for point in joint if point not in points)]:
        if problem := checker.problem(point):
            seen.setdefault(bare(problem), []).append(point)
    for bad in seen.values():
        problem = checker.problem(bad[0])
        varied = {key: value for key, value in bad[0].items() if not isinstance(plan.space[key], Fixed)}
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        plan.warnings.append(f"{file.at('space')}: cannot work: {', '.join(to_overrides(varied))}{more}: {problem}")
    if plan.points and all(planned.problem for planned in plan.points):
        plan.problems.append(f"{file.at('space')}: no point that was tried can work: {plan.points[0].problem}")


def _planned(point: Point, checker: PointChecker) -> PlannedPoint:
    verdict = checker.check(point)
    if verdict.built is None:
        return PlannedPoint(point, verdict.problem)
    step = checker.step(verdict)
    memory = None if step is None or verdict.kept is None else verdict.kept + step.activations
    flops = None if step is None else step.flops
    return PlannedPoint(point, "", verdict.built.parameters, memory, flops, verdict.epochs)


def _warn(file: SweepFile, plan: Plan, base: DictConfig) -> None:
    """Name what works, but hardly as it is meant."""
    size = plan.space.size
    if plan.total and size < plan.total:
        plan.warnings.append(
            f"{file.at('budget.trials')}: the space has {size:g} points, fewer than the {plan.total} trials; "
            "some will be tried again (search.name=grid takes each once)"
        )
    trials, repeats = file.spec.budget.trials or 0, file.spec.repeats
    if trials % repeats:
        plan.warnings.append(
            f"{file.at('budget.trials')}: {trials} trials are no multiple of repeats={repeats}; only whole points are "
            f"trained, at most {trials - trials % repeats} trials"
        )
    if file.spec.repeats > 1 and file.spec.scheduler.name in ("hyperband", "median"):
        plan.warnings.append(
            f"{file.at('scheduler.name')}: {file.spec.scheduler.name} stops the repeats of a point one by one, so that "
            "a mean may be of trials of unlike length; asha judges them together"
        )
    cpus, here = file.spec.resources.cpus * file.spec.resources.workers, os.cpu_count() or 1
    if is_local() and cpus > here:
        plan.warnings.append(
            f"{file.at('resources.cpus')}: a trial asks for {cpus:g} CPUs, and this machine has {here}; where "
            "RAY_ADDRESS names no cluster, none can start"
        )
    asked, gpus = OmegaConf.select(base, "trainer.accelerator"), file.spec.resources.gpus
    if asked in (("cpu",) if gpus else ("gpu", "cuda")):
        plan.warnings.append(
            f"{file.at('resources.gpus')}: trainer.accelerator is {asked}, but resources.gpus is {gpus:g}: "
            f"trials train on the {'GPU' if gpus else 'CPU'}"
        )


def _guilty(message: str, file: SweepFile) -> str:
    """Return where the file has the key that a base config's error names."""
    named = message.split(" ", 1)[0].rstrip(":")
    if named.partition(".")[0] == "resources":
        return file.at(named)
    written = any(repr(line) in message for line in file.spec.overrides)
    among = any(f"{key}.".startswith(f"{named}.") for key in preflight.overridden(file))
    return file.at("overrides" if written or among else "recipe")


def _bytes(count: float) -> str:
    return f"{count / 2**30:.1f} GB" if count >= 2**30 else f"{max(1, round(count / 2**20))} MB"


def _duration(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    # Less is what a batch costs besides its arithmetic, which the estimate does not know.
    return f"{seconds:.2g} s" if seconds >= 0.1 else "< 0.1 s"
