"""Utterances as tensors, and batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rayconvai.asr.ctc import FrameRate
from rayconvai.core import AudioSignal, Dataset, Index, LabelsType, LengthsType, NeuralType
from rayconvai.data.audio import read_utterance
from rayconvai.data.batch import padded
from rayconvai.data.manifest import Manifest
from rayconvai.data.sampler import mixed
from rayconvai.tokenizers.base import Tokenizer


# B batch, S samples, U tokens
class SpeechBatch(NamedTuple):
    """What the model gets."""

    audio: Tensor
    """(B, S) float32, padded with zeros."""
    audio_lengths: Tensor
    """(B,) samples."""
    tokens: Tensor
    """(B, U) int64, padded with zeros."""
    token_lengths: Tensor
    """(B,)"""
    indices: Tensor
    """(B,) rows of the manifest, to name an utterance in a message."""


class Waveform(Protocol):
    """A step of augmentation: what ``rayconvai.data.augment`` has."""

    def __call__(self, audio: Tensor, sample_rate: int, generator: torch.Generator) -> Tensor: ...


class SpeechDataset(Dataset):
    """A manifest's utterances as (audio, tokens, index).

    Args:
        manifest: what to read.
        tokenizer: writes the texts.
        rate: sample rate of the audio, and how many frames the model makes of it.
        augment: steps on the waveform, in this order. Their random numbers follow from the seed, the epoch and the
            index, so they do not depend on the number of workers. If they leave less audio than the text needs, the
            utterance is taken as it was recorded.
        seed: of the augmentation.
    """

    def __init__(
        self,
        manifest: Manifest,
        tokenizer: Tokenizer,
        rate: FrameRate,
        augment: Sequence[Waveform] = (),
        seed: int = 0,
    ) -> None:
        self.manifest, self.tokenizer, self.rate = manifest, tokenizer, rate
        self.augment, self.seed = tuple(augment), seed

    @cached_property
    def output_types(self) -> dict[str, NeuralType]:
        return {
            "audio": NeuralType(("B", "T"), AudioSignal(freq=self.rate.sample_rate)),
            "audio_lengths": NeuralType(("B",), LengthsType()),
            "tokens": NeuralType(("B", "T"), LabelsType()),
            "token_lengths": NeuralType(("B",), LengthsType()),
            "indices": NeuralType(("B",), Index()),
        }

    @property
    def lengths(self) -> npt.NDArray[np.float32]:
        """Seconds of each utterance, (N,)."""
        return self.manifest.durations

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        """Return audio (S,), tokens (U,) and the index.

        Args:
            index: a row; one that a sampler drew has an ``epoch``, by which its augmentation differs.

        Raises:
            DataError: the sound or the text cannot be used; names the manifest's line.
        """
        row = int(index)
        audio = read_utterance(self.manifest, row, sample_rate=self.rate.sample_rate)
        tokens = self.tokenizer.encode(self.manifest[row].text)
        if self.augment:
            generator = torch.Generator().manual_seed(mixed(self.seed, index) >> 1)
            augmented = audio
            for step in self.augment:
                augmented = step(augmented, self.rate.sample_rate, generator)
            if self.rate.fits(len(augmented), tokens):
                audio = augmented
        return audio, torch.tensor(tokens, dtype=torch.int64), row

    def _collate_fn(self, batch: Sequence[tuple[Tensor, Tensor, int]]) -> SpeechBatch:
        audio, tokens, rows = zip(*batch, strict=True)
        return SpeechBatch(*padded(audio), *padded(tokens), indices=torch.tensor(rows))
