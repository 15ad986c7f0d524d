"""A run that must stop before its time is up, and go on later."""

from __future__ import annotations

import logging
import signal
import time
from datetime import timedelta
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from typing_extensions import override

from rayconvai.experiment.interrupt import Interrupted, may_stop_here

log = logging.getLogger(__name__)


class StopInTime(Callback):
    """Raises ``Interrupted`` (with the number of SIGALRM) where a checkpoint can be made, before the time is up.

    It leaves twice the longest time that has lain between two such points, validations and checkpoints included. Must
    come after all other callbacks, so that they have seen the batch.
    """

    def __init__(self, limit: timedelta) -> None:
        self._limit = limit
        self._began = time.monotonic()
        self._last = self._longest = 0.0

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._last = self._passed()

    @override
    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if may_stop_here(trainer):
            self._stop_if_due(trainer)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop_if_due(trainer)

    def _stop_if_due(self, trainer: Trainer) -> None:
        now = self._passed()
        self._longest, self._last = max(self._longest, now - self._last), now
        due = now + 2 * self._longest >= self._limit.total_seconds()
        # Clocks differ between ranks, and all must write the checkpoint together.
        if trainer.strategy.reduce_boolean_decision(due, all=False):
            log.warning("max_time_per_run (%s) is almost up: stopping; the run is not over", self._limit)
            raise Interrupted(signal.SIGALRM)

    def _passed(self) -> float:
        return time.monotonic() - self._began
