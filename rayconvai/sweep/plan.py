"""A sweep is checked whole before it starts: nothing is trained, and every fault is found with the value that made it.

Each value of every choice and both ends of every range are composed within points, then the points that the searcher
will propose (all of a grid) and the two joint corners. Each is checked against the schema, and its model is built on
the meta device (without memory) and its module graph type-checked. A value that no other value makes work is an error;
so is a whole space that cannot. Single points that cannot work are only named: in the sweep they will end as
infeasible.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from rich.table import Table

from rayconvai.config.compose import Composer
from rayconvai.core.build import build
from rayconvai.core.data_module import DataModule
from rayconvai.core.model import Model, build_model
from rayconvai.errors import ConfigError, RayconvaiError, SweepError, nearest
from rayconvai.sweep.domains import Domain, Fixed, Point, Value
from rayconvai.sweep.search import build_searcher
from rayconvai.sweep.space import parse_domain, quote, to_overrides
from rayconvai.sweep.spec import SweepFile
from rayconvai.train.fit import make_trainer
from rayconvai.train.runtime import Runtime

MOST_POINTS = 1000
"""Of a larger grid only so many points are checked."""
SAMPLES = 16
"""So many points are checked where a search has no end."""
_OVERRIDE = re.compile(r"""^override ('.*?'|".*?"): """)


@dataclass(frozen=True)
class PlannedPoint:
    point: Point
    parameters: int | None
    """The model's weights; None if the point cannot work."""
    problem: str = ""


@dataclass
class Plan:
    """What is known of a sweep before it starts."""

    space: dict[str, Domain]
    points: list[PlannedPoint] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """Each a line; with any of them the sweep must not start."""
    warnings: list[str] = field(default_factory=list)
    total: int | None = None
    """How many trials the sweep will have."""
    max_epochs: int = 0
    composed: int = 0

    def table(self, rows: int = 24) -> Table:
        """Make the table of the points and their parameter counts."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("point", justify="right")
        for key in self.space:
            table.add_column(key, overflow="fold")
        table.add_column("parameters", justify="right")
        for number, planned in enumerate(self.points[:rows]):
            values = [_short(planned.point[key]) for key in self.space]
            table.add_row(str(number), *values, "infeasible" if planned.problem else f"{planned.parameters:,}")
        if len(self.points) > rows:
            table.add_row("...", f"{len(self.points) - rows} more")
        return table


def trial_overrides(file: SweepFile) -> list[str]:
    """Return the overrides that all trials share; the file's own come last and so win."""
    checkpoints = "exp_manager.checkpoint_callback_params"
    return [
        "exp_manager.resume_if_exists=true",
        "exp_manager.resume_ignore_no_checkpoint=true",
        f"{checkpoints}.monitor={quote(file.spec.metric.name)}",
        f"{checkpoints}.mode={file.spec.metric.mode}",
        *file.spec.overrides,
    ]


def plan_sweep(file: SweepFile) -> Plan:
    """Check a sweep; faults are gathered in the plan, not raised."""
    problems: list[str] = []
    plan = Plan(_parse_space(file, problems), problems=problems)
    spec = file.spec
    try:
        composer = Composer(spec.recipe, trial_overrides(file), [Path(path) for path in spec.config_dirs])
        checker = _Checker(composer, on_cpu=not spec.resources.gpus)
        base = composer.compose()
        _check_keys(file, plan, composer)
        searcher = build_searcher(spec.search, plan.space, spec.metric.mode)
    except SweepError as error:
        plan.problems.append(f"{file.at('space')}: {error}")
        return plan
    except ConfigError as error:
        plan.problems.append(f"{file.at(_guilty(str(error), file))}: {error}")
        return plan
    plan.total = min(filter(None, (searcher.total, spec.budget.trials)), default=None)
    if plan.total is None and spec.budget.hours is None:
        plan.problems.append(f"{file.at('budget')}: this search has no end; set budget.trials or budget.hours")
    if plan.problems:
        return plan
    _check_values(file, plan, checker)
    if not plan.problems:
        asked = (searcher.ask(number) for number in range(min(plan.total or SAMPLES, MOST_POINTS)))
        _check_points(file, plan, checker, [point for point in asked if point is not None])
    plan.max_epochs = checker.max_epochs
    if not plan.problems:
        _check_metric(file, plan, checker, base)
        _warn(file, plan, base)
    plan.composed = checker.composed
    return plan


def _parse_space(file: SweepFile, problems: list[str]) -> dict[str, Domain]:
    space: dict[str, Domain] = {}
    for key, expression in file.spec.space.items():
        try:
            space[key] = parse_domain(expression)
        except SweepError as error:
            problems.append(f"{file.at(f'space.{key}')}: space key '{key}': {error}")
    return space


