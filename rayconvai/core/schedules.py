"""Learning-rate schedules by name: which there are, and how a config section becomes one.

A section names a schedule and gives its options, ``{name: CosineAnnealing, warmup_ratio: 0.1, min_lr: 1e-6}``. Every
length may be given in optimizer steps (``warmup_steps``), in epochs (``warmup_epochs``), or, where the schedule has it,
as a share of ``max_steps`` (``warmup_ratio``). The end is that of the run unless ``max_steps`` or ``max_epochs`` say
otherwise. PyTorch's own schedules take PyTorch's arguments.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import CyclicLR, ExponentialLR, LRScheduler, ReduceLROnPlateau, StepLR
from torch.utils.data import DataLoader

from rayconvai.core.annealing import (
    WSD,
    CosineAnnealing,
    InverseSquareRootAnnealing,
    NoamAnnealing,
    NoamHoldAnnealing,
    PolynomialDecayAnnealing,
    PolynomialHoldDecayAnnealing,
    SquareAnnealing,
    SquareRootAnnealing,
    T5InverseSquareRootAnnealing,
    WarmupAnnealing,
    WarmupHoldAnnealLinear,
    WarmupHoldAnnealOneMinusSquareRoot,
)
from rayconvai.core.build import Parameter
from rayconvai.core.options import check_options, find, options_of, plain
from rayconvai.core.policies import Constant, WarmupHoldPolicy, WarmupPolicy
from rayconvai.errors import ConfigError

__all__ = [
    "AVAILABLE_SCHEDULERS",
    "WSD",
    "Constant",
    "CosineAnnealing",
    "InverseSquareRootAnnealing",
    "NoamAnnealing",
    "NoamHoldAnnealing",
    "PolynomialDecayAnnealing",
    "PolynomialHoldDecayAnnealing",
    "SquareAnnealing",
    "SquareRootAnnealing",
    "T5InverseSquareRootAnnealing",
    "WarmupAnnealing",
    "WarmupHoldAnnealLinear",
    "WarmupHoldAnnealOneMinusSquareRoot",
    "WarmupHoldPolicy",
    "WarmupPolicy",
    "build_schedule",
    "check_schedule",
    "compute_max_steps",
    "get_scheduler",
    "lightning_schedule",
    "prepare_lr_scheduler",
    "register_scheduler",
]

logger = logging.getLogger(__name__)

AVAILABLE_SCHEDULERS: dict[str, type[LRScheduler]] = {
    "WarmupPolicy": WarmupPolicy,
    "WarmupHoldPolicy": WarmupHoldPolicy,
    "Constant": Constant,
    "SquareAnnealing": SquareAnnealing,
    "SquareRootAnnealing": SquareRootAnnealing,
    "CosineAnnealing": CosineAnnealing,
    "NoamAnnealing": NoamAnnealing,
    "NoamHoldAnnealing": NoamHoldAnnealing,
    "WarmupAnnealing": WarmupAnnealing,
    "WarmupHoldAnnealLinear": WarmupHoldAnnealLinear,
    "WarmupHoldAnnealOneMinusSquareRoot": WarmupHoldAnnealOneMinusSquareRoot,
    "InverseSquareRootAnnealing": InverseSquareRootAnnealing,
    "T5InverseSquareRootAnnealing": T5InverseSquareRootAnnealing,
    "PolynomialDecayAnnealing": PolynomialDecayAnnealing,
    "PolynomialHoldDecayAnnealing": PolynomialHoldDecayAnnealing,
    "WSD": WSD,
    "StepLR": StepLR,
    "ExponentialLR": ExponentialLR,
    "ReduceLROnPlateau": ReduceLROnPlateau,
    "CyclicLR": CyclicLR,
}

_WHEN = {
    "interval": Parameter("interval", str, "step"),
    "frequency": Parameter("frequency", int, 1),
    "monitor": Parameter("monitor", str, "val_loss"),
}
"""What Lightning is told of a schedule of PyTorch's: step or epoch, every how many, and by which metric."""


def get_scheduler(name: str, **kwargs: Any) -> partial[LRScheduler]:
    """Return the schedule's class with some of its arguments bound.

    Raises:
        ConfigError: there is no schedule of that name.
    """
    return partial(find(name, AVAILABLE_SCHEDULERS, "schedule"), **kwargs)


def register_scheduler(name: str, scheduler: type[LRScheduler], scheduler_params: type[Any] | None = None) -> None:
    """Add a schedule to those that a config can name.

    Args:
        name: what configs call it.
        scheduler: its class; the keywords of its signature are the keys of its section.
        scheduler_params: taken for the sake of NeMo's users and not needed.

    Raises:
        ConfigError: the name is taken.
    """
    if name in AVAILABLE_SCHEDULERS:
        raise ConfigError(f"schedule {name!r} exists already; choose another name")
    AVAILABLE_SCHEDULERS[name] = scheduler


