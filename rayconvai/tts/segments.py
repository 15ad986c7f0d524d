"""The data of a vocoder's run: a stretch of each utterance at random in training, whole utterances in validation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from rayconvai.core import AudioSignal, Dataset, Index, LengthsType, NeuralType
from rayconvai.core.model import Model
from rayconvai.data.audio import read_utterance
from rayconvai.data.batch import padded
from rayconvai.data.corpus import Corpus
from rayconvai.data.lines import keep_good
from rayconvai.data.manifest import Manifest
from rayconvai.data.module import ManifestData
from rayconvai.data.sampler import LengthBatchSampler, mixed
from rayconvai.data.soundcheck import open_sound, scan
from rayconvai.data.speech import STRICT, Checks, usable
from rayconvai.errors import require_positive

if TYPE_CHECKING:
    from rayconvai.tts.models.hifigan import HifiGanModel


# B batch, S samples
class SegmentBatch(NamedTuple):
    """What the model gets."""

    audio: Tensor
    """(B, S) float32, padded with zeros."""
    audio_lengths: Tensor
    """(B,) samples, whole hops."""
    indices: Tensor
    """(B,) rows of the manifest, to name an utterance in a message."""


class SegmentDataset(Dataset):
    """A manifest's utterances as (audio, index).

    Args:
        manifest: what to read.
        sample_rate: Hz of the audio.
        hop_length: all lengths are multiples of it.
        samples: of a stretch of an utterance, padded with silence if that is shorter; None takes the whole. Where a
            stretch begins follows from the seed, the epoch and the index, not from who reads it.
        times: stretches of each utterance; the index counts on after the last utterance.
        seed: of the stretches.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        sample_rate: int,
        hop_length: int,
        samples: int | None = None,
        times: int = 1,
        seed: int = 0,
    ) -> None:
        self.manifest, self.sample_rate, self.hop_length = manifest, sample_rate, hop_length
        self.samples, self.times, self.seed = samples, times, seed

    @cached_property
    def output_types(self) -> dict[str, NeuralType]:
        return {
            "audio": NeuralType(("B", "T"), AudioSignal(freq=self.sample_rate)),
            "audio_lengths": NeuralType(("B",), LengthsType()),
            "indices": NeuralType(("B",), Index()),
        }

    @property
    def lengths(self) -> npt.NDArray[np.float32]:
        """Seconds of each, (N,)."""
        if self.samples is None:
            return self.manifest.durations
        return np.full(len(self), self.samples / self.sample_rate, dtype=np.float32)

    def __len__(self) -> int:
        return len(self.manifest) * self.times

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return audio (S,) and its row in the manifest.

        Args:
            index: one that a sampler drew has an ``epoch``, by which its stretch differs.

        Raises:
            DataError: the sound cannot be used; names the manifest's line.
        """
        row = int(index) % len(self.manifest)
        audio = read_utterance(self.manifest, row, sample_rate=self.sample_rate)
        if self.samples is None:
            wanted = max(len(audio) // self.hop_length, 1) * self.hop_length
        else:
            wanted = self.samples
            first = mixed(self.seed, index) % max(len(audio) - wanted + 1, 1)
            audio = audio[first:]
        return functional.pad(audio[:wanted], (0, max(0, wanted - len(audio)))), row

    def _collate_fn(self, batch: Sequence[tuple[Tensor, int]]) -> SegmentBatch:
        audio, rows = zip(*batch, strict=True)
        return SegmentBatch(*padded(audio), torch.tensor(rows))


class SegmentData(ManifestData):
    """Train, dev and test utterances of a corpus, for a vocoder, which reads no texts.

    Args:
        corpus: where the utterances are.
        batch_size: stretches in a batch.
        segment_frames: mel frames of a stretch.
        segments_per_utterance: in an epoch, which ends with a validation and a checkpoint.
        num_workers: processes that read; 0 does it in the training process.
        checks: which utterances are usable.
        seed: of batches and stretches.
    """

    unit = "seconds"

    def __init__(
        self,
        *,
        corpus: Corpus,
        batch_size: int = 16,
        segment_frames: int = 32,
        segments_per_utterance: int = 1,
        num_workers: int = 0,
        checks: Checks = STRICT,
        seed: int = 0,
    ) -> None:
        super().__init__(corpus=corpus, batch_size=batch_size, num_workers=num_workers, seed=seed)
        require_positive(segment_frames=segment_frames, segments_per_utterance=segments_per_utterance)
        self.segment_frames, self.segments_per_utterance, self.checks = segment_frames, segments_per_utterance, checks

    @override
    def check(self, split: str, manifest: Manifest) -> Manifest:
        return usable(manifest, self.checks)

    @override
    def texts(self) -> Iterator[str]:
        return iter(())

    @override
    def bind(self, model: Model) -> None:
        """Take sample rate and hop from a vocoder, and check that no recording has fewer frequencies than it makes.

        Raises:
            DataError: one of a lower sample rate, by manifest and line.
        """
        rate, hop = self.bound_by(model)
        for name, manifest in self.splits.items():
            good = keep_good(manifest, _too_low(manifest, rate), self.checks.on_bad)
            training: dict[str, int] = {}
            if name == "train":
                training = {"samples": self.segment_frames * hop, "times": self.segments_per_utterance}
            self.keep(name, SegmentDataset(good, sample_rate=rate, hop_length=hop, seed=self.seed, **training))

    @override
    def bound_by(self, model: Model) -> Any:
        vocoder: HifiGanModel = model  # type: ignore[assignment]
        return vocoder.sample_rate, vocoder.preprocessor.hop_length

    @override
    def largest_batch(self) -> tuple[SegmentBatch, float]:
        """No sound is read."""
        dataset: SegmentDataset = self.dataset("train")
        assert dataset.samples is not None
        sampler = self._sampler(dataset, shuffle=True)
        count = len(sampler.plan(epoch=0)[0])
        rows = torch.empty(count, dtype=torch.int64)
        return SegmentBatch(torch.empty(count, dataset.samples), rows, rows), len(sampler)

    @override
    def _sampler(self, dataset: SegmentDataset, *, shuffle: bool) -> LengthBatchSampler:
        """Stretches are all alike, in one bucket; whole utterances come one by one, so that nothing depends on who is
        beside them."""
        return LengthBatchSampler(
            dataset.lengths,
            batch_size=1 if dataset.samples is None else self.batch_size,
            num_buckets=1,
            shuffle=shuffle,
            seed=self.seed,
            ranks=self._ranks(train=shuffle),
        )


def _too_low(manifest: Manifest, rate: int) -> dict[int, str]:
    """Return the rows of sounds that were recorded at a lower rate than this, each with the reason."""

    def problem(index: int) -> str | None:
        path = manifest[index].audio_filepath
        with open_sound(path) as file:
            if file.samplerate >= rate:
                return None
            return (
                f"{path}: has {file.samplerate} Hz, and the vocoder makes {rate} Hz, of which the upper part would "
                "be learnt to be silent; lower model.preprocessor.sample_rate (and fmax), or record it again"
            )

    return scan(len(manifest), problem, "reading sample rates")
