"""Going on from a checkpoint with another optimizer or schedule than it was made with."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from typing_extensions import override

from rayconvai.core.carry import carry_moments, move_schedule
from rayconvai.core.model import Model
from rayconvai.errors import CheckpointError


class Reoptimize(Callback):
    """Keeps the config of optimizer and schedule in each checkpoint. A run that goes on under another one takes the
    moments and the position from the checkpoint and all else from its own config; under the same, nothing is done."""

    def __init__(self) -> None:
        self._before: dict[str, Any] | None = None
        self._optimizers: list[Any] = []

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if isinstance(pl_module, Model):
            checkpoint["optimization"] = pl_module.optimization

    @override
    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        before = checkpoint.get("optimization")  # older checkpoints have none
        if before is None or not isinstance(pl_module, Model) or before == pl_module.optimization:
            return
        if not checkpoint["optimizer_states"]:
            raise CheckpointError(
                f"{trainer.ckpt_path} is sharded, and was made under another optimizer or schedule: such a one goes on "
                "under its own only; restore optim and schedule"
            )
        self._before, self._optimizers = before, checkpoint["optimizer_states"]
        checkpoint["optimizer_states"], checkpoint["lr_schedulers"] = [], []

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._before is None:
            return
        assert isinstance(pl_module, Model)
        for optimizer, saved, part in zip(trainer.optimizers, self._optimizers, pl_module.trained_parts(), strict=True):
            carry_moments(optimizer, self._before["optim"], saved, part)
        for config in trainer.lr_scheduler_configs:
            position = trainer.global_step if config.interval == "step" else trainer.current_epoch
            move_schedule(config.scheduler, position // config.frequency)
        self._before, self._optimizers = None, []
