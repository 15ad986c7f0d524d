"""A recipe whose metrics follow from its weights: a line through points that a corpus gives as durations and texts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from typing_extensions import Self

from rayconvai.core.data_module import DataModule
from rayconvai.core.model import Model
from rayconvai.data.corpus import Corpus
from rayconvai.data.manifest import Manifest


class LineData(DataModule):
    def __init__(self, *, corpus: Corpus, seed: int = 0) -> None:
        super().__init__()
        self.corpus = corpus

    def prepare(self) -> None:
        self.splits = self.corpus.prepare()

    def texts(self) -> Iterator[str]:
        return self.splits.train.texts()

    def bind(self, model: Model) -> None:
        pass

    def fingerprint(self) -> dict[str, Any]:
        splits = {"train": self.splits.train, "dev": self.splits.dev, "test": self.splits.test}
        return {name: manifest.fingerprint() for name, manifest in splits.items() if manifest is not None}

    def train_dataloader(self) -> Any:
        return self._loader(self.splits.train, shuffle=True)

    def val_dataloader(self) -> Any:
        return self._loader(self.splits.dev)

    def test_dataloader(self) -> Any:
        assert self.splits.test is not None
        return self._loader(self.splits.test)

    def _loader(self, manifest: Manifest, *, shuffle: bool = False) -> Any:
        x = torch.tensor(manifest.durations.copy())
        y = torch.tensor([float(text) for text in manifest.texts()])
        return DataLoader(TensorDataset(x, y), batch_size=2, shuffle=shuffle)


class LineModel(Model):
    metric_names = ("train_loss", "val_loss", "test_loss")

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = torch.nn.Parameter(torch.tensor(slope))

    @classmethod
    def from_config(cls, *, slope: float = 0.0) -> Self:
        return cls(slope)

    def check_graph(self) -> None:
        pass

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        return self._loss("train", batch)

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        self._loss("val", batch)

    def test_step(self, batch: list[Tensor], index: int) -> None:
        self._loss("test", batch)

    def _loss(self, split: str, batch: list[Tensor]) -> Tensor:
        x, y = batch
        loss = (self.slope * x - y).square().mean()
        self.log(f"{split}_loss", loss, on_step=False, on_epoch=True, batch_size=len(x))
        return loss
