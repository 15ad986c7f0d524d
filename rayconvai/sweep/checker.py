"""Points are composed, and what they name is built: each distinct part once, and nothing is trained."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from rayconvai.config.compose import Composer
from rayconvai.core.build import build
from rayconvai.core.data_module import DataModule
from rayconvai.core.model import Model, build_model
from rayconvai.errors import ConfigError, RayconvaiError
from rayconvai.experiment.rehearsal import try_loggers
from rayconvai.sweep.domains import Point
from rayconvai.sweep.estimate import Step, measure_step, state_bytes
from rayconvai.sweep.grammar import to_overrides
from rayconvai.train.fit import make_trainer
from rayconvai.train.runtime import Runtime

ESTIMATE_SECONDS = 6.0
"""So much of the CPU's time may go into following batches through models; for later ones there is no estimate."""
_OVERRIDE = re.compile(r"""^override ('.*?'|".*?"): """)


@dataclass
class Built:
    """A model without memory, and the data that it would read."""

    model: Model
    data: DataModule
    precision: Any
    parameters: int
    shapes: str
    """Says which checkpoints' weights it can load."""
    step: Step | None = None
    followed: bool = False
    """Whether ``step`` has been looked for."""


@dataclass(frozen=True)
class Verdict:
    """What is known of a point."""

    problem: str = ""
    """Why it cannot work."""
    built: Built | None = None
    """None if it cannot work."""
    kept: int | None = None
    """Bytes of weights, gradients and optimizer state; None: not known."""
    epochs: int | None = None
    checkpoint: tuple[str, ...] = ()
    """What a checkpoint of it fits: trials that differ in this cannot go on from each other's."""


class PointChecker:
    """Composes points and builds their models; remembers what it has seen.

    Args:
        composer: of the recipe, with the overrides that all trials share.
        on_cpu: trials train on CPUs, so that their trainers can be made here.
    """

    def __init__(self, composer: Composer, *, on_cpu: bool) -> None:
        self.composer, self.on_cpu = composer, on_cpu
        self.composed = 0
        self.models: set[type[Model]] = set()
        self.trainers: dict[str, DictConfig] = {}
        """The distinct ``trainer`` sections."""
        self._verdicts: dict[str, Verdict] = {}
        self._data: dict[str, tuple[DataModule, dict[str, Any]]] = {}
        self._built: dict[str, Built | str] = {}
        self._unfit: dict[Any, str] = {}
        self._states: dict[str, int | None] = {}
        self._loggers: dict[str, str] = {}
        self._estimating = 0.0

    def problem(self, point: Point) -> str:
        return self.check(point).problem

    def check(self, point: Point) -> Verdict:
        """Say what is known of a point."""
        overrides = to_overrides(point)
        name = "\n".join(sorted(overrides))
        if name not in self._verdicts:
            self.composed += 1
            try:
                self._verdicts[name] = self._check(overrides)
            except RayconvaiError as error:
                self._verdicts[name] = Verdict(_OVERRIDE.sub("", str(error)))
        return self._verdicts[name]

    def step(self, verdict: Verdict) -> Step | None:
        """Estimate what training takes at a point, unless other estimates have used up the time."""
        built = verdict.built
        if built is not None and not built.followed and self._estimating < ESTIMATE_SECONDS:
            began = time.process_time()
            built.step, built.followed = measure_step(built.model, built.data, built.precision), True
            self._estimating += time.process_time() - began
        return None if built is None else built.step

    def _check(self, overrides: Sequence[str]) -> Verdict:
        config = self.composer.compose(overrides)
        self._check_trainer(config)
        self._check_loggers(config)
        data, assets = self._build_data(config)
        name = _name(config.model, config.tokenizer, config.data, config.trainer.precision)
        if name not in self._built:
            self._built[name] = self._build_model(config, data, assets)
        built = self._built[name]
        if isinstance(built, str):
            return Verdict(built)
        state = f"{name} {config.optim.name}"
        if state not in self._states:
            self._states[state] = state_bytes(config.optim, built.model)
        schedule = None if config.schedule is None else config.schedule.name
        return Verdict(
            built=built,
            kept=self._states[state],
            epochs=config.trainer.max_epochs,
            checkpoint=(built.shapes, _name(config.tokenizer), config.optim.name, str(schedule)),
        )

    def _check_trainer(self, config: DictConfig) -> None:
        name = _name(config.trainer)
        if name not in self.trainers:
            if self.on_cpu:  # a GPU may be known only where the trials will run
                make_trainer(config, Runtime(accelerator="cpu", devices=1, progress=False))
            self.trainers[name] = config.trainer

    def _check_loggers(self, config: DictConfig) -> None:
        section = config.exp_manager
        name = _name({key: value for key, value in section.items() if "logger" in key or "writer" in key})
        if name not in self._loggers:
            self._loggers[name] = _message(try_loggers, section)
        if self._loggers[name]:
            raise ConfigError(self._loggers[name])

    def _build_data(self, config: DictConfig) -> tuple[DataModule, dict[str, Any]]:
        """Prepare the data and train the tokenizer, as a run would, once for each config of the two."""
        name = _name(config.data, config.tokenizer)
        if name not in self._data:
            data = build(config.data, seed=config.seed)
            if not isinstance(data, DataModule):
                raise ConfigError(f"data._target_ is {type(data).__name__}, which is not a rayconvai DataModule")
            data.prepare()
            assets = data.assets()
            if config.tokenizer is not None:
                assets["tokenizer"] = build(config.tokenizer, texts=data.texts())
            self._data[name] = (data, assets)
        return self._data[name]

    def _build_model(self, config: DictConfig, data: DataModule, assets: dict[str, Any]) -> Built | str:
        try:
            model = _meta_model(config.model, assets)
        except (RayconvaiError, ValueError, TypeError, RuntimeError, AssertionError) as error:
            return " ".join(str(error).split()) or type(error).__name__
        if unfit := self._bind(config, data, model):
            return unfit
        self.models.add(type(model))
        parameters = sum(weights.numel() for weights in model.parameters())
        shapes = _name({name: list(tensor.shape) for name, tensor in model.state_dict().items()})
        digest = hashlib.sha256(shapes.encode()).hexdigest()[:16]
        return Built(model, data, config.trainer.precision, parameters, digest)

    def _bind(self, config: DictConfig, data: DataModule, model: Model) -> str:
        """Check the data against the first model that reads them so, and return what is wrong: texts can be many."""
        name = _name(config.data, config.tokenizer), data.bound_by(model)
        if name not in self._unfit:
            self._unfit[name] = _message(data.bind, model)
        return self._unfit[name]


def _message(check: Callable[[Any], None], what: Any) -> str:
    """Return what a check finds wrong; empty: nothing."""
    try:
        check(what)
    except RayconvaiError as error:
        return str(error)
    return ""


def _meta_model(node: DictConfig, assets: dict[str, Any]) -> Model:
    try:
        with torch.device("meta"):
            return build_model(node, **assets)
    except (NotImplementedError, RuntimeError) as error:
        if "meta" not in str(error) or isinstance(error, RayconvaiError):
            raise
        # A module that looks at the values of its buffers can only be built for real.
        return build_model(node, **assets).to("meta")


def _name(*nodes: Any) -> str:
    plain = [OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node for node in nodes]
    return json.dumps(plain, sort_keys=True, default=str)
