"""Ctrl-C and SIGTERM: the batch is finished, a checkpoint written, and the run stops."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from typing_extensions import override

log = logging.getLogger(__name__)

_Handler = Callable[[int, FrameType | None], Any] | int | None


class Interrupted(SystemExit):
    """A run that was told to stop and did; uncaught, it ends the process with 128 + signal, as shells expect."""

    def __init__(self, number: int, *, at_once: bool = False) -> None:
        super().__init__(128 + number)
        self.signal = signal.Signals(number)
        self.at_once = at_once
        """It stopped in the middle of a step, from which no checkpoint may be made."""
        self.run_dir: str | Path | None = None
        self.checkpoint: Path | None = None
        """What the run can go on from; None if it keeps no last checkpoint."""


@contextmanager
def on_signals(handle: Callable[[int, _Handler], None]) -> Iterator[None]:
    """Within the block, let SIGINT and SIGTERM call ``handle`` with their number and with what handled it before.

    Nothing where this is not the main thread, which alone may say what signals do.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, _Handler] = {
        number: signal.getsignal(number) or signal.SIG_DFL for number in (signal.SIGINT, signal.SIGTERM)
    }
    for number in before:
        signal.signal(number, lambda number, _: handle(number, before[number]))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def may_stop_here(trainer: Trainer) -> bool:
    """Tell whether a checkpoint made after this batch can be taken up exactly where it was left.

    Not between two batches of one optimizer step: their gradients are in no checkpoint. Not before a validation or
    the end of an epoch or of the training: Lightning would take it up after them, and they would never run.
    """
    epoch_loop, fetcher = trainer.fit_loop.epoch_loop, trainer.fit_loop._data_fetcher
    ended = epoch_loop.batch_progress.is_last_batch or epoch_loop._is_training_done or trainer.should_stop
    if ended or epoch_loop._should_accumulate():
        return False
    return fetcher is not None and not epoch_loop._should_check_val_fx(fetcher)


def tell_to_stop(trainer: Trainer, number: int) -> None:
    """Stop a run as at a signal, which has come to another process."""
    for callback in vars(trainer)["callbacks"]:
        if isinstance(callback, StopOnSignal):
            callback.tell(number)


class StopOnSignal(Callback):
    """Raises ``Interrupted`` after the batch in which SIGINT or SIGTERM came; a second signal stops at once.

    A validation that has begun, or is due after the batch, is finished first: see ``may_stop_here``.
    Must come after all other callbacks, so that they have seen the batch.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._before: dict[int, _Handler] = {}

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._received = None
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._on_signal)

    @override
    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if (self._received is not None or trainer.world_size > 1) and may_stop_here(trainer):
            self._stop_if_told(trainer)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop_if_told(trainer)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore_handlers()

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore_handlers()

    def tell(self, number: int) -> None:
        self._received = self._received or number

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self._received is not None:
            raise Interrupted(number, at_once=True)
        self._received = number
        name = signal.Signals(number).name
        log.warning("%s: stopping as soon as a checkpoint can be made (again: at once, without)", name)

    def _stop_if_told(self, trainer: Trainer) -> None:
        told = self._received is not None
        if trainer.world_size > 1:
            # One rank may have been told alone, and all must write the checkpoint together.
            ranks = torch.tensor(float(told), device=trainer.strategy.root_device)
            dist.all_reduce(ranks)  # Lightning's own way has a barrier too, which costs each step more than this
            told = bool(ranks)
        if told:
            raise Interrupted(self._received or signal.SIGTERM)

    def _restore_handlers(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
