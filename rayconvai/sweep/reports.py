"""What a trial tells the sweep while it runs."""

from __future__ import annotations

import math
import signal
import socket
from collections.abc import Callable, Sequence
from typing import Any

import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer

from rayconvai.core.model import Model
from rayconvai.errors import ConfigError, InfeasibleError, nearest
from rayconvai.experiment.interrupt import Interrupted, may_stop_here, tell_to_stop
from rayconvai.experiment.record import OF_A_LINE, MetricsRecord
from rayconvai.sweep.cost import Meter, together
from rayconvai.sweep.stop import StopSign

Report = dict[str, Any]
"""``epoch``, ``metrics``, ``cost`` since the attempt began, and each of the sweep's metrics under its own name. Last:
``done``, ``end`` (finished, paused, infeasible, failed, interrupted; a lost one goes no further than the process),
``reason``, ``cost``, ``parameters``."""


class Reports(Callback):
    """Reports each epoch that has the sweep's metrics; ends the run where it is to pause, or when told to.

    Where several workers train, each has one: rank 0 reports and is told, the others do what it does.

    Args:
        metrics: the sweep's; the first ranks.
        until: the epoch to pause after.
        stop: while it is up, the run is interrupted after the batch that it is at.
        meter: what the attempt costs.
        hand_over: takes a report and says whether to go on.
    """

    def __init__(
        self,
        metrics: Sequence[str],
        until: int | None,
        stop: StopSign,
        meter: Meter,
        hand_over: Callable[[Report], bool],
    ) -> None:
        self.metrics, self.until, self.stop = metrics, until, stop
        self.meter, self.hand_over = meter, hand_over
        self.validated = self.told_to_stop = self.paused = False
        self.reported = 0
        self.parameters: int | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Model)
        self.parameters = pl_module.num_weights
        # An attempt that is told to stop in the middle of an epoch ends it: it is in the checkpoint, and nobody knows.
        self._report(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.told_to_stop or self._is_at_pause(trainer):
            self._end(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, Model)
        self.meter.count(pl_module.seen(batch))
        # The process cannot be told in another way while Tune waits for its next report.
        if not trainer.is_global_zero or not self.stop.is_due():
            return
        if trainer.world_size > 1:
            if self.stop.is_up():
                tell_to_stop(trainer, signal.SIGINT)
        elif may_stop_here(trainer) and self.stop.is_up():  # else the epoch's validation would be lost
            raise Interrupted(signal.SIGINT)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._report(trainer)
        loop = trainer.fit_loop
        is_last = _epochs_ended(trainer) == loop.max_epochs or trainer.global_step == loop.max_steps
        # Checkpoints are written after this hook, also in a run that is told to end here.
        if not is_last and (self.told_to_stop or self._is_at_pause(trainer)):
            self._end(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.should_stop and trainer.fit_loop._can_stop_early:
            self.paused = False  # the model's own early stopping came at this very epoch

    def _is_at_pause(self, trainer: Trainer) -> bool:
        return self.until is not None and _epochs_ended(trainer) >= self.until

    def _end(self, trainer: Trainer) -> None:
        # Not should_stop, which has to wait for trainer.min_epochs.
        trainer.fit_loop.max_epochs = _epochs_ended(trainer)
        self.paused = True

    def _report(self, trainer: Trainer) -> None:
        """Report the last epoch in the run's record, unless that was done."""
        line = next(logger for logger in trainer.loggers if isinstance(logger, MetricsRecord)).last_epoch
        line = trainer.strategy.broadcast(line)  # rank 0 alone keeps it up to date
        validated, self.validated = self.validated, False
        if line is None or line["epoch"] <= self.reported:
            return
        metrics = {name: value for name, value in line.items() if name not in OF_A_LINE}
        for name in (*self.metrics, "train_loss", "val_loss"):
            if name in metrics and metrics[name] is None:
                value = float(trainer.callback_metrics.get(name, math.nan))
                raise InfeasibleError(f"{name} is {value} at epoch {line['epoch']}")
        missing = [name for name in self.metrics if name not in metrics]
        if missing and validated:
            raise ConfigError(f"the run did not log the metric '{missing[0]}'{nearest(missing[0], metrics)}")
        if not missing:
            self.reported = line["epoch"]
            ranked = {name: metrics[name] for name in self.metrics}
            cost = self.cost(trainer)
            where = {"step": line["step"], "node": socket.gethostname(), "parameters": self.parameters}
            report = {"epoch": self.reported, **ranked, "metrics": metrics, "cost": cost, **where}
            told = trainer.is_global_zero and not self.hand_over(report)
            self.told_to_stop = trainer.strategy.broadcast(told)

    def cost(self, trainer: Trainer) -> dict[str, Any]:
        """Return what the attempt has cost so far, on all ranks; they ask together."""
        if trainer.world_size == 1:
            return self.meter.read()
        costs: list[Any] = [None] * trainer.world_size
        dist.all_gather_object(costs, self.meter.read())
        return together(costs)


def _epochs_ended(trainer: Trainer) -> int:
    progress: Any = trainer.fit_loop.epoch_progress.current
    return int(progress.processed)
