"""The data of a run on speech, whatever is learnt from it: checked, batched by duration."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from rayconvai.core.data_module import DataModule
from rayconvai.core.model import Model
from rayconvai.data.corpus import Corpus, Splits
from rayconvai.data.loader import StatefulLoader
from rayconvai.data.manifest import Manifest, check_manifest
from rayconvai.data.sampler import DurationBatchSampler, Ranks, check_batching
from rayconvai.errors import ConfigError, DataError, InfeasibleError

_log = logging.getLogger("rayconvai")


@dataclass(frozen=True, kw_only=True)
class Checks:
    """Which utterances are usable, and what becomes of the others."""

    on_bad: Literal["refuse", "skip"] = "refuse"
    """``refuse`` stops before training at the first bad utterance; ``skip`` leaves them out and logs how many."""
    min_duration: float = 0.0
    """Seconds."""
    max_duration: float | None = None
    """Seconds; null sets no limit."""


STRICT = Checks()
"""Every utterance must be usable, whatever its length."""


class ManifestData(DataModule):
    """Train, dev and test utterances of a corpus, in batches of similar length.

    A subclass's ``bind`` makes a dataset of each split and keeps it with ``keep``.

    Args:
        corpus: where the utterances are.
        batch_seconds: most seconds of audio in a batch, padding included.
        batch_size: instead, utterances in a batch.
        num_buckets: groups of similar duration; more give less padding and less random batches.
        num_workers: processes that read and augment; 0 does it in the training process.
        checks: which utterances are usable.
        seed: of batches and augmentation.
    """

    def __init__(
        self,
        *,
        corpus: Corpus,
        batch_seconds: float | None = None,
        batch_size: int | None = None,
        num_buckets: int = 16,
        num_workers: int = 0,
        checks: Checks = STRICT,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_batching(batch_seconds, batch_size, num_buckets)
        if num_workers < 0:
            raise ConfigError(f"num_workers is {num_workers}; it must be 0 or more")
        self.corpus, self.checks, self.seed = corpus, checks, seed
        self.batch_seconds, self.batch_size, self.num_buckets = batch_seconds, batch_size, num_buckets
        self.num_workers = num_workers
        self._splits: Splits | None = None
        self._datasets: dict[str, Any] = {}

    def prepare(self) -> None:
        """Make or find the corpus and check that every sound is there and usable.

        Raises:
            DataError: an unusable utterance (unless ``checks.on_bad`` is skip), by manifest and line.
        """
        if self._splits is not None:
            return
        found = self.corpus.prepare()
        splits = {
            name: check_manifest(
                manifest,
                on_bad=self.checks.on_bad,
                min_duration=self.checks.min_duration,
                max_duration=self.checks.max_duration,
            )
            for name, manifest in _named(found).items()
        }
        self._splits = Splits(**splits)

    @property
    def splits(self) -> dict[str, Manifest]:
        """The manifests, by ``train``, ``dev`` and, if there is one, ``test``."""
        self.prepare()
        assert self._splits is not None
        return _named(self._splits)

    def texts(self) -> Iterator[str]:
        return self.splits["train"].texts()

    def fingerprint(self) -> dict[str, Any]:
        return {name: manifest.fingerprint() for name, manifest in self.splits.items()}

    def keep(self, split: str, dataset: Any) -> None:
        """Take the dataset of a split: it has the ``manifest`` that it reads, in the same order."""
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
                raise DataError(
                    f"{dataset.manifest.path}: {len(dataset)} {name} utterances cannot be shared by {ranks} processes; "
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
        seconds = [float(sampler.durations[batch].max()) * len(batch) for batch in batches]
        return batches[seconds.index(max(seconds))].tolist(), sum(seconds) / max(seconds)

    def _loader(self, split: str, *, shuffle: bool) -> StatefulLoader:
        dataset = self.dataset(split)
        sampler = self._sampler(dataset, shuffle=shuffle)
        _log.info(
            "%s: %d utterances, %.2f h, %d batches, %.1f %% padding",
            split, len(dataset), dataset.manifest.hours, len(sampler), 100 * sampler.padding_ratio(),
        )  # fmt: skip
        return StatefulLoader(
            dataset,
            batch_sampler=sampler,
            collate_fn=dataset.collate_fn,
            num_workers=self.num_workers,
        )

    def _sampler(self, dataset: Any, *, shuffle: bool) -> DurationBatchSampler:
        return DurationBatchSampler(
            dataset.manifest.durations,
            batch_seconds=self.batch_seconds,
            batch_size=self.batch_size,
            num_buckets=self.num_buckets,
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


def manifest_of(model: Model, stage: str) -> Manifest | None:
    """Return the manifest that the batches of ``train``, ``val`` or ``test`` come from; None for other data."""
    trainer = model.trainer
    loaders = {"train": trainer.train_dataloader, "val": trainer.val_dataloaders, "test": trainer.test_dataloaders}
    manifest: Manifest | None = getattr(getattr(loaders[stage], "dataset", None), "manifest", None)
    return manifest


def refuse_not_finite(model: Model, loss: Tensor, indices: Tensor, stage: str) -> None:
    """Check the loss of a batch.

    Args:
        model: that is training, validating or testing.
        loss: a scalar.
        indices: rows of the manifest that the batch was made of.
        stage: ``train``, ``val`` or ``test``.

    Raises:
        InfeasibleError: it is NaN or infinite; names step, learning rate and utterances.
    """
    if torch.isfinite(loss):
        return
    rows, trainer = indices.tolist(), model.trainer
    manifest = manifest_of(model, stage)
    where = [str(row) if manifest is None else manifest.where(row) for row in rows]
    rate = f" (lr {trainer.optimizers[0].param_groups[0]['lr']:.3g})" if trainer.optimizers else ""
    shown = ", ".join(where[:3]) + (f" and {len(where) - 3} more" if len(where) > 3 else "")
    raise InfeasibleError(
        f"{stage}_loss is {loss.item()} at step {model.global_step}{rate}, utterances {shown}; "
        "lower optim.lr, warm up longer or clip gradients (trainer.gradient_clip_val)"
    )


def _named(splits: Splits) -> dict[str, Manifest]:
    named = {"train": splits.train, "dev": splits.dev, "test": splits.test}
    return {name: manifest for name, manifest in named.items() if manifest is not None}
