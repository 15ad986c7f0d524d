"""Utterances for learning to speak: sounds, what they say, and their pitch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from rayconvai.core import (
    AudioSignal,
    Dataset,
    Index,
    LengthsType,
    NeuralType,
    RegressionValuesType,
    TokenIndex,
)
from rayconvai.data.audio import read_utterance
from rayconvai.data.batch import padded
from rayconvai.data.manifest import Manifest
from rayconvai.tts.prepared import Rows


# B batch, S samples, T frames, U tokens
class TTSBatch(NamedTuple):
    """What the model gets."""

    tokens: Tensor
    """(B, U) int64, padded with zeros."""
    token_lengths: Tensor
    """(B,)"""
    audio: Tensor
    """(B, S) float32, padded with zeros."""
    audio_lengths: Tensor
    """(B,) samples."""
    pitch: Tensor
    """(B, T) Hz, 0 where there is no voice; padded with zeros to the frames of the longest audio."""
    indices: Tensor
    """(B,) rows of the manifest, to name an utterance in a message."""


@dataclass(frozen=True)
class Voice:
    """What a model's batches must fit."""

    sample_rate: int
    hop_length: int


class TTSDataset(Dataset):
    """A manifest's utterances as (tokens, audio, pitch, index).

    Args:
        manifest: what to read.
        rows: of each utterance, its row among ``tokens`` and ``pitch``.
        tokens: numbers of what is said.
        pitch: of each frame.
        voice: sample rate and frame size.
    """

    def __init__(self, manifest: Manifest, rows: Sequence[int], tokens: Rows, pitch: Rows, voice: Voice) -> None:
        self.manifest, self.rows, self.tokens, self.pitch, self.voice = manifest, rows, tokens, pitch, voice
        self.lengths = manifest.durations

    @cached_property
    def output_types(self) -> dict[str, NeuralType]:
        return {
            "tokens": NeuralType(("B", "T"), TokenIndex()),
            "token_lengths": NeuralType(("B",), LengthsType()),
            "audio": NeuralType(("B", "T"), AudioSignal(freq=self.voice.sample_rate)),
            "audio_lengths": NeuralType(("B",), LengthsType()),
            "pitch": NeuralType(("B", "T"), RegressionValuesType()),
            "indices": NeuralType(("B",), Index()),
        }

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor, int]:
        """Return tokens (U,), audio (S,), pitch (T,) and the index.

        Raises:
            DataError: the sound cannot be used; names the manifest's line.
        """
        row = int(index)
        audio = read_utterance(self.manifest, row, sample_rate=self.voice.sample_rate)
        tokens, pitch = self.tokens[self.rows[row]], self.pitch[self.rows[row]]
        return torch.from_numpy(tokens).long(), audio, torch.from_numpy(pitch), row

    def _collate_fn(self, batch: Sequence[tuple[Tensor, Tensor, Tensor, int]]) -> TTSBatch:
        tokens, audio, pitch, rows = zip(*batch, strict=True)
        signals, audio_lengths = padded(audio)
        frames = int(audio_lengths.max()) // self.voice.hop_length
        pitches, _ = padded(pitch)
        return TTSBatch(
            *padded(tokens),
            audio=signals,
            audio_lengths=audio_lengths,
            pitch=torch.nn.functional.pad(pitches, (0, frames - pitches.shape[1])),
            indices=torch.tensor(rows),
        )
