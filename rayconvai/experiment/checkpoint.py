"""Which checkpoints a run keeps: the best k, ranked at the end of an epoch or validation, and the newest."""

from __future__ import annotations

import logging
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from typing_extensions import override

from rayconvai.errors import ConfigError, StorageError, nearest
from rayconvai.experiment.background import BackgroundCheckpointIO
from rayconvai.experiment.interrupt import Interrupted, may_stop_here
from rayconvai.experiment.options import CheckpointParams, duration
from rayconvai.experiment.storage import find_last, is_sound

log = logging.getLogger(__name__)


class Checkpoints(ModelCheckpoint):
    """Lightning's ModelCheckpoint with two cadences of their own.

    The best are ranked when their metric is new: at the end of a validation or an epoch. The newest, which an
    interrupted run goes on from, is written then, every n steps and every so many minutes besides, whatever the
    metric; Lightning's own would wait for the metric, or rank a stale one.

    Raises:
        OptionError: a time interval that cannot be read.
    """

    def __init__(self, params: CheckpointParams, directory: Path, prefix: str) -> None:
        name = params.prefix or prefix
        plain_metric = params.monitor.replace("/", "_")
        ranked = f"{name}--{plain_metric}={{{params.monitor}:.4f}}-epoch={{epoch}}-step={{step}}"
        super().__init__(
            dirpath=params.dirpath or directory,
            filename=params.filename or ranked,
            auto_insert_metric_name=params.filename is not None,
            monitor=params.monitor,
            mode=params.mode,
            save_top_k=params.save_top_k,
            save_last=params.save_last,
            every_n_epochs=params.every_n_epochs or 1,
            verbose=params.verbose,
        )
        # The newest may be written before its metric is known, so its name does not speak of it.
        self.CHECKPOINT_NAME_LAST = f"{params.filename or name + '--epoch={epoch}-step={step}'}-last"
        self._every_n_steps = params.every_n_train_steps
        self._interval = duration("checkpoint_callback_params.train_time_interval", params.train_time_interval)
        self._written_at = time.monotonic()
        self._step_seen = self._step_at_start = -1
        self._ranked_by_step: bool | None = None

    def _ModelCheckpoint__warn_if_dir_not_empty(self, dirpath: str) -> None:
        """Nothing: a run that is resumed finds its own checkpoints."""

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._written_at = time.monotonic()
        self._step_seen = self._step_at_start = trainer.global_step
        self._ranked_by_step = None
        resumed_from = Path(trainer.ckpt_path) if trainer.ckpt_path else None
        if resumed_from and resumed_from.stem.endswith("last") and not self.last_model_path:
            self.last_model_path = str(resumed_from)

    @override
    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if self._ranked_by_step is None:
            # No validation has run yet, so a metric that is already there comes with each step.
            self._ranked_by_step = self.monitor in self._monitor_candidates(trainer)
        if trainer.global_step == self._step_seen or not self._is_due(trainer) or not may_stop_here(trainer):
            return
        self._step_seen = trainer.global_step
        ranked_at = self._last_global_step_saved
        self._save(trainer, rank=bool(self._ranked_by_step))
        if not self._ranked_by_step:
            # A validation that ends at this very step must still be ranked.
            self._last_global_step_saved = ranked_at

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._should_skip_saving_checkpoint(trainer):
            rank = self._should_save_on_train_epoch_end(trainer)
            self._save(trainer, rank=rank and (trainer.current_epoch + 1) % self._every_n_epochs == 0)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._should_save_on_train_epoch_end(trainer) and not self._should_skip_saving_checkpoint(trainer):
            self._save(trainer, rank=(trainer.current_epoch + 1) % self._every_n_epochs == 0)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step != self._step_at_start:
            self._save_last(trainer)
        self._finish(trainer)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        # Only such an interruption comes between steps; any other exception may have torn one in two.
        if isinstance(exception, Interrupted) and not exception.at_once and self.save_last:
            self._save_last(trainer)
            self._finish(trainer)
            exception.checkpoint = Path(self.last_model_path)
            log.warning("stopped; checkpoint: %s", exception.checkpoint)
            return
        try:
            _wait(trainer)
        except StorageError as error:  # the other one is what ends the run
            log.error("%s", error)

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the ranking where it was, also in a moved directory, without the files that went or are damaged."""
        directory = Path(str(self.dirpath))
        kept = {str(directory / Path(p).name): score for p, score in state_dict["best_k_models"].items()}
        kept = {path: score for path, score in kept.items() if is_sound(Path(path))}
        by_score = sorted(kept, key=lambda path: float(kept[path]), reverse=self.mode == "max")
        last = directory / Path(state_dict["last_model_path"]).name
        self.best_k_models = kept
        if by_score:
            self.best_model_path, self.best_model_score = by_score[0], kept[by_score[0]]
        if len(by_score) == self.save_top_k:
            self.kth_best_model_path, self.kth_value = by_score[-1], kept[by_score[-1]]
        self.current_score = state_dict["current_score"]
        self.last_model_path = str(last) if last.exists() else ""

    @override
    def _find_last_checkpoints(self, trainer: Trainer) -> set[str]:
        newest = find_last(str(self.dirpath), set_aside=trainer.is_global_zero)
        return {str(newest)} if newest else set()

    @override
    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        writer = trainer.strategy.checkpoint_io
        with writer.in_background() if isinstance(writer, BackgroundCheckpointIO) else nullcontext():
            super()._save_checkpoint(trainer, filepath)

    @override
    def file_exists(self, filepath: str | Path, trainer: Trainer) -> bool:
        writer = trainer.strategy.checkpoint_io
        if not isinstance(writer, BackgroundCheckpointIO):
            return super().file_exists(filepath, trainer)
        there = trainer.is_global_zero and writer.has(filepath)
        return trainer.strategy.reduce_boolean_decision(there, all=False)

    def _save(self, trainer: Trainer, *, rank: bool) -> None:
        if rank:
            self._check_monitor(trainer)
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))
        self._save_last(trainer)

    def _save_last(self, trainer: Trainer) -> None:
        self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
        self._written_at = time.monotonic()

    def _finish(self, trainer: Trainer) -> None:
        """Wait until all is written: the first rank writes, and afterwards any may read, or end."""
        _wait(trainer)
        trainer.strategy.barrier()

    def _is_due(self, trainer: Trainer) -> bool:
        if self._every_n_steps is not None and trainer.global_step % self._every_n_steps == 0:
            return True
        if self._interval is None:
            return False
        passed = time.monotonic() - self._written_at >= self._interval.total_seconds()
        # Clocks differ between ranks, and all must write together.
        return bool(trainer.strategy.broadcast(passed))

    def _check_monitor(self, trainer: Trainer) -> None:
        metrics = trainer.callback_metrics
        validated = trainer.fit_loop.epoch_loop.val_loop._has_run
        if validated and self.monitor not in (*metrics, "epoch", "step"):
            raise ConfigError(
                f"exp_manager.checkpoint_callback_params.monitor is {self.monitor}, which the model does not log"
                f"{nearest(str(self.monitor), metrics)}; it logs {', '.join(sorted(metrics)) or 'nothing'}"
            )

    @override
    def _should_remove_checkpoint(self, trainer: Trainer, previous: str, current: str) -> bool:
        # Lightning would keep the checkpoint that the run went on from for ever.
        return previous != current and Path(str(self.dirpath)).absolute() in Path(previous).absolute().parents


def _wait(trainer: Trainer) -> None:
    writer = trainer.strategy.checkpoint_io
    if isinstance(writer, BackgroundCheckpointIO):
        writer.wait()