def check_schedule(config: Mapping[str, Any]) -> None:
    """Check a ``schedule`` section without a model.

    Raises:
        ConfigError: an unknown name or key, with the nearest; a wrong type or value; two lengths for one phase.
    """
    trial = SGD([nn.Parameter(torch.zeros(1))], lr=1e9)  # above any min_lr, which only the real rate can judge
    build_schedule(config, trial, max_steps=1000, steps_per_epoch=100)


def build_schedule(
    config: Mapping[str, Any], optimizer: Optimizer, *, max_steps: int, steps_per_epoch: int
) -> LRScheduler:
    """Make the schedule that a ``schedule`` section describes.

    Args:
        config: the section.
        optimizer: whose groups' rates are the base rates.
        max_steps: the optimizer steps that the run will take.
        steps_per_epoch: optimizer steps, for lengths given in epochs.

    Raises:
        ConfigError: as ``check_schedule``, or the schedule refuses a value.
    """
    scheduler, options, _ = _resolve(config)
    accepted = options_of(scheduler)
    arguments = {}
    for key, value in options.items():
        if key.endswith("_epochs") and key not in accepted:
            if value is not None:
                arguments[key.removesuffix("epochs") + "steps"] = round(value * steps_per_epoch)
        elif value is not None or accepted[key].default is not None:
            arguments[key] = value
    if "max_steps" in accepted:
        arguments.setdefault("max_steps", max_steps)
    try:
        return scheduler(optimizer, **arguments)
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"schedule: {scheduler.__name__} refuses {arguments}: {error}") from error


def lightning_schedule(
    config: Mapping[str, Any], optimizer: Optimizer, *, max_steps: int, steps_per_epoch: int
) -> dict[str, Any]:
    """Make the schedule with what Lightning must know of it: when to step, and by which metric.

    Our schedules step with the optimizer. For PyTorch's own the section may say ``interval`` (step or epoch),
    ``frequency`` and ``monitor``; ReduceLROnPlateau steps each epoch by ``val_loss`` unless told otherwise.
    """
    schedule = build_schedule(config, optimizer, max_steps=max_steps, steps_per_epoch=steps_per_epoch)
    when = _resolve(config)[2]
    return _entry(
        schedule,
        interval=when.get("interval"),
        frequency=when.get("frequency", 1),
        monitor=when.get("monitor", "val_loss"),
    )


def prepare_lr_scheduler(
    optimizer: Optimizer,
    scheduler_config: Mapping[str, Any] | Any,
    train_dataloader: DataLoader[Any] | None = None,
) -> dict[str, Any] | None:
    """Make a schedule from a section as NeMo's users write it, and what Lightning must know of it.

    Args:
        optimizer: whose groups' rates are the base rates.
        scheduler_config: a mapping or a dataclass: ``name`` (or the ``_target_`` of its parameters), ``max_steps``,
            ``monitor``, ``reduce_on_plateau`` and the schedule's options, which may stand under ``args``, ``params`` or
            both; None: no schedule. Without ``max_steps`` it is computed from ``t_max_epochs``,
            ``t_accumulate_grad_batches``, ``t_limit_train_batches``, ``t_num_workers``.
        train_dataloader: the data that such an epoch goes through.

    Returns:
        None, with a warning, where the schedule needs an end and none is known, or where ``max_steps`` is -1.

    Raises:
        ConfigError: an unknown name or key, or a value that the schedule refuses.
    """
    options = _flat(plain(scheduler_config or {}))
    if not options:
        logger.info("no schedule: the section is empty")
        return None
    name, target = options.pop("name", None), options.pop("_target_", "")
    name = name or target.rpartition(".")[2].removesuffix("Params")
    scheduler = find(name, AVAILABLE_SCHEDULERS, "schedule")
    monitor = options.pop("monitor", "loss")
    trainer = {key: options.pop(key) for key in [*options] if key.startswith("t_")}
    for key in ("iters_per_batch", "reduce_on_plateau"):  # they stand in NeMo's sections and decide nothing
        options.pop(key, None)
    accepted = options_of(scheduler)
    if options.get("max_steps") is None and train_dataloader is not None and trainer.get("t_max_epochs") is not None:
        options["max_steps"] = _steps_of(trainer, train_dataloader)
    end = options.get("max_steps")
    if end == -1 or (end is None and getattr(scheduler, "decays", False)):
        logger.warning("no schedule: %s decays towards max_steps, which is not known", name)
        return None
    if "max_steps" not in accepted:
        options.pop("max_steps", None)
    schedule = scheduler(optimizer, **check_options(options, accepted, "sched", name))
    return _entry(schedule, monitor=monitor, interval="epoch" if isinstance(schedule, ExponentialLR) else None)