def _check_keys(file: SweepFile, plan: Plan, composer: Composer) -> None:
    groups, keys = composer.groups(), composer.keys()
    for key, domain in plan.space.items():
        where = f"{file.at(f'space.{key}')}: space key '{key}'"
        if key in ("trainer.accelerator", "trainer.devices"):
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


def _within_choice(key: str, space: Mapping[str, Domain]) -> bool:
    """Tell whether a key may come with an option of a group that varies too; composing will say."""
    return any(key.startswith(f"{other.replace('/', '.')}.") for other in space if other != key)


def _check_values(file: SweepFile, plan: Plan, checker: _Checker) -> None:
    corners = {key: domain.corners() for key, domain in plan.space.items()}
    first, last = ({key: values[side] for key, values in corners.items()} for side in (0, -1))
    common = {checker.problem(point) for point in ({}, first, last)}
    if len(common) == 1 and "" not in common:
        (problem,) = common  # whatever the point is
        plan.problems.append(f"{file.at(_guilty(problem, file))}: {problem}")
        return
    by_itself: dict[str, str] = {}
    among_others: dict[str, str] = {}
    for key, values in corners.items():
        others = [{other: option} for other in corners if other != key for option in corners[other]]
        for value in values:
            problems = (checker.problem({**first, **other, key: value}) for other in ({}, *others))
            tried = list(takewhile(bool, problems))
            if len(tried) > len(others):
                problem = checker.problem({key: value})
                # One line for a problem, however many values meet it.
                seen = by_itself if problem else among_others
                seen.setdefault(problem or tried[0], f"{file.at(f'space.{key}')}: {key}={quote(value)}")
    # A value that is wrong by itself makes others fail.
    plan.problems += [f"{where}: {problem}" for problem, where in (by_itself or among_others).items()]


def _check_points(file: SweepFile, plan: Plan, checker: _Checker, points: Sequence[Point]) -> None:
    for point in points:
        parameters, problem = checker.check(point)
        plan.points.append(PlannedPoint(point, parameters, problem))
    joint = [{key: domain.corners()[side] for key, domain in plan.space.items()} for side in (0, -1)]
    seen: dict[str, list[Point]] = {}
    for point in [*points, *(point for point in joint if point not in points)]:
        _, problem = checker.check(point)
        if problem:
            seen.setdefault(problem, []).append(point)
    for problem, bad in seen.items():
        varied = {key: value for key, value in bad[0].items() if not isinstance(plan.space[key], Fixed)}
        more = f" (and {len(bad) - 1} more points)" if len(bad) > 1 else ""
        plan.warnings.append(f"{file.at('space')}: cannot work: {', '.join(to_overrides(varied))}{more}: {problem}")
    if plan.points and all(planned.problem for planned in plan.points):
        plan.problems.append(f"{file.at('space')}: no point that was tried can work: {plan.points[0].problem}")


def _check_metric(file: SweepFile, plan: Plan, checker: _Checker, base: DictConfig) -> None:
    spec = file.spec
    if base.trainer.fast_dev_run or not base.exp_manager.create_checkpoint_callback:
        plan.problems.append(
            f"{file.at('overrides')}: a sweep goes on from checkpoints and ends with one; "
            "set trainer.fast_dev_run=false and exp_manager.create_checkpoint_callback=true"
        )
    monitor, names = base.exp_manager.checkpoint_callback_params.monitor, sorted(checker.metric_names)
    for key, name in {"metric.name": spec.metric.name, "overrides": monitor}.items():
        if name not in names and (key, name) != ("overrides", spec.metric.name):
            plan.problems.append(
                f"{file.at(key)}: metric '{name}' is not logged by the model in training{nearest(name, names)}; "
                f"it logs: {', '.join(names)}"
            )
    if spec.scheduler.name == "asha":
        if not plan.max_epochs:
            plan.problems.append(f"{file.at('scheduler')}: asha needs trainer.max_epochs; set it in overrides")
        elif spec.scheduler.grace > plan.max_epochs:
            plan.problems.append(
                f"{file.at('scheduler.grace')}: scheduler.grace is {spec.scheduler.grace}, more than the "
                f"{plan.max_epochs} epochs of trainer.max_epochs; nothing could ever be stopped"
            )


def _warn(file: SweepFile, plan: Plan, base: DictConfig) -> None:
    """Name what works, but hardly as it is meant."""
    sizes = [len(values) if (values := domain.values()) else math.inf for domain in plan.space.values()]
    if plan.total and math.prod(sizes) < plan.total:
        plan.warnings.append(
            f"{file.at('budget.trials')}: the space has {math.prod(sizes)} points, fewer than the {plan.total} trials; "
            "some will be tried again (search.name=grid takes each once)"
        )
    asked, gpus = OmegaConf.select(base, "trainer.accelerator"), file.spec.resources.gpus
    if asked in (("cpu",) if gpus else ("gpu", "cuda")):
        plan.warnings.append(
            f"{file.at('resources.gpus')}: trainer.accelerator is {asked}, but resources.gpus is {gpus:g}: "
            f"trials train on the {'GPU' if gpus else 'CPU'}"
        )


