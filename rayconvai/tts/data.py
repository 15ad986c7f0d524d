"""The data of a synthesizer's run: what is said, in a voice of one sample rate, with its pitch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from rayconvai.core.model import Model
from rayconvai.data.corpus import Corpus
from rayconvai.data.lines import keep_good
from rayconvai.data.manifest import Manifest
from rayconvai.data.module import ManifestData
from rayconvai.data.speech import STRICT, Checks, usable
from rayconvai.errors import DataError
from rayconvai.tts.dataset import TTSBatch, TTSDataset, Voice
from rayconvai.tts.pitch import PitchRange
from rayconvai.tts.prepared import Rows, pitches, pronunciations

if TYPE_CHECKING:
    from rayconvai.tts.models.fastpitch import FastPitchModel

USUAL = PitchRange()
SLOWEST = 0.6
"""Seconds for each token, a mean over an utterance, beyond which its text is not all that is said."""


class TTSData(ManifestData):
    """Train, dev and test utterances of one voice, in batches of similar length.

    Pronunciations and pitch are found when a model is known, once for a corpus, and kept in the cache.

    Args:
        corpus: where the utterances are.
        batch_seconds: most seconds of audio in a batch, padding included.
        batch_size: instead, utterances in a batch.
        num_buckets: groups of similar duration; more give less padding and less random batches.
        num_workers: processes that read; 0 does it in the training process.
        pitch: where the voice's pitch is looked for.
        checks: which utterances are usable.
        seed: of batches.
    """

    unit = "seconds"

    def __init__(
        self,
        *,
        corpus: Corpus,
        batch_seconds: float | None = None,
        batch_size: int | None = None,
        num_buckets: int = 16,
        num_workers: int = 0,
        pitch: PitchRange = USUAL,
        checks: Checks = STRICT,
        seed: int = 0,
    ) -> None:
        super().__init__(
            corpus=corpus,
            batch_length=batch_seconds,
            batch_size=batch_size,
            num_buckets=num_buckets,
            num_workers=num_workers,
            seed=seed,
        )
        self.pitch, self.checks = pitch, checks

    def check(self, split: str, manifest: Manifest) -> Manifest:
        return usable(manifest, self.checks)

    def texts(self) -> Iterator[str]:
        manifest: Manifest = self.splits["train"]
        return manifest.texts()

    def bind(self, model: Model) -> None:
        """Take tokenizer, sample rate and frames from a synthesizer, check every text and sound against them, and give
        it the figures of the voice's pitch.

        Raises:
            DataError: a text that cannot be written, or does not fit its audio, or a sound of too low a rate, by
                manifest and line.
        """
        synthesizer: FastPitchModel = model  # type: ignore[assignment]
        voice = synthesizer.voice
        for name, manifest in self.splits.items():
            tokens = pronunciations(manifest, synthesizer.tokenizer)
            pitch = pitches(manifest, sample_rate=voice.sample_rate, hop_length=voice.hop_length, within=self.pitch)
            problems = _unfit(tokens, pitch, voice) | tokens.problems | pitch.problems
            good = keep_good(manifest, problems, self.checks.on_bad)
            rows = np.setdiff1d(np.arange(len(manifest)), list(problems)).tolist()
            self.keep(name, TTSDataset(good, rows, tokens, pitch, voice))
            if name == "train":
                if "mean" not in pitch.record:
                    raise DataError(f"{manifest.path}: no pitch in any utterance; record a voice, or widen data.pitch")
                synthesizer.targets.set_pitch(pitch.record["mean"], pitch.record["deviation"])

    def bound_by(self, model: Model) -> Voice:
        synthesizer: FastPitchModel = model  # type: ignore[assignment]
        return synthesizer.voice

    def largest_batch(self) -> tuple[TTSBatch, float]:
        """No sound is read."""
        rows, times = self.largest_rows()
        dataset: TTSDataset = self.dataset("train")
        count = len(rows)
        samples = int(float(dataset.manifest.durations[rows].max()) * dataset.voice.sample_rate)
        tokens = int(dataset.tokens.lengths[[dataset.rows[row] for row in rows]].max())
        lengths = torch.empty(count, dtype=torch.int64)
        batch = TTSBatch(
            tokens=torch.empty(count, tokens, dtype=torch.int64),
            token_lengths=lengths,
            audio=torch.empty(count, samples),
            audio_lengths=lengths,
            pitch=torch.empty(count, samples // dataset.voice.hop_length),
            indices=lengths,
        )
        return batch, times


def _unfit(tokens: Rows, pitch: Rows, voice: Voice) -> dict[int, str]:
    """Return the rows whose text and audio cannot belong together, each with the reason."""
    bad = {}
    for row, (count, frames) in enumerate(zip(tokens.lengths.tolist(), pitch.lengths.tolist(), strict=True)):
        seconds = frames * voice.hop_length / voice.sample_rate
        said = f"the text has {count} tokens, but {seconds:.2f} s make {frames} frames"
        if count > frames:
            bad[row] = f"{said}, and each token needs one; correct the text"
        elif seconds > SLOWEST * count:
            bad[row] = f"{said}: more is said, or too much is silent; correct the text or cut the audio"
    return bad
