"""A recipe whose validation loss is known beforehand: ``floor + 1 / epoch``. It can also break in each of the ways."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from typing_extensions import Self

from rayconvai.core.data_module import DataModule
from rayconvai.core.model import Model
from rayconvai.core.sample import Sample, Text
from rayconvai.errors import ConfigError, StorageError


class TinyData(DataModule):
    def __init__(self, *, rows: int = 8, seed: int = 0) -> None:
        super().__init__()
        self.rows = rows

    def prepare(self) -> None:
        pass

    def texts(self) -> Iterator[str]:
        yield "tiny"

    def bind(self, model: Model) -> None:
        pass

    def fingerprint(self) -> dict[str, Any]:
        return {split: {"rows": self.rows} for split in ("train", "dev", "test")}

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(torch.ones(self.rows, 1)), batch_size=2)

    val_dataloader = test_dataloader = train_dataloader


class TinyModel(Model):
    metric_names = ("train_loss", "val_loss", "test_loss")

    def __init__(self, *, width: int, floor: float, breaks: str, pause: float) -> None:
        super().__init__()
        if width % 2:
            raise ConfigError(f"width is {width}; it must be even")
        self.layer = torch.nn.Linear(1, width)
        self.floor, self.breaks, self.pause = floor, breaks, pause

    @classmethod
    def from_config(
        cls, *, width: int = 4, quirk: str = "even", floor: float = 0.0, breaks: str = "no", pause: float = 0.0
    ) -> Self:
        if quirk == "odd" and floor and width < 8:
            raise ConfigError(f"width is {width}; with this quirk and a floor it must be at least 8")
        return cls(width=width, floor=floor, breaks=breaks, pause=pause)

    def check_graph(self) -> None:
        pass

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        time.sleep(self.pause)
        if index == 1 and self.current_epoch == 1:
            self._break()
        loss = self.layer(batch[0]).square().mean()
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        broken = float("nan") if self.breaks == "nan" else 0.0
        self.log("val_loss", self.floor + 1 / (self.current_epoch + 1) + broken)
        self.keep_samples("val", [Sample("dev:1", self.floor, {"said": Text(f"epoch {self.current_epoch + 1}")})])

    def test_step(self, batch: list[Tensor], index: int) -> None:
        self.log("test_loss", self.floor)
        self.keep_samples("test", [Sample("test:1", self.floor, {"said": Text("tested")})])

    def _break(self) -> None:
        if self.breaks == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        if self.breaks == "code":
            raise ZeroDivisionError("a bug")
        died = Path(self.trainer.checkpoint_callback.dirpath) / "died"
        if self.breaks in ("process", "disk", "hang") and not died.exists():
            died.touch()
            if self.breaks == "hang":
                time.sleep(1000)
            if self.breaks == "disk":
                raise StorageError("checkpoint cannot be written: No space left on device")
            os._exit(1)
