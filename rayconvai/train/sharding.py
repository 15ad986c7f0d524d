"""FSDP2: weights, gradients and optimizer states are divided among the ranks, and so are checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch.strategies import ModelParallelStrategy
from typing_extensions import override

from rayconvai.errors import CheckpointError
from rayconvai.experiment.sharded import write_sharded
from rayconvai.experiment.storage import damage, places_of_weights
from rayconvai.experiment.weights import check_weights


class FSDP2Strategy(ModelParallelStrategy):
    """Lightning's strategy for ``torch.distributed.fsdp.fully_shard``, with all ranks along one axis, and checkpoints
    that are written whole or not at all. What is sharded, the model says (``Model.configure_model``)."""

    @override
    def _setup_distributed(self) -> None:
        super()._setup_distributed()
        self._data_parallel_size, self._tensor_parallel_size = self.world_size, 1

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None) -> None:
        parts = {"state_dict": checkpoint.pop("state_dict")}
        for number, state in enumerate(checkpoint.pop("optimizer_states", ())):
            parts[f"optimizer_{number}"] = state
        write_sharded(parts, checkpoint, Path(self.broadcast(filepath)))

    @override
    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a sharded checkpoint, or a whole one, into the model and the optimizers.

        Raises:
            CheckpointError: it is damaged, or of another model.
        """
        path = Path(self.broadcast(checkpoint_path))
        problem = self.broadcast(damage(path) if self.is_global_zero else None)
        if problem is not None:
            raise CheckpointError(f"checkpoint {path} is damaged: {problem}; move it away to use the one before")
        if path.is_dir():
            assert self.model is not None
            check_weights(self.model, places_of_weights(path), path)
        rest: dict[str, Any] = super().load_checkpoint(path, weights_only=False)
        return {"optimizer_states": [], **rest}
