"""Training as far as an epoch, and no further: the parts of a run that goes on later, or elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from rayconvai.experiment.storage import AtomicCheckpointIO


class StopAfter(Callback):
    """Ends a run after an epoch, counted from 1, with its checkpoints written as at the end of any; at once where it
    goes on from a checkpoint that far."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        progress: Any = trainer.fit_loop.epoch_progress.current
        if progress.processed >= self.epoch:
            # Not should_stop, which would have to wait for trainer.min_epochs.
            trainer.fit_loop.max_epochs = progress.processed

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_train_start(trainer, pl_module)


def epochs_done(checkpoint: Path) -> tuple[int, bool]:
    """Return how many whole epochs lie behind a checkpoint, and whether no part of another does.

    Its name does not tell: what is written when a run ends counts on to the next epoch.

    Raises:
        CheckpointError: it is damaged.
    """
    loop = AtomicCheckpointIO().load_checkpoint(checkpoint)["loops"]["fit_loop"]
    begun, at_end = loop["epoch_progress"]["current"]["started"], loop["epoch_loop.batch_progress"]["is_last_batch"]
    return (int(begun), True) if at_end else (int(begun) - 1, False)
