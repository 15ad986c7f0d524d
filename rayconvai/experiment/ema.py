"""A moving average of the weights, beside those that are trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from typing_extensions import override

from rayconvai.errors import ConfigError
from rayconvai.experiment.options import EMAParams


class MovingAverage(WeightAveraging):
    """Lightning's WeightAveraging, exact over restarts.

    A checkpoint's weights are the average; those that are trained are in it too. Must come before the checkpoints: a
    step's checkpoint has its average.

    Raises:
        ConfigError: FSDP1 shards the weights (when training starts).
    """

    def __init__(self, params: EMAParams) -> None:
        follow: Any = get_ema_multi_avg_fn(params.decay)  # type: ignore[no-untyped-call]
        super().__init__(multi_avg_fn=lambda averages, values, count: follow(_parts(averages), _parts(values), count))
        self._params = params

    @override
    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return step_idx is not None and (step_idx + 1) % self._params.every_n_steps == 0

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if isinstance(trainer.strategy, FSDPStrategy):
            raise ConfigError(
                "exp_manager.ema.enable: weights that FSDPStrategy shards have no average; set trainer.strategy=fsdp2"
            )
        if isinstance(trainer.strategy, ModelParallelStrategy) and stage == "fit":
            self._average_model = self._sharded(trainer, pl_module)
            return
        # Lightning would keep it where the model is now, which is moved to its device later.
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)

    def _sharded(self, trainer: Trainer, pl_module: LightningModule) -> AveragedModel:
        """Return an average of which each rank has a part, the same as of the model (which is not sharded yet)."""
        mesh, pl_module._device_mesh = pl_module._device_mesh, None  # which cannot be copied
        average = AveragedModel(pl_module, use_buffers=True, **self._kwargs)
        copy: Any = average.module
        pl_module._device_mesh = copy._device_mesh = mesh
        copy.trainer = trainer
        copy.configure_model()
        return average.to(trainer.strategy.root_device)

    @override
    def _swap_models(self, pl_module: LightningModule) -> None:
        for module in pl_module.modules():
            if isinstance(module, FSDPModule):
                module.reshard()  # after a forward pass without a backward one it has its weights whole
        super()._swap_models(pl_module)

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


def _parts(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return this rank's parts of tensors that are sharded, and the others as they are."""
    return [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]
