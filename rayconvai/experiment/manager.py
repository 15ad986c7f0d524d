"""The experiment manager: one directory for a run, its loggers, checkpoints and resuming."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

import torch.distributed as dist
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint, EarlyStopping, WeightAveraging
from omegaconf import DictConfig
from typing_extensions import override

from rayconvai.errors import (
    CheckpointMisconfigurationError,
    ConfigError,
    LoggerMisconfigurationError,
    StorageError,
)
from rayconvai.experiment import provenance
from rayconvai.experiment.background import BackgroundCheckpointIO
from rayconvai.experiment.checkpoint import Checkpoints
from rayconvai.experiment.csv_logger import RunCSVLogger
from rayconvai.experiment.deadline import StopInTime
from rayconvai.experiment.early_stopping import StopEarly
from rayconvai.experiment.ema import MovingAverage
from rayconvai.experiment.front import Front
from rayconvai.experiment.hyperparameters import Reoptimize
from rayconvai.experiment.identity import LoggerIds
from rayconvai.experiment.interrupt import StopOnSignal
from rayconvai.experiment.layout import ATTEMPT_FILES, RunLayout, new_directory, version_names
from rayconvai.experiment.loggers import RunTensorBoardLogger, RunWandbLogger
from rayconvai.experiment.mirror import Mirror, Mirrored, fetched_file, new_address
from rayconvai.experiment.mlflow_logger import RunMLflowLogger
from rayconvai.experiment.options import CheckpointParams, ExpManagerConfig, OptionError, duration, options
from rayconvai.experiment.record import Best, MetricsRecord, RecordEpochs
from rayconvai.experiment.resume import EpochMeans, ExactResume, choose_checkpoint
from rayconvai.experiment.storage import remove_half_written, steps_taken
from rayconvai.experiment.timing import GradientNorm, Speed, StepTiming
from rayconvai.places import is_address, lasting_place, working_copy

__all__ = ["CheckpointParams", "ExpManagerConfig", "OptionError", "close", "exp_manager", "run_place"]

log = logging.getLogger(__name__)

_LOGGED = ("rayconvai", "lightning.pytorch", "lightning.fabric")
_DIRECTORY_VARIABLE = "RAYCONVAI_RUN_DIRECTORY"


def exp_manager(trainer: Trainer, cfg: ExpManagerConfig | DictConfig | Mapping[str, Any] | None = None) -> Path:
    """Give a run its directory: loggers, checkpoints, provenance, the metrics record, and resuming.

    Works for any trainer and any module. Afterwards ``trainer.fit(model)`` goes on from the newest checkpoint by
    itself where ``resume_if_exists`` says so. After the last use of the trainer, ``close(trainer)`` ends the loggers.

    Args:
        trainer: made with ``logger=False, enable_checkpointing=False``, unless the options leave these to it.
        cfg: the options; the keys are those of ``ExpManagerConfig``.

    Returns:
        The run's directory, the same on every rank; where it is to be in a bucket, its working copy here.

    Raises:
        OptionError: an option that does not exist or has a wrong value (an OmegaConfBaseException too).
        LoggerMisconfigurationError: the trainer has a logger already and another is to be made.
        CheckpointMisconfigurationError: the trainer has a checkpoint callback already and another is to be made.
        NotFoundError: there is nothing to resume from.
        CheckpointError: the run to resume has ended, or it is not clear which checkpoint is its last.
        StorageError: the directory cannot be written.
    """
    config = options(cfg)
    _check_conflicts(trainer, config)
    place = _agree(trainer, lambda: _place(trainer, config))
    layout = RunLayout(working_copy(place))
    mirror = _fetched(trainer, place) if is_address(place) else None
    checkpoints = Path(config.checkpoint_callback_params.dirpath or layout.checkpoints)
    resume_from = _agree(trainer, lambda: str(choose_checkpoint(config, checkpoints) or ""), "CHECKPOINT")
    given = config.resume_from_checkpoint or ""
    if is_address(given) and resume_from == str(working_copy(given)) and not trainer.is_global_zero:
        fetched_file(given, keep=True)  # the first rank may have done so on another machine
    if trainer.is_global_zero:
        _begin(layout, config, checkpoints)
        attempt = 1 + len(list(layout.root.glob("run_*/provenance.json")))
        provenance.record(layout, attempt=attempt, resumed_from=resume_from or None, **provenance.collect(trainer))
    if vars(trainer)["fast_dev_run"]:
        log.info("fast_dev_run: no loggers, no checkpoints")
        return layout.root
    _add_loggers(trainer, config, layout, resume_from)
    _add_callbacks(trainer, config, layout, checkpoints)
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = BackgroundCheckpointIO()
    if isinstance(trainer.strategy.checkpoint_io, BackgroundCheckpointIO):
        trainer.strategy.checkpoint_io.record = layout.metrics
    if resume_from:
        trainer.ckpt_path = resume_from
        log.info("resuming from %s", resume_from)
    if mirror is not None and trainer.is_global_zero:
        mirror.start()
        _callbacks(trainer).append(Mirrored(mirror))
    return layout.root


def close(trainer: Trainer) -> None:
    """End the loggers that ``exp_manager`` gave a trainer: their files are complete then, in the bucket too.

    Raises:
        StorageError: the bucket of the run did not take all for too long.
    """
    for logger in trainer.loggers:
        if isinstance(logger, (MetricsRecord, RunTensorBoardLogger, RunWandbLogger)):
            logger.close()
    _detach_log()
    for callback in _callbacks(trainer):
        if isinstance(callback, Mirrored):
            callback.mirror.close()


def _check_conflicts(trainer: Trainer, config: ExpManagerConfig) -> None:
    kinds = ("tensorboard", "wandb", "mlflow", "csv")
    made = [option for kind in kinds if getattr(config, option := f"create_{kind}_logger")]
    if trainer.loggers and made:
        raise LoggerMisconfigurationError(
            f"the trainer already has a logger ({type(trainer.loggers[0]).__name__}); make it with logger=False, "
            f"or set exp_manager.{'=false and '.join(made)}=false"
        )
    if trainer.loggers and (config.explicit_log_dir or config.exp_dir or config.name or config.version):
        raise LoggerMisconfigurationError(
            "the trainer's own logger sets the directory; make it with logger=False, "
            "or leave out exp_manager.exp_dir, name, version and explicit_log_dir"
        )
    if config.create_checkpoint_callback and any(isinstance(cb, Checkpoint) for cb in _callbacks(trainer)):
        raise CheckpointMisconfigurationError(
            "the trainer already has a checkpoint callback; make it with enable_checkpointing=False, "
            "or set exp_manager.create_checkpoint_callback=false"
        )
    if config.create_early_stopping_callback and any(isinstance(cb, EarlyStopping) for cb in _callbacks(trainer)):
        raise OptionError(
            "the trainer already has an EarlyStopping callback; make it without, "
            "or set exp_manager.create_early_stopping_callback=false"
        )
    if config.ema.enable and any(isinstance(cb, WeightAveraging) for cb in _callbacks(trainer)):
        raise OptionError(
            "the trainer already has a WeightAveraging callback; make it without, or set exp_manager.ema.enable=false"
        )


def _place(trainer: Trainer, config: ExpManagerConfig) -> str:
    if trainer.loggers:
        return os.path.abspath(trainer.log_dir or trainer.default_root_dir)
    return run_place(config)


def run_place(config: ExpManagerConfig) -> str:
    """Return the directory, or the address, that a run with these options takes, were it to begin now."""
    if config.explicit_log_dir is not None:
        return _absolute("explicit_log_dir", config.explicit_log_dir)
    parent = f"{_absolute('exp_dir', config.exp_dir or 'runs')}/{config.name or 'default'}"
    if config.version is not None:
        return f"{parent}/{config.version}"
    if config.resume_if_exists:
        return parent
    new = new_address if is_address(parent) else new_directory
    if not config.use_datetime_version:
        return new(parent, version_names)
    now = f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
    return new(parent, lambda _: itertools.chain([now], (f"{now}_{number}" for number in itertools.count(1))))


def _absolute(key: str, place: str) -> str:
    try:
        place = lasting_place(place)
    except StorageError as error:
        raise ConfigError(f"exp_manager.{key}: {error}") from error
    return place if is_address(place) else os.path.abspath(place)


def _fetched(trainer: Trainer, address: str) -> Mirror:
    """Return the mirror of a run in a bucket, with its working copy made, by each rank for its machine."""
    mirror = Mirror(address)
    if trainer.is_global_zero:
        mirror.probe()
    joined = dist.is_available() and dist.is_initialized()
    mirror.pull(whole=joined or trainer.is_global_zero)  # else the first rank may be at work there already
    if joined:
        dist.barrier()  # what the first rank changes from here on, nobody takes back
    return mirror


def _agree(trainer: Trainer, decide: Callable[[], str], what: str = "") -> str:
    """Return what rank 0 decides, on every rank.

    Ranks that Lightning starts itself find it in their environment; those that others start must have their process
    group already, or be told by options that leave nothing to decide.
    """
    variable = _DIRECTORY_VARIABLE + what
    if trainer.world_size == 1:
        return decide()
    if dist.is_available() and dist.is_initialized():
        decided = [decide() if trainer.is_global_zero else ""]
        dist.broadcast_object_list(decided, src=0)
        return decided[0]
    if trainer.is_global_zero:
        os.environ[variable] = decide()
        return os.environ[variable]
    return os.environ[variable] if variable in os.environ else decide()


def _begin(layout: RunLayout, config: ExpManagerConfig, checkpoints: Path) -> None:
    files = config.files_to_copy or []
    missing = [name for name in files if not Path(name).is_file()]
    if missing:
        raise ConfigError(f"exp_manager.files_to_copy: no such file: {missing[0]}")
    _detach_log()
    layout.make()
    layout.set_aside(*ATTEMPT_FILES, *([] if config.resume_if_exists else [layout.logger_ids.name]))
    try:
        if config.create_checkpoint_callback:
            checkpoints.mkdir(parents=True, exist_ok=True)
            remove_half_written(checkpoints)
        for name in files:
            shutil.copy2(name, layout.root)
        handler = _RunLog(layout.log)
    except OSError as error:
        raise StorageError(f"{error.filename or layout.root} cannot be written: {error.strerror or error}") from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    if not logging.getLogger("rayconvai").hasHandlers():
        # Nobody has set up logging: warnings would go to the file alone.
        logging.getLogger("rayconvai").addHandler(_Console())
    for name in _LOGGED:
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.INFO)


class _RunLog(logging.FileHandler):
    """The log.txt of the run that this process is at; a new run takes its place. If it cannot be written, that is said
    once and the training goes on without."""

    broken = False

    @override
    def emit(self, record: logging.LogRecord) -> None:
        if not self.broken:
            super().emit(record)

    @override
    def handleError(self, record: logging.LogRecord) -> None:
        self.broken = True
        log.warning("%s cannot be written (%s); the run goes on without", self.baseFilename, sys.exc_info()[1])

    @override
    def close(self) -> None:
        with contextlib.suppress(OSError):  # said when it was written
            super().close()


class _Console(logging.StreamHandler[TextIO]):
    """The terminal, where logging is not set up."""


def _detach_log() -> None:
    for name in _LOGGED:
        for handler in [h for h in logging.getLogger(name).handlers if isinstance(h, (_RunLog, _Console))]:
            logging.getLogger(name).removeHandler(handler)
            handler.close()


def _add_loggers(trainer: Trainer, config: ExpManagerConfig, layout: RunLayout, resume_from: str) -> None:
    loggers: list[Any] = []
    ids, project = LoggerIds(layout), config.name or "rayconvai"
    record = MetricsRecord(layout)
    if config.create_tensorboard_logger:
        tensorboard = RunTensorBoardLogger(layout.root, config.summary_writer_kwargs or {})
        if resume_from or any(layout.root.glob("events.out.tfevents.*")):
            tensorboard.purge_step = steps_taken(Path(resume_from)) if resume_from else 0
        loggers.append(tensorboard)
    if config.create_wandb_logger:
        kwargs = dict(config.wandb_logger_kwargs or {})
        if trainer.is_global_zero and not (kwargs.get("id") or kwargs.get("version")):
            kwargs["id"] = ids.own("wandb")
        wandb = RunWandbLogger(layout.root, kwargs, project)
        ranked = config.checkpoint_callback_params
        wandb.best = Best(layout.metrics, ranked.monitor, ranked.mode)
        loggers.append(wandb)
    if config.create_mlflow_logger:
        loggers.append(RunMLflowLogger(layout, config.mlflow_logger_kwargs or {}, project, ids))
    others = [*trainer.loggers, *loggers]
    table = [RunCSVLogger(record)] if config.create_csv_logger else []
    for logger in (*others, *table):
        Front(logger, record)
    trainer.loggers = [*others, record, *table]
    # First of all, so that the record knows what the others are about to log.
    means = EpochMeans()
    _callbacks(trainer)[:0] = [RecordEpochs(record, means), means]


def _add_callbacks(trainer: Trainer, config: ExpManagerConfig, layout: RunLayout, checkpoints: Path) -> None:
    wanted: list[tuple[bool, Callable[[], Callback]]] = [
        (True, Reoptimize),
        (True, ExactResume),
        (config.ema.enable, lambda: MovingAverage(config.ema)),
        (config.log_grad_norm, GradientNorm),
        (config.log_step_timing, lambda: StepTiming(config.step_timing_kwargs)),
        (config.log_throughput, Speed),
        (config.create_early_stopping_callback, lambda: StopEarly(config.early_stopping_callback_params)),
        (
            config.create_checkpoint_callback,
            lambda: Checkpoints(
                config.checkpoint_callback_params, checkpoints, prefix=Path(config.name or "default").name
            ),
        ),
        (config.create_preemption_callback, StopOnSignal),
    ]
    _callbacks(trainer).extend(make() for is_wanted, make in wanted if is_wanted)
    if (limit := duration("max_time_per_run", config.max_time_per_run)) is not None:
        _callbacks(trainer).append(StopInTime(limit))


def _callbacks(trainer: Trainer) -> list[Callback]:
    callbacks: list[Callback] = vars(trainer)["callbacks"]
    return callbacks
