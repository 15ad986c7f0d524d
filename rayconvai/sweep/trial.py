"""A trial: a point becomes a config and a run, in the trial's own process.

Lightning runs in a thread of the process. At the end of each epoch with a validation it hands a report over and waits
until Tune asks for the next one, or ends the trial. The process then takes the next trial.
"""

from __future__ import annotations

import functools
import gc
import logging
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from omegaconf import DictConfig
from ray import tune

from rayconvai.config.compose import Composer
from rayconvai.errors import ConfigError, InfeasibleError, NeuralTypeError, RayconvaiError, StorageError, nearest
from rayconvai.experiment.interrupt import Interrupted, may_stop_here
from rayconvai.sweep.journal import finite, trial_name
from rayconvai.sweep.space import quote
from rayconvai.train.fit import fit
from rayconvai.train.runtime import Runtime

STOP_SECONDS = 1.0
"""How often a trial looks whether it is to stop."""

Report = dict[str, Any]
"""``epoch``, ``metrics``, ``seconds`` and the ranking metric under its own name; or the last: ``end``, ``reason``."""


@dataclass(frozen=True, kw_only=True)
class TrialSettings:
    """What all trials of a sweep have in common; travels to their processes."""

    recipe: str
    config_dirs: tuple[str, ...]
    overrides: tuple[str, ...]
    directory: str
    """The sweep's, seen by every node."""
    sweep: str
    """Its name."""
    metric: str
    cpus: float
    gpus: float
    working_dir: str | None
    """Where relative paths in configs begin; None: where Ray puts the working directory of a job."""

    def run_dir(self, number: int) -> Path:
        return Path(self.directory) / "trials" / trial_name(number)

    @property
    def stop_file(self) -> Path:
        """While this file is there, trials end after the batch they are at, with a checkpoint."""
        return Path(self.directory) / "stop"


class TrialProcess(tune.Trainable):
    """What Tune starts: one process, a trial after another."""

    def setup(self, config: Mapping[str, Any], settings: TrialSettings | None = None) -> None:
        assert settings is not None
        self.settings = settings
        torch.set_num_threads(max(1, int(settings.cpus)))
        _arrive(settings)
        self._begin(config)

    def step(self) -> Report:
        return self.run.next_report()

    def reset_config(self, new_config: Mapping[str, Any]) -> bool:
        self.run.end()
        self._begin(new_config)
        return True

    def cleanup(self) -> None:
        self.run.end()

    def _begin(self, config: Mapping[str, Any]) -> None:
        number, overrides = int(config["number"]), list(config["overrides"])
        self.run = _Run(lambda run: run_trial(self.settings, number, overrides, run.hand_over))


def rehearse(settings: TrialSettings, journal: Path, written: bytes) -> None:
    """Find out whether trials can begin in this process: it has the sweep's directory, the code and the recipe.

    Args:
        settings: the trials'.
        journal: what the driver writes.
        written: what it holds.

    Raises:
        StorageError: a directory is not the driver's.
        ConfigError: the recipe cannot be composed here.
    """
    if not journal.is_file() or journal.read_bytes() != written:
        raise StorageError(
            f"the sweep's directory {settings.directory} is not the driver's; storage must be a path that all nodes "
            "share"
        )
    _arrive(settings)


def _arrive(settings: TrialSettings) -> None:
    if settings.working_dir is not None:
        try:
            os.chdir(settings.working_dir)
        except OSError as error:
            raise StorageError(
                f"the working directory {settings.working_dir}, where relative paths begin, is not there; start from "
                "one that all nodes share, or send the sweep as a job: ray job submit --working-dir ."
            ) from error
    _composer(settings).compose()  # what cannot be composed here at all is no fault of a point


class _Run:
    """Work in a thread that stands still between two reports."""

    def __init__(self, work: Callable[[_Run], Report]) -> None:
        self._reports: queue.SimpleQueue[Report] = queue.SimpleQueue()
        self._go = threading.Semaphore(0)
        self._waiting = self._stopping = False
        self._thread = threading.Thread(target=lambda: self._reports.put(work(self)), name="trial", daemon=True)
        self._thread.start()

    def next_report(self) -> Report:
        if self._waiting:
            self._waiting = False
            self._go.release()
        report = self._reports.get()
        self._waiting = True
        return report

    def hand_over(self, report: Report) -> bool:
        """Called by the work: give a report, wait, and return whether to go on."""
        if not self._stopping:
            self._reports.put(report)
            self._go.acquire()
        return not self._stopping

    def end(self) -> None:
        """Let the work come to its end, and wait for that."""
        self._stopping = True
        self._go.release()
        self._thread.join()


