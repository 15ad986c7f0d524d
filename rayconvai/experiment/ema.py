"""A moving average of the weights, beside those that are trained."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from typing_extensions import override

from rayconvai.errors import ConfigError
from rayconvai.experiment.options import EMAParams


class MovingAverage(WeightAveraging):
    """Lightning's WeightAveraging, exact over restarts.

    A checkpoint's weights are the average; those that are trained are in it too. Must come before the checkpoints: a
    step's checkpoint has its average.

    Raises:
        ConfigError: the weights are sharded (when training starts).
    """

    def __init__(self, params: EMAParams) -> None:
        super().__init__(multi_avg_fn=get_ema_multi_avg_fn(params.decay))  # type: ignore[no-untyped-call]
        self._params = params

    @override
    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return step_idx is not None and (step_idx + 1) % self._params.every_n_steps == 0

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if isinstance(trainer.strategy, (FSDPStrategy, ModelParallelStrategy)):
            raise ConfigError(
                f"exp_manager.ema.enable: weights that {type(trainer.strategy).__name__} shards have no average; "
                "set trainer.strategy=ddp"
            )
        # Lightning would keep it where the model is now, which is moved to its device later.
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)

    @override
    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._params.validate_original_weights:
            super().on_validation_epoch_start(trainer, pl_module)

    @override
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._params.validate_original_weights:
            super().on_validation_epoch_end(trainer, pl_module)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing: the last checkpoint is yet to come, and a run may go on from it."""

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._copy_average_to_current(pl_module)
        self._average_model = None

    @override
    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn == TrainerFn.FITTING:  # else the average, which is loaded already, is what is wanted
            super().on_load_checkpoint(trainer, pl_module, checkpoint)
