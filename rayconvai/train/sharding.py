"""FSDP2: weights, gradients and optimizer states are divided among the ranks, and so are checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from typing_extensions import override

from rayconvai.errors import CheckpointError
from rayconvai.experiment.sharded import TRAINED, WEIGHTS, ShardedCheckpointIO
from rayconvai.experiment.storage import damage, places_of_weights
from rayconvai.experiment.weights import check_weights


class FSDP2Strategy(ModelParallelStrategy):
    """Lightning's strategy for ``torch.distributed.fsdp.fully_shard``, with all ranks along one axis, and checkpoints
    that are written whole or not at all. What is sharded, the model says (``Model.configure_model``)."""

    def __init__(self) -> None:
        super().__init__()
        self.checkpoint_io = ShardedCheckpointIO()

    @override
    def _setup_distributed(self) -> None:
        super()._setup_distributed()
        self._data_parallel_size, self._tensor_parallel_size = self.world_size, 1

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None) -> None:
        self.checkpoint_io.save_checkpoint(checkpoint, Path(self.broadcast(filepath)))

    @override
    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a sharded checkpoint, or a whole one, into the model and the optimizers.

        Of one that has a moving average, that is what the model gets; what is returned has both.

        Raises:
            CheckpointError: it is damaged, or of another model.
        """
        path = Path(self.broadcast(checkpoint_path))
        problem = self.broadcast(damage(path) if self.is_global_zero else None)
        if problem is not None:
            raise CheckpointError(f"checkpoint {path} is damaged: {problem}; move it away to use the one before")
        assert self.model is not None
        if path.is_dir():
            check_weights(self.model, places_of_weights(path), path)
        rest: dict[str, Any] = super().load_checkpoint(path, weights_only=False)
        weights: dict[str, Any] = get_model_state_dict(self.model)
        if TRAINED in rest:  # a whole one
            average = {name: value.clone() for name, value in weights.items()}
            set_model_state_dict(self.model, rest[TRAINED], options=StateDictOptions(full_state_dict=True))
            trained = {name: value.clone() for name, value in weights.items()}
            self.model.load_state_dict(average)
            rest[TRAINED] = trained
        elif path.is_dir() and places_of_weights(path, part=TRAINED):
            rest[TRAINED] = {name: torch.empty_like(value) for name, value in weights.items()}
            load({TRAINED: rest[TRAINED]}, storage_reader=FileSystemReader(path))
        return {"optimizer_states": [], WEIGHTS: weights, **rest}

    @override
    def teardown(self) -> None:
        super().teardown()
        self.checkpoint_io.teardown()