class _Checker:
    """Composes points and builds their models, each distinct part once."""

    def __init__(self, composer: Composer, *, on_cpu: bool) -> None:
        self.composer, self.on_cpu = composer, on_cpu
        self.metric_names: set[str] = set()
        self.max_epochs = 0
        self.composed = 0
        self._checked: dict[str, tuple[int | None, str]] = {}
        self._models: dict[str, tuple[int | None, str]] = {}
        self._data: dict[str, tuple[DataModule, dict[str, Any]]] = {}
        self._unfit: dict[str, str] = {}
        self._trained_by: set[str] = set()

    def problem(self, point: Point) -> str:
        return self.check(point)[1]

    def check(self, point: Point) -> tuple[int | None, str]:
        """Return the number of weights, and what is wrong (empty: nothing)."""
        overrides = to_overrides(point)
        name = "\n".join(sorted(overrides))
        if name not in self._checked:
            self._checked[name] = self._check(overrides)
        return self._checked[name]

    def _check(self, overrides: Sequence[str]) -> tuple[int | None, str]:
        self.composed += 1
        try:
            config = self.composer.compose(overrides)
            self._check_trainer(config)
            data, assets = self._build_data(config)
        except RayconvaiError as error:
            return None, _OVERRIDE.sub("", str(error))
        self.max_epochs = max(self.max_epochs, config.trainer.max_epochs or 0)
        name = _name(config.model, config.tokenizer, config.data)
        if name not in self._models:
            self._models[name] = self._build_model(config, data, assets)
        return self._models[name]

    def _check_trainer(self, config: DictConfig) -> None:
        name = _name(config.trainer)
        if self.on_cpu and name not in self._trained_by:  # a GPU may be known only where the trials will run
            make_trainer(config, Runtime(accelerator="cpu", devices=1, progress=False))
            self._trained_by.add(name)

    def _build_data(self, config: DictConfig) -> tuple[DataModule, dict[str, Any]]:
        """Prepare the data and train the tokenizer, as a run would, once for each config of the two."""
        name = _name(config.data, config.tokenizer)
        if name not in self._data:
            data = build(config.data, seed=config.seed)
            if not isinstance(data, DataModule):
                raise ConfigError(f"data._target_ is {type(data).__name__}, which is not a rayconvai DataModule")
            data.prepare()
            tokenizer = None if config.tokenizer is None else build(config.tokenizer, texts=data.texts())
            self._data[name] = (data, {} if tokenizer is None else {"tokenizer": tokenizer})
        return self._data[name]

    def _bind(self, config: DictConfig, data: DataModule, model: Model) -> str:
        """Check the data against the first model that reads them, and return what is wrong: texts can be many."""
        name = _name(config.data, config.tokenizer)
        if name not in self._unfit:
            self._unfit[name] = ""
            try:
                data.bind(model)
            except RayconvaiError as error:
                self._unfit[name] = str(error)
        return self._unfit[name]

    def _build_model(self, config: DictConfig, data: DataModule, assets: dict[str, Any]) -> tuple[int | None, str]:
        try:
            model = _meta_model(config.model, assets)
        except (RayconvaiError, ValueError, TypeError, RuntimeError, AssertionError) as error:
            return None, " ".join(str(error).split()) or type(error).__name__
        if unfit := self._bind(config, data, model):
            return None, unfit
        self.metric_names |= set(model.ranking_names())
        return sum(weights.numel() for weights in model.parameters()), ""


def _meta_model(node: DictConfig, assets: dict[str, Any]) -> Model:
    try:
        with torch.device("meta"):
            return build_model(node, **assets)
    except (NotImplementedError, RuntimeError) as error:
        if "meta" not in str(error) or isinstance(error, RayconvaiError):
            raise
        # A module that looks at the values of its buffers can only be built for real.
        return build_model(node, **assets)


def _name(*nodes: Any) -> str:
    plain = [OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node for node in nodes]
    return json.dumps(plain, sort_keys=True, default=str)


def _guilty(message: str, file: SweepFile) -> str:
    """Return the key of the file that a base config's error comes from."""
    named = message.split(" ", 1)[0].rstrip(":")
    keys = [line.lstrip("+~").partition("=")[0] for line in file.spec.overrides]
    written = any(repr(line) in message for line in file.spec.overrides)
    return "overrides" if written or any(f"{key}.".startswith(f"{named}.") for key in keys) else "recipe"


def _short(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
