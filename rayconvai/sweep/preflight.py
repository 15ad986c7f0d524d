"""What must hold for a sweep besides its points: metrics, scheduler and budget fit together, storage can be written.

Each function gives the faults it finds, one line each, with the line of the file.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from omegaconf import DictConfig

from rayconvai.errors import StorageError
from rayconvai.experiment.mirror import Mirror
from rayconvai.places import is_address
from rayconvai.sweep.checker import PointChecker
from rayconvai.sweep.scheduler import HyperBand, rungs
from rayconvai.sweep.space import Space
from rayconvai.sweep.spec import SweepFile, SweepSpec


def overridden(file: SweepFile) -> list[str]:
    """Return the keys that the file's overrides set."""
    return [line.lstrip("+~").partition("=")[0].strip() for line in file.spec.overrides]


def place(file: SweepFile, key: str) -> str:
    """Return where the file sets a key of the run, or the line that names the recipe."""
    if key in file.spec.space:
        return file.at(f"space.{key}")
    return file.at("overrides" if key in overridden(file) else "recipe")


def contradictions(file: SweepFile) -> Iterator[str]:
    """What the file says in two ways, or in vain."""
    spec = file.spec
    for key in overridden(file):
        if key.startswith(("hydra.", "hydra/")):
            yield f"{file.at('overrides')}: override {key} would do nothing: a sweep does not run through Hydra's jobs"
        if key.split(".")[0] == "resources":
            yield f"{file.at('overrides')}: override {key} would do nothing: the sweep's resources say it"
    if spec.budget.epochs is not None and "trainer.max_epochs" in (*overridden(file), *spec.space):
        yield (
            f"{place(file, 'trainer.max_epochs')}: trainer.max_epochs is what budget.epochs says already "
            f"({spec.budget.epochs}); take one of them out"
        )
    if spec.repeats > 1 and "seed" in spec.space:
        yield f"{file.at('space.seed')}: space key 'seed': repeats={spec.repeats} gives each trial a seed of its own"


def metrics(file: SweepFile, checker: PointChecker, base: DictConfig) -> Iterator[str]:
    """What the models never log."""
    named = {"metric.name": file.spec.metric.name}
    if base.exp_manager.checkpoint_callback_params.monitor != file.spec.metric.name:
        named["overrides"] = base.exp_manager.checkpoint_callback_params.monitor
    asked = [*named.items(), *(("more_metrics", metric.name) for metric in file.spec.more_metrics)]
    for key, name in asked:
        for model in checker.models:
            if unlogged := model.unlogged(name):
                yield f"{file.at(key)}: metric '{name}' {unlogged}"
                break


def checkpoints(file: SweepFile, base: DictConfig) -> Iterator[str]:
    """What keeps trials from going on."""
    if base.trainer.fast_dev_run or not base.exp_manager.create_checkpoint_callback:
        yield (
            f"{file.at('overrides')}: a sweep goes on from checkpoints and ends with one; "
            "set trainer.fast_dev_run=false and exp_manager.create_checkpoint_callback=true"
        )


def rhythm(file: SweepFile, trainers: Iterable[DictConfig]) -> Iterator[str]:
    """Where the scheduler looks, and where a trial has its metric: the first fault of all the trainers that vary."""
    faults = (fault for trainer in trainers for fault in _rhythm(file, trainer))
    with contextlib.suppress(StopIteration):
        yield next(faults)