def compute_max_steps(
    max_epochs: int,
    accumulate_grad_batches: int,
    limit_train_batches: int | float | None,
    num_workers: int,
    num_samples: int,
    batch_size: int,
    drop_last: bool,
) -> int:
    """Return the optimizer steps of a run, as Lightning will count them.

    Args:
        max_epochs: epochs of the run.
        accumulate_grad_batches: batches an optimizer step; the last step of an epoch may have fewer.
        limit_train_batches: batches an epoch (int), or the share of them that is used (float).
        num_workers: processes among which the samples are divided, not loader workers.
        num_samples: samples an epoch, over all processes.
        batch_size: samples a batch of one process.
        drop_last: whether an incomplete last batch is dropped.
    """
    share = math.ceil(num_samples / max(1, num_workers))  # the sampler pads, so that all processes have as many
    batches = share // batch_size if drop_last else math.ceil(share / batch_size)
    if isinstance(limit_train_batches, float) and limit_train_batches != 0.0:
        batches = int(batches * limit_train_batches)
    elif limit_train_batches is not None:
        batches = min(batches, int(limit_train_batches))
    return math.ceil(batches / accumulate_grad_batches) * max_epochs


def _resolve(config: Mapping[str, Any]) -> tuple[type[LRScheduler], dict[str, Any], dict[str, Any]]:
    """Return the class that a section names, its options, and what Lightning is told."""
    given = plain(config)
    name = given.pop("name", None)
    if name is None:
        raise ConfigError(f"schedule.name is missing; it is one of {', '.join(AVAILABLE_SCHEDULERS)}")
    scheduler = find(name, AVAILABLE_SCHEDULERS, "schedule.name")
    accepted = options_of(scheduler)
    accepted.pop("last_epoch", None)  # where a run stands is the checkpoint's to say
    lengths = [key.removesuffix("_steps") for key in accepted if key.endswith("_steps")]
    known = accepted | {f"{phase}_epochs": Parameter(f"{phase}_epochs", float | None, None) for phase in lengths}
    if not issubclass(scheduler, WarmupPolicy):
        known |= _WHEN
    options = check_options(given, known, "schedule", name)
    for phase in lengths:
        keys = [key for unit in ("steps", "ratio", "epochs") if options.get(key := f"{phase}_{unit}") is not None]
        if len(keys) > 1:
            raise ConfigError(f"schedule.{keys[0]} and schedule.{keys[1]} exclude each other; set one of them to null")
    when = {key: options.pop(key) for key in _WHEN if key in options and key not in accepted}
    if when.get("interval", "step") not in ("step", "epoch"):
        raise ConfigError(f"schedule.interval must be step or epoch, not {when['interval']!r}")
    return scheduler, options, when


def _flat(section: Mapping[str, Any]) -> dict[str, Any]:
    """Return a section with what is nested under ``args`` and ``params`` laid out flat; the outer keys hold."""
    nested = [_flat(section[key] or {}) for key in ("args", "params") if key in section]
    outer = {key: value for key, value in section.items() if key not in ("args", "params")}
    return {key: value for part in [*nested, outer] for key, value in part.items()}


def _steps_of(trainer: Mapping[str, Any], loader: DataLoader[Any]) -> int:
    """Return the optimizer steps of a run over a loader, from the trainer's settings in a section."""
    limit = trainer.get("t_limit_train_batches", 1.0)
    accumulate = trainer.get("t_accumulate_grad_batches", 1)
    epochs, workers = trainer["t_max_epochs"], trainer.get("t_num_workers", 1)
    if loader.batch_size is None or not hasattr(loader.dataset, "__len__"):  # a batch sampler that knows its ranks
        return compute_max_steps(epochs, accumulate, limit, 1, len(loader), 1, loader.drop_last)
    samples = len(loader.dataset)
    return compute_max_steps(epochs, accumulate, limit, workers, samples, loader.batch_size, loader.drop_last)


def _entry(
    schedule: LRScheduler,
    *,
    monitor: str,
    interval: str | None = None,
    frequency: int = 1,
) -> dict[str, Any]:
    on_plateau = isinstance(schedule, ReduceLROnPlateau)
    return {
        "scheduler": schedule,
        "interval": interval or ("epoch" if on_plateau else "step"),
        "frequency": frequency,
        "monitor": monitor,
        "reduce_on_plateau": on_plateau,
    }
