"""The record of a run's metrics: metrics.jsonl, each step and epoch once, however often the run was stopped."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.apply_func import convert_tensors_to_scalars
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.trainer.states import TrainerFn
from lightning_utilities.core.rank_zero import rank_zero_only
from typing_extensions import override

from rayconvai.core.sample import Sample
from rayconvai.errors import StorageError
from rayconvai.experiment.interrupt import Interrupted
from rayconvai.experiment.layout import RunLayout, write_atomically
from rayconvai.experiment.resume import EpochMeans
from rayconvai.experiment.samples import write_samples

OF_A_LINE = ("kind", "step", "epoch", "time")
"""What each line has besides its metrics."""
_SAMPLE_SETS = 3
"""Of so many validations, the sounds and arrays of samples are kept."""


class MetricsRecord(Logger):
    """A Lightning logger that writes one JSON object a line: ``kind``, ``step``, ``epoch``, ``time`` and the metrics.

    Kinds: ``step`` (what each step logs; ``step`` counts from 0 as in all of Lightning's loggers), ``validation``,
    ``epoch`` (one line for each epoch that ended, counted from 1, with all that is known at its end) and ``test``.
    Whatever is not finite is null. Each line is on its way to the disk before the call returns.

    Raises:
        StorageError: the file cannot be written (when it is).
    """

    def __init__(self, layout: RunLayout) -> None:
        super().__init__()
        self.layout = layout
        self.kind = "step"
        self.epoch = 1
        self.lines = dict.fromkeys(("epoch", "validation", "test"), 0)
        """How many lines of these kinds there are."""
        self.validated: dict[str, Any] = {}
        """What the validations since the last epoch line logged."""
        self.validation_names: set[str] = set()
        self.last_epoch: dict[str, Any] | None = None
        """The line of the last epoch that ended."""
        self._file: int | None = None
        self._last: dict[str, Any] = {}
        self._last_at = 0

    @property
    @override
    def name(self) -> str:
        return self.layout.root.parent.name

    @property
    @override
    def version(self) -> str:
        return ""  # the progress bar would show its last four characters

    @property
    @override
    def save_dir(self) -> str:
        return str(self.layout.root)

    @override
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if self.kind == "validation":
            self.validated.update(metrics)
            self.validation_names.update(metrics)
        if self.kind != "ignored":
            self.write(metrics, step=0 if step is None else step)

    @override
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.yaml has them."""

    @rank_zero_only
    def log_samples(self, samples: Sequence[Sample], step: int) -> None:
        """Keep what the model made of examples: ``samples/validation-STEP.jsonl``, and beside it sounds and arrays,
        which are removed after some more validations."""
        directory, kind = self.layout.samples, self.kind
        try:
            write_samples(directory, f"{kind}-{step:08d}", samples)
            for old in sorted(directory.glob(f"{kind}-*/"))[:-_SAMPLE_SETS]:
                shutil.rmtree(old)
        except OSError as error:
            raise _not_written(directory, error) from error

    def write(self, metrics: Mapping[str, Any], *, step: int) -> None:
        """Write a line, or add to the last one if that is of the same kind, step and epoch."""
        line = {"kind": self.kind, "step": step, "epoch": self.epoch, "time": round(time.time(), 3)}
        same = all(self._last.get(key) == line[key] for key in ("kind", "step", "epoch"))
        line = {**(self._last if same else {}), **line}
        # A metric logged by step and by epoch gets Lightning's suffixes; the kind of the line says the same.
        suffix = "_step" if self.kind == "step" else "_epoch"
        named = {name.removesuffix(suffix): value for name, value in metrics.items() if name not in OF_A_LINE}
        line.update({name: _number(value) for name, value in named.items()})
        if same and {**line, "time": 0} == {**self._last, "time": 0}:
            return
        try:
            file = self._open()
            at = self._last_at if same else os.fstat(file).st_size
            _write_at(file, at, (json.dumps(line) + "\n").encode())
            self._last, self._last_at = line, at
            if not same and self.kind in self.lines:
                self.lines[self.kind] += 1
            if self.kind == "epoch":
                self.last_epoch = line
        except OSError as error:
            raise _not_written(self.layout.metrics, error) from error

    def rewind(self, *, step: int, lines: Mapping[str, int]) -> None:
        """Forget what came after a checkpoint: the run goes on from it and will write that again.

        Args:
            step: the step that comes next.
            lines: ``self.lines`` as it was when the checkpoint was made.
        """
        self.close()
        self.lines = dict.fromkeys(self.lines, 0)
        kept = []
        for line in read_metrics(self.layout.metrics):
            kind = line["kind"]
            if kind == "step" and line["step"] < step:
                kept.append(line)
            elif self.lines.get(kind, 0) < lines.get(kind, 0):
                self.lines[kind] += 1
                kept.append(line)
        write_atomically(self.layout.metrics, "".join(json.dumps(line) + "\n" for line in kept))

    def close(self) -> None:
        """Close the file; the next line opens it again."""
        if self._file is not None:
            os.close(self._file)
        self._file, self._last = None, {}

    @property
    def is_open(self) -> bool:
        """Whether this object has written to the file."""
        return self._file is not None

    def _open(self) -> int:
        if self._file is None:
            self._file = os.open(self.layout.metrics, os.O_RDWR | os.O_CREAT, 0o644)
        return self._file


class RecordEpochs(Callback):
    """Tells the record what is being logged, writes the line of each epoch, and rewinds the record on resuming.

    Must come before all other callbacks: what they log belongs to what it has announced.
    """

    def __init__(self, record: MetricsRecord, means: EpochMeans) -> None:
        self.record, self.means = record, means
        self._step = 0
        self._ended = False
        self._saved: dict[str, Any] | None = None

    @override
    def state_dict(self) -> dict[str, Any]:
        record = self.record
        validated = {name: float(value) for name, value in record.validated.items()}
        position = {"step": self._step, "ended": self._ended, "lines": dict(record.lines)}
        names = sorted(record.validation_names)
        return {**position, "validated": validated, "validation_names": names, "last_epoch": record.last_epoch}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._saved, self._step, self._ended = state_dict, state_dict["step"], state_dict["ended"]
        self.record.validated = dict(state_dict["validated"])
        # Older checkpoints have neither of these.
        self.record.validation_names.update(state_dict.get("validation_names", self.record.validated))
        self.record.last_epoch = state_dict.get("last_epoch")

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        if self._saved is not None:
            self.record.rewind(step=self._saved["step"], lines=self._saved["lines"])
            self._saved = None
        elif not self.record.is_open:
            self.record.layout.set_aside(self.record.layout.metrics.name)

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._announce(trainer, "step")

    @override
    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self._announce(trainer, "step")
        # After some resumes Lightning counts one step too many here, and all loggers would skip it.
        trainer.fit_loop.epoch_loop._batches_that_stepped = self._step
        self._ended = False

    @override
    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        epoch_loop = trainer.fit_loop.epoch_loop
        self._step = epoch_loop._batches_that_stepped + (not epoch_loop._should_accumulate())
        if is_logged(trainer) and trainer.is_global_zero:
            # Lightning logs the step after the checkpoint that may be made here; a kill between must not lose it.
            log_now(trainer, trainer._logger_connector.metrics["log"])

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._announce(trainer, "validation")

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._announce(trainer, "step")

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._announce(trainer, "test")

    @override
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._announce(trainer, "step")

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._announce(trainer, "epoch")
        if self._ended:
            # Resumed after the end of an epoch, Lightning may end it once more.
            self.record.kind = "ignored"
        known = trainer.callback_metrics  # on all ranks: they sum up together
        if self._ended or not trainer.is_global_zero:
            return
        self._ended = True
        trained: dict[str, Any] = {
            name: value
            for name, value in known.items()
            if name not in self.record.validation_names and not name.endswith(("_step", "_epoch"))
        }
        # What the module logs when its own epoch ends comes through the logger, and joins this line.
        trained |= self.means.of_ended_epoch()
        step = max(self._step - 1, 0)
        self.record.write({**trained, **self.record.validated}, step=step)
        self.record.validated = {}
        # Lightning tells the loggers after the checkpoint of the epoch; they too must not lose it by a kill between.
        metas = [result.meta for result in trainer.fit_loop.epoch_loop._results.values()]
        of_epochs = {meta.name for meta in metas if meta.on_epoch and meta.logger} | self.means.of_ended_epoch().keys()
        log_now(trainer, {name: value for name, value in trained.items() if name in of_epochs}, step)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        connector = trainer._logger_connector
        if isinstance(exception, Interrupted) and not exception.at_once and connector._first_loop_iter is not None:
            # Lightning logs a step after the hook that the interruption came from.
            connector.update_train_step_metrics()

    def _announce(self, trainer: Trainer, kind: str) -> None:
        self.record.kind = kind
        self.record.epoch = trainer.current_epoch + (trainer.state.fn == TrainerFn.FITTING)


def log_now(trainer: Trainer, metrics: Mapping[str, Any], step: int | None = None) -> None:
    """Log to all loggers, unless told otherwise at the step that the trainer is at: a checkpoint that follows has it
    behind it."""
    at = trainer.fit_loop.epoch_loop._batches_that_stepped if step is None else step
    scalars = {**convert_tensors_to_scalars(metrics), "epoch": trainer.current_epoch}
    for logger in trainer.loggers:
        logger.log_metrics(scalars, at)
        logger.save()


def is_logged(trainer: Trainer) -> bool:
    """Tell, when a batch has ended, whether what it did is logged."""
    due: bool = trainer._logger_connector.should_update_logs
    return due and not trainer.fit_loop.epoch_loop._should_accumulate()


class Best:
    """The best value that a metric has had, over all attempts at a run."""

    def __init__(self, path: Path, monitor: str, mode: str) -> None:
        self.monitor = monitor
        self._path, self._better = path, {"min": min, "max": max}[mode]
        self._value: float | None = None

    def after(self, value: float) -> float:
        """Return the best with ``value`` among them."""
        if self._value is None:
            lines = (line for line in read_metrics(self._path) if line["kind"] in ("epoch", "validation"))
            values = [line[self.monitor] for line in lines if line.get(self.monitor) is not None]
            self._value = self._better(values) if values else value
        self._value = self._better(self._value, value)
        return self._value


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a metrics.jsonl; a torn last line, left by a kill, is passed over."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for text in file:
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                continue
            yield line


def _write_at(file: int, at: int, line: bytes) -> None:
    """Write a line in the place of all that follows ``at``, or leave that as it is: never a half of either."""
    end = os.fstat(file).st_size
    before = os.pread(file, end - at, at)
    rest, to = line, at
    try:
        while rest:
            written = os.pwrite(file, rest, to)
            rest, to = rest[written:], to + written
        os.ftruncate(file, to)
    except OSError:
        with suppress(OSError):  # a full disk still has the space that it was in
            os.pwrite(file, before, at)
            os.ftruncate(file, end)
        raise


def _number(value: Any) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


def _not_written(path: Path, error: OSError) -> StorageError:
    return StorageError(f"{path} cannot be written: {error.strerror or error}; free space or set exp_manager.exp_dir")