def _rhythm(file: SweepFile, trainer: DictConfig) -> Iterator[str]:
    scheduler, epochs, every = file.spec.scheduler, trainer.max_epochs, trainer.check_val_every_n_epoch
    name, at = scheduler.name, "interval" if scheduler.name == "pbt" else "grace"
    first = scheduler.interval if name == "pbt" else scheduler.grace
    key = "trainer.limit_val_batches"
    if trainer.limit_val_batches == 0:
        yield f"{place(file, key)}: {key} is 0: no trial would ever have the metric {file.spec.metric.name}"
    key = "trainer.check_val_every_n_epoch"
    if epochs and epochs > 0 and every and every > epochs:
        yield (
            f"{place(file, key)}: {key} is {every}, more than the {epochs} epochs of trainer.max_epochs: "
            f"no trial would ever have the metric {file.spec.metric.name}"
        )
    if name == "none":
        return
    if not epochs or epochs < 0:
        yield f"{file.at('scheduler')}: {name} needs to know how long a trial is; set budget.epochs"
        return
    if every is None or isinstance(trainer.val_check_interval, str):
        key = key if every is None else "trainer.val_check_interval"
        yield f"{place(file, key)}: {key}: {name} needs the metric at the end of known epochs; set {key}=1"
        return
    if first > epochs:
        vain = "nothing could ever be taken over" if name == "pbt" else "nothing could ever be stopped"
        yield (
            f"{file.at(f'scheduler.{at}')}: scheduler.{at} is {first}, more than the {epochs} epochs of "
            f"trainer.max_epochs; {vain}"
        )
    looks = _looks(file.spec, epochs)
    if any(epoch % every for epoch in looks):
        reduction = " and scheduler.reduction" if len(looks) > 1 else ""
        yield (
            f"{file.at(f'scheduler.{at}')}: {name} compares trials at the end of epoch {', '.join(map(str, looks[:4]))}"
            f"{' ...' if len(looks) > 4 else ''}, but with trainer.check_val_every_n_epoch={every} the metric is known "
            f"at multiples of {every} only; choose scheduler.{at}{reduction} so, or validate at every epoch"
        )


def _looks(spec: SweepSpec, epochs: int) -> list[int]:
    """Return the epochs at which the scheduler compares trials; of median and pbt the first is enough to know."""
    scheduler = spec.scheduler
    if scheduler.name == "pbt":
        return [scheduler.interval]
    if scheduler.name == "median":
        return [scheduler.grace]
    if scheduler.name == "asha":
        return list(rungs(scheduler.grace, scheduler.reduction, epochs))
    hyperband = HyperBand(spec.metric, epochs, grace=scheduler.grace, reduction=scheduler.reduction)
    return sorted({rung for bracket in hyperband.brackets for rung in bracket.rungs})


def interchangeable(file: SweepFile, checker: PointChecker, space: Space) -> Iterator[str]:
    """Keys that make trials unable to go on from each other's checkpoints, which pbt does."""
    if file.spec.scheduler.name != "pbt":
        return
    parts = ("the shapes of the weights", "the tokenizer", "the optimizer", "the learning-rate schedule")
    for key, domain in space.items():
        points = (space.holding({key: value}) for value in domain.corners())
        kinds = [kind for point in points if point is not None and (kind := checker.check(point).checkpoint)]
        changed = [part for index, part in enumerate(parts) if len({kind[index] for kind in kinds}) > 1]
        if changed:
            yield (
                f"{file.at(f'space.{key}')}: space key '{key}' changes {changed[0]}, so that a trial cannot go on from "
                "another's checkpoint, as pbt does; take it out of the space"
            )


def storage(file: SweepFile) -> Iterator[str]:
    """What keeps the sweep's directory from being written."""
    try:
        if is_address(file.spec.place):
            Mirror(file.spec.place).probe()
        else:
            try_directory(file.spec.directory)
    except StorageError as error:
        yield f"{file.at('storage')}: {error}"


def try_directory(directory: Path) -> None:
    """Write a file in a directory, sync and remove it; a directory that was not there is not there afterwards.

    Raises:
        StorageError: it cannot be done.
    """
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    probe = directory / f".probe-{os.getpid()}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with probe.open("wb") as file:
            file.write(bytes(2**16))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StorageError(f"{directory} cannot be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):  # what others put there meanwhile stays
            probe.unlink(missing_ok=True)
            for path in missing:
                path.rmdir()
