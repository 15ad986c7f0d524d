"""A tiny model that shuffles, drops out and steps a schedule: whatever is not restored changes its weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from rayconvai.experiment import close, exp_manager
from rayconvai.experiment.storage import AtomicCheckpointIO

BATCHES = 4


class PositionedLoader(DataLoader):
    """Shuffles by epoch and knows its position: the least that Lightning takes for a stateful loader."""

    def __init__(self, dataset: TensorDataset, batch_size: int) -> None:
        self.epoch, self.position = 0, 0
        super().__init__(dataset, batch_size=batch_size)

    def __iter__(self) -> Iterator[list[torch.Tensor]]:
        order = torch.randperm(len(self.dataset), generator=torch.Generator().manual_seed(self.epoch))
        batches = order.split(self.batch_size)
        for batch in batches[self.position :]:
            # Lightning takes as many batches as there are and never asks for the end of the iterator.
            done = self.position + 1 == len(batches)
            self.epoch, self.position = (self.epoch + 1, 0) if done else (self.epoch, self.position + 1)
            yield [self.dataset.tensors[0][batch]]

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.position = state["epoch"], state["position"]


class Net(pl.LightningModule):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.Dropout(0.5), torch.nn.Linear(width, 1))

    def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
        loss = self.net(batch[0]).sub(1).pow(2).mean()
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: list[torch.Tensor]) -> None:
        self.log("val_loss", self.net(batch[0]).sub(1).pow(2).mean())

    def test_step(self, batch: list[torch.Tensor]) -> None:
        self.log("test_loss", self.net(batch[0]).sub(1).pow(2).mean())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), 1e-2)
        # As models with a schedule do; where the run has epochs, this makes the loader before its state is known.
        gamma = 0.8 ** (1 / self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def train_dataloader(self) -> DataLoader:
        return PositionedLoader(_data(), batch_size=4)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(_data(), batch_size=8)

    test_dataloader = val_dataloader

    def flat(self) -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in self.parameters()])


def _data() -> TensorDataset:
    return TensorDataset(torch.randn(4 * BATCHES, 4, generator=torch.Generator().manual_seed(1)))


@pytest.fixture
def net_class() -> type[Net]:
    return Net


@pytest.fixture
def make_trainer() -> Callable[..., pl.Trainer]:
    def make(**options: Any) -> pl.Trainer:
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1}
        bare = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
        return pl.Trainer(**{**bare, **quiet, "max_epochs": 2, **options})

    return make


@pytest.fixture
def run(make_trainer: Callable[..., pl.Trainer]) -> Callable[..., tuple[pl.Trainer, Net, Path]]:
    """Train Net in a directory; `trainer` and `fit` are arguments of the Trainer and of its fit."""

    def train(
        directory: Path, *, trainer: dict[str, Any] | None = None, seed: int = 7, **options: Any
    ) -> tuple[pl.Trainer, Net, Path]:
        pl.seed_everything(seed, verbose=False)
        made = make_trainer(**(trainer or {}))
        root = exp_manager(made, {"explicit_log_dir": str(directory), **options})
        model = Net()
        try:
            made.fit(model)
        finally:
            close(made)
        return made, model, root

    return train


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """Copies of the run ``unstopped`` as it was when each checkpoint had just been written: what a kill would leave."""
    made: list[Path] = []
    save = AtomicCheckpointIO.save_checkpoint

    def save_and_copy(self: AtomicCheckpointIO, checkpoint: Any, path: str, storage_options: Any = None) -> None:
        save(self, checkpoint, path, storage_options)
        if Path(path).parents[1] == tmp_path / "unstopped":
            made.append(tmp_path / f"stopped_{len(made):02d}")
            shutil.copytree(Path(path).parents[1], made[-1])

    monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", save_and_copy)
    return made
