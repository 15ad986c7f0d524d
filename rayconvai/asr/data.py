"""The data of a recognizer's run: checked, batched by duration."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from rayconvai.asr.ctc import FrameRate, frames_needed
from rayconvai.asr.dataset import SpeechBatch, SpeechDataset, Waveform
from rayconvai.core.data_module import DataModule
from rayconvai.core.model import Model
from rayconvai.data.corpus import Corpus, Splits
from rayconvai.data.loader import StatefulLoader
from rayconvai.data.manifest import Manifest, check_manifest, keep_good, text_problems
from rayconvai.data.sampler import DurationBatchSampler, Ranks, check_batching
from rayconvai.errors import ConfigError, DataError
from rayconvai.tokenizers.base import Tokenizer

if TYPE_CHECKING:
    from rayconvai.asr.models.ctc import CTCModel

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


class SpeechData(DataModule):
    """Train, dev and test utterances of a corpus, in batches of similar length.

    Args:
        corpus: where the utterances are.
        batch_seconds: most seconds of audio in a batch, padding included.
        batch_size: instead, utterances in a batch.
        num_buckets: groups of similar duration; more give less padding and less random batches.
        num_workers: processes that read and augment; 0 does it in the training process.
        augment: steps on the waveform, in training.
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
        augment: Sequence[Waveform] = (),
        checks: Checks = Checks(),  # frozen
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_batching(batch_seconds, batch_size, num_buckets)
        if num_workers < 0:
            raise ConfigError(f"num_workers is {num_workers}; it must be 0 or more")
        self.corpus, self.augment, self.checks, self.seed = corpus, tuple(augment), checks, seed
        self.batch_seconds, self.batch_size, self.num_buckets = batch_seconds, batch_size, num_buckets
        self.num_workers = num_workers
        self._splits: Splits | None = None
        self._datasets: dict[str, SpeechDataset] = {}

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

    def bind(self, model: Model) -> None:
        """Take tokenizer, sample rate and frame rate from a recognizer, and check every text against them.

        Raises:
            DataError: a text that the tokenizer cannot write, or too long for its audio, by manifest and line.
        """
        recognizer: CTCModel = model  # type: ignore[assignment]
        tokenizer, rate = recognizer.tokenizer, recognizer.frame_rate
        for name, manifest in self.splits.items():
            spelled = keep_good(manifest, text_problems(manifest, tokenizer), self.checks.on_bad)
            usable = keep_good(spelled, _infeasible(spelled, tokenizer, rate), self.checks.on_bad)
            augment = self.augment if name == "train" else ()
            self._datasets[name] = SpeechDataset(usable, tokenizer, rate, augment, self.seed)

    def bound_by(self, model: Model) -> FrameRate:
        recognizer: CTCModel = model  # type: ignore[assignment]
        return recognizer.frame_rate

    def largest_batch(self) -> tuple[SpeechBatch, float]:
        """No sound is read; augmentation may make the real one longer."""
        dataset = self.dataset("train")
        sampler = self._sampler(dataset, shuffle=True)
        batches = sampler.plan(epoch=0)
        seconds = [float(sampler.durations[batch].max()) * len(batch) for batch in batches]
        rows = batches[seconds.index(max(seconds))]
        count, rate = len(rows), dataset.rate.sample_rate
        tokens = max(len(dataset.tokenizer.encode(dataset.manifest[int(row)].text)) for row in rows)
        batch = SpeechBatch(
            audio=torch.empty(count, int(max(sampler.durations[rows]) * rate)),
            audio_lengths=torch.empty(count, dtype=torch.int64),
            tokens=torch.empty(count, tokens, dtype=torch.int64),
            token_lengths=torch.empty(count, dtype=torch.int64),
            indices=torch.empty(count, dtype=torch.int64),
        )
        return batch, sum(seconds) / max(seconds)

    def fingerprint(self) -> dict[str, Any]:
        return {name: manifest.fingerprint() for name, manifest in self.splits.items()}

    def dataset(self, split: str) -> SpeechDataset:
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

    def _sampler(self, dataset: SpeechDataset, *, shuffle: bool) -> DurationBatchSampler:
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


def _named(splits: Splits) -> dict[str, Manifest]:
    named = {"train": splits.train, "dev": splits.dev, "test": splits.test}
    return {name: manifest for name, manifest in named.items() if manifest is not None}


def _infeasible(manifest: Manifest, tokenizer: Tokenizer, rate: FrameRate) -> dict[int, str]:
    """Return the rows whose text CTC cannot say in their time, each with the reason."""
    bad = {}
    for row, (text, duration) in enumerate(zip(manifest.texts(), manifest.durations, strict=True)):
        frames = rate.frames(int(duration * rate.sample_rate))
        needed = frames_needed(tokenizer.encode(text))
        if needed > frames:
            bad[row] = f"the text needs {needed} frames, but {duration:.2f} s make {frames}; correct the text"
    return bad
