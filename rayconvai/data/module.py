"""The data of a run from manifests of any kind: checked, batched by length."""

from __future__ import annotations

import logging
from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from rayconvai.core.data_module import DataModule
from rayconvai.core.model import Model
from rayconvai.data.corpus import Corpus
from rayconvai.data.lines import JsonLines
from rayconvai.data.loader import StatefulLoader
from rayconvai.data.sampler import LengthBatchSampler, Ranks, check_batching
from rayconvai.errors import ConfigError, DataError, InfeasibleError

_log = logging.getLogger("rayconvai")


class ManifestData(DataModule):
    """Train, dev and test examples of a corpus, in batches of similar length.

    A subclass's ``check`` says which examples can be used; its ``bind`` makes a dataset of each split, which has the
    ``manifest`` that it reads and the ``lengths`` of the examples, in the same order, and keeps it with ``keep``.

    Args:
        corpus: where the examples are.
        batch_length: most of a batch, padding included, in ``unit``.
        batch_size: instead, examples in a batch.
        num_buckets: groups of similar length; more give less padding and less random batches.
        num_workers: processes that read and augment; 0 does it in the training process.
        seed: of batches and augmentation.
    """

    unit: ClassVar[str]
    """What lengths are measured in; the config has ``batch_UNIT``."""

    def __init__(
        self,
        *,
        corpus: Corpus,
        batch_length: float | None = None,
        batch_size: int | None = None,
        num_buckets: int = 16,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_batching(batch_length, batch_size, num_buckets, self.unit)
        if num_workers < 0:
            raise ConfigError(f"num_workers is {num_workers}; it must be 0 or more")
        self.corpus, self.seed, self.num_workers = corpus, seed, num_workers
        self.batch_length, self.batch_size, self.num_buckets = batch_length, batch_size, num_buckets
        self._splits: dict[str, Any] = {}
        self._datasets: dict[str, Any] = {}

    @abstractmethod
    def check(self, split: str, manifest: Any) -> JsonLines[Any]:
        """Return a split's usable examples; ``train`` is the first to be checked.

        Raises:
            DataError: one that is not usable, by manifest and line, unless such are to be left out.
        """

    def prepare(self) -> None:
        """Make or find the corpus and check every example.

        Raises:
            DataError: an unusable one (unless the checks leave those out), by manifest and line.
        """
        if not self._splits:
            found = self.corpus.prepare().named()
            self._splits = {name: self.check(name, manifest) for name, manifest in found.items()}

    @property
    def splits(self) -> dict[str, Any]:
        """The manifests, by ``train``, ``dev`` and, if there is one, ``test``."""
        self.prepare()
        return self._splits

    def fingerprint(self) -> dict[str, Any]:
        return {name: manifest.fingerprint() for name, manifest in self.splits.items()}

    def keep(self, split: str, dataset: Any) -> None:
        """Take the dataset of a split."""
        self._datasets[split] = dataset

    def dataset(self, split: str) -> Any:
        """Return the dataset of ``train``, ``dev`` or ``test``.

        Raises:
            DataError: the corpus has no such split.
        """
        if not self._datasets:
            raise ConfigError("the data does not know its model yet: call bind(model) first")
        if split not in self._datasets:
            raise DataError(f"the corpus has no {split} set; it has {', '.join(self._datasets)}")
        return self._datasets[split]

    def train_dataloader(self) -> StatefulLoader:
        ranks = self.trainer.world_size if self.trainer else 1
        for name, dataset in self._datasets.items():  # the test set comes last, when all has been trained
            if len(dataset) < ranks:
                manifest = dataset.manifest
                raise DataError(
                    f"{manifest.path}: {len(dataset)} {name} {manifest.noun} cannot be shared by {ranks} processes; "
                    "lower trainer.devices or trainer.num_nodes"
                )
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> StatefulLoader:
        return self._loader("dev", shuffle=False)

    def test_dataloader(self) -> StatefulLoader:
        return self._loader("test", shuffle=False)

    def largest_rows(self) -> tuple[list[int], float]:
        """Return the rows of the largest training batch, and how many such batches an epoch amounts to."""
        sampler = self._sampler(self.dataset("train"), shuffle=True)
        batches = sampler.plan(epoch=0)
        sizes = [float(sampler.lengths[batch].max()) * len(batch) for batch in batches]
        return batches[sizes.index(max(sizes))].tolist(), sum(sizes) / max(sizes)

    def _loader(self, split: str, *, shuffle: bool) -> StatefulLoader:
        dataset = self.dataset(split)
        sampler = self._sampler(dataset, shuffle=shuffle)
        _log.info(
            "%s: %d %s, %.0f %s, %d batches, %.1f %% padding",
            split, len(dataset), dataset.manifest.noun, sampler.lengths.sum(), self.unit, len(sampler),
            100 * sampler.padding_ratio(),
        )  # fmt: skip
        return StatefulLoader(
            dataset,
            batch_sampler=sampler,
            collate_fn=dataset.collate_fn,
            num_workers=self.num_workers,
        )

    def _sampler(self, dataset: Any, *, shuffle: bool) -> LengthBatchSampler:
        return LengthBatchSampler(
            dataset.lengths,
            batch_length=self.batch_length,
            batch_size=self.batch_size,
            num_buckets=self.num_buckets,
            unit=self.unit,
            shuffle=shuffle,
            seed=self.seed,
            ranks=self._ranks(train=shuffle),
        )

    def _ranks(self, *, train: bool) -> Ranks:
        trainer = self.trainer
        if trainer is None:
            return Ranks()
        rank, count = trainer.global_rank, trainer.world_size
        if not train:
            return Ranks(rank=rank, count=count)
        return Ranks(rank=rank, count=count, most=self.most_ranks, accumulate=trainer.accumulate_grad_batches)


def dataset_of(model: Model, stage: str) -> Any:
    """Return the dataset that a model trains, validates or tests on: ``train``, ``val`` or ``test``."""
    trainer = model.trainer
    loaders = {"train": trainer.train_dataloader, "val": trainer.val_dataloaders, "test": trainer.test_dataloaders}
    return getattr(loaders[stage], "dataset", None)


def refuse_not_finite(model: Model, loss: Tensor, indices: Tensor, stage: str) -> None:
    """Check the loss of a batch.

    Args:
        model: that is training, validating or testing.
        loss: a scalar.
        indices: rows of the manifest that the batch was made of.
        stage: ``train``, ``val`` or ``test``.

    Raises:
        InfeasibleError: it is NaN or infinite; names step, learning rate and examples.
    """
    if torch.isfinite(loss):
        return
    rows, trainer = indices.tolist(), model.trainer
    manifest = getattr(dataset_of(model, stage), "manifest", None)
    noun = "rows" if manifest is None else manifest.noun
    where = [str(row) if manifest is None else manifest.where(row) for row in rows]
    rate = f" (lr {trainer.optimizers[0].param_groups[0]['lr']:.3g})" if trainer.optimizers else ""
    shown = ", ".join(where[:3]) + (f" and {len(where) - 3} more" if len(where) > 3 else "")
    raise InfeasibleError(
        f"{stage}_loss is {loss.item()} at step {model.global_step}{rate}, {noun} {shown}; "
        "lower optim.lr, warm up longer or clip gradients (trainer.gradient_clip_val)"
    )