def run_trial(
    settings: TrialSettings, number: int, overrides: list[str], hand_over: Callable[[Report], bool]
) -> Report:
    """Run one trial to its end and say how it ended; never raises."""
    run_dir = settings.run_dir(number)
    report = _Reports(settings, hand_over)
    with _left_as_found():
        try:
            config = _compose(settings, number, overrides)
            accelerator = "gpu" if settings.gpus else "cpu"
            runtime = Runtime(
                run_dir=run_dir,
                overrides=[*settings.overrides, *overrides],
                accelerator=accelerator,
                devices=1,
                callbacks=[report],
                progress=False,
            )
            fit(config, runtime)
        except BaseException as error:  # noqa: BLE001 (whatever it is, it is how this trial ended)
            status, reason = judge(error)
            if status == "failed":
                _write_trace(run_dir)
            return {"done": True, "end": status, "reason": reason}
    return {"done": True, "end": "finished", "reason": ""}


@functools.lru_cache(maxsize=1)
def _composer(settings: TrialSettings) -> Composer:
    """Keep what Hydra read for the trials to come."""
    return Composer(settings.recipe, settings.overrides, [Path(path) for path in settings.config_dirs])


def _compose(settings: TrialSettings, number: int, overrides: list[str]) -> DictConfig:
    config = _composer(settings).compose(overrides)
    if not config.exp_manager.create_wandb_logger:
        return config
    name = trial_name(number)
    ours = {"project": settings.sweep, "group": settings.sweep, "name": name, "id": f"{settings.sweep}-{name}"}
    ours |= {"resume": "allow"} | dict(config.exp_manager.wandb_logger_kwargs or {})
    return _composer(settings).compose([*overrides, f"exp_manager.wandb_logger_kwargs={quote(ours)}"])


def judge(error: BaseException) -> tuple[str, str]:
    """Tell a point that cannot work (infeasible) from a fault of code, data or machine (failed), with the reason."""
    message = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, Interrupted):
        return "interrupted", ""
    if isinstance(error, StorageError):
        return "interrupted", message  # no fault of the point: the sweep stops, and can go on
    if isinstance(error, (InfeasibleError, ConfigError, NeuralTypeError)):
        return "infeasible", message
    if isinstance(error, RayconvaiError):
        return "failed", message
    return "failed", f"{type(error).__name__}: {message[:300]} (the trace is in the trial's error.txt)"


class _Reports(Callback):
    """Reports each epoch that had a validation; stops the run when told to."""

    def __init__(self, settings: TrialSettings, hand_over: Callable[[Report], bool]) -> None:
        self.metric, self.stop_file, self.hand_over = settings.metric, settings.stop_file, hand_over
        self.began = self.looked = time.monotonic()
        self.validated = False

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        # The process cannot be told in another way while Tune waits for its next report.
        now = time.monotonic()
        if now - self.looked > STOP_SECONDS and may_stop_here(trainer):  # else the epoch's validation would be lost
            self.looked = now
            if self.stop_file.exists():
                raise Interrupted(signal.SIGINT)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.validated:
            return
        self.validated = False
        # Checkpoints are written after this hook, also in a run that is told to stop here.
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        epoch = trainer.current_epoch + 1
        if self.metric not in metrics:
            raise ConfigError(f"the run did not log the metric '{self.metric}'{nearest(self.metric, metrics)}")
        values = finite(metrics)
        for name in (self.metric, "train_loss", "val_loss"):
            if name in values and values[name] is None:
                raise InfeasibleError(f"{name} is {metrics[name]} at epoch {epoch}")
        seconds = round(time.monotonic() - self.began, 3)
        report = {"epoch": epoch, self.metric: metrics[self.metric], "metrics": values, "seconds": seconds}
        if not self.hand_over(report):
            trainer.should_stop = True


@contextmanager
def _left_as_found() -> Iterator[None]:
    """Give the next trial of this process the state that this one found: loggers finished, memory freed."""
    root = logging.getLogger()
    lightning = [logging.getLogger(name) for name in ("lightning", "lightning.pytorch", "rayconvai")]
    handlers = {logger: list(logger.handlers) for logger in (root, *lightning)}
    try:
        yield
    finally:
        if "wandb" in sys.modules:
            sys.modules["wandb"].finish()
        for logger, before in handlers.items():
            for handler in logger.handlers[:]:
                if handler not in before:
                    logger.removeHandler(handler)
                    handler.close()
        gc.collect()
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.empty_cache()


def _write_trace(run_dir: Path) -> None:
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
    except OSError:
        traceback.print_exc()  # the reason stands in the journal all the same
