"""A recipe all of whose steps leave a mark: random order, dropout, momentum, a schedule.

A batch that is lost, doubled or drawn in another order changes every metric that comes after it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from typing_extensions import Self

from rayconvai.core.data_module import DataModule
from rayconvai.core.model import Model
from rayconvai.data.loader import StatefulLoader
from rayconvai.data.sampler import LengthBatchSampler, Ranks
from rayconvai.errors import ConfigError

FEATURES = 16


class ChanceData(DataModule):
    def __init__(self, *, rows: int = 64, batch_size: int = 8, seed: int = 0) -> None:
        super().__init__()
        self.rows, self.batch_size, self.seed = rows, batch_size, seed

    def prepare(self) -> None:
        pass

    def texts(self) -> Iterator[str]:
        yield "chance"

    def bind(self, model: Model) -> None:
        pass

    def fingerprint(self) -> dict[str, Any]:
        return {split: {"rows": self.rows} for split in ("train", "dev", "test")}

    def train_dataloader(self) -> Any:
        return self._loader(0, shuffle=True)

    def val_dataloader(self) -> Any:
        return self._loader(1, shuffle=False)

    def test_dataloader(self) -> Any:
        return self._loader(2, shuffle=False)

    def _loader(self, split: int, *, shuffle: bool) -> StatefulLoader:
        rng = np.random.default_rng([7, split])
        inputs = torch.from_numpy(rng.standard_normal((self.rows, FEATURES)).astype(np.float32))
        targets = inputs[:, :4].prod(dim=1, keepdim=True).tanh() + inputs[:, 4:].mean(dim=1, keepdim=True)
        plan = LengthBatchSampler(
            rng.uniform(1, 2, self.rows),
            batch_size=self.batch_size,
            num_buckets=4,
            shuffle=shuffle,
            seed=self.seed,
            ranks=Ranks(rank=self.trainer.global_rank, count=self.trainer.world_size) if self.trainer else Ranks(),
        )
        return StatefulLoader(TensorDataset(inputs, targets), batch_sampler=plan)


class ChanceModel(Model):
    metric_names = ("train_loss", "val_loss", "test_loss")

    def __init__(self, *, width: int, depth: int, dropout: float, pause: float) -> None:
        super().__init__()
        if width % depth:
            raise ConfigError(f"width {width} is not a multiple of depth {depth}")
        sizes = [FEATURES, *[width] * depth]
        layers = [
            part
            for before, after in pairwise(sizes)
            for part in (nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU(), nn.Dropout(dropout))
        ]
        self.net = nn.Sequential(*layers, nn.Linear(width, 1))
        self.pause = pause

    @classmethod
    def from_config(cls, *, width: int = 16, depth: int = 2, dropout: float = 0.2, pause: float = 0.0) -> Self:
        return cls(width=width, depth=depth, dropout=dropout, pause=pause)

    def check_graph(self) -> None:
        pass

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        time.sleep(self.pause)
        loss = self._loss(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        self.log("val_loss", self._loss(batch), batch_size=len(batch[0]), sync_dist=True)

    def test_step(self, batch: list[Tensor], index: int) -> None:
        self.log("test_loss", self._loss(batch), batch_size=len(batch[0]), sync_dist=True)

    def _loss(self, batch: list[Tensor]) -> Tensor:
        inputs, targets = batch
        return nn.functional.mse_loss(self.net(inputs), targets)
