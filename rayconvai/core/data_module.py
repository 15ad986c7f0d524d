"""What a run asks of its data, whatever the collection."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING, Any

from lightning.pytorch import LightningDataModule

if TYPE_CHECKING:
    from rayconvai.core.model import Model


class DataModule(LightningDataModule, ABC):
    """The train, dev and test data of one run.

    A run calls, in this order: ``prepare`` (before any model exists), ``assets``, ``texts`` (to train a tokenizer),
    ``bind`` (with the model that will read the batches), and then Lightning the three ``*_dataloader`` methods.
    """

    most_ranks: int | None = None
    """How many ranks there may be in this training, if that varies: the order of its data is then that for so many."""

    @abstractmethod
    def prepare(self) -> None:
        """Make or find the corpus and check every manifest.

        Raises:
            DataError: a manifest, line, sound or text that cannot be used, with its file and line.
        """

    def assets(self) -> dict[str, Any]:
        """Return what a model of these data is built with besides its config: names of classes, say."""
        return {}

    @abstractmethod
    def texts(self) -> Iterator[str]:
        """Yield the texts of the training split, in the manifest's order."""

    @abstractmethod
    def bind(self, model: Model) -> None:
        """Take from the model what its batches must fit: the tokenizer, the sample rate."""

    def bound_by(self, model: Model) -> Hashable:
        """Return what ``bind`` takes from a model: of models that give the same, one is enough to check the data by."""
        return model

    def largest_batch(self) -> tuple[Any, float]:
        """Return a batch as large as the largest in training, to estimate memory and time by, and how many such batches
        an epoch amounts to. Shapes and types count, not values. Called after ``bind``."""
        loader = self.train_dataloader()
        return next(iter(loader)), len(loader)

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """Return what identifies the data: for each split its manifest's hash, hours and count."""
