"""Ending a run that no longer gets better."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from typing_extensions import override

from rayconvai.errors import ConfigError, nearest
from rayconvai.experiment.options import EarlyStoppingParams


class StopEarly(EarlyStopping):
    """Lightning's EarlyStopping; a run that it has ended stays ended when it is resumed, unless patience has grown.

    Must come before the checkpoints, which then know of its decision.
    """

    def __init__(self, params: EarlyStoppingParams) -> None:
        super().__init__(**asdict(params))
        self._given = params

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({**state_dict, "patience": self._given.patience})  # which the config says
        if self.stopping_reason == EarlyStoppingReason.PATIENCE_EXHAUSTED and self.wait_count < self._given.patience:
            self.stopping_reason = EarlyStoppingReason.NOT_STOPPED

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.stopping_reason != EarlyStoppingReason.NOT_STOPPED:
            trainer.should_stop = True

    @override
    def _validate_condition_metric(self, logs: dict[str, Any]) -> bool:
        if self.strict and self.monitor not in logs:
            raise ConfigError(
                f"exp_manager.early_stopping_callback_params.monitor is {self.monitor}, which the model does not log"
                f"{nearest(self.monitor, logs)}; it logs {', '.join(sorted(logs)) or 'nothing'}"
            )
        return bool(super()._validate_condition_metric(logs))
