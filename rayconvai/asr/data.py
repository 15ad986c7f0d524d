"""The data of a recognizer's run: texts that CTC can say in their time, augmented in training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from rayconvai.asr.ctc import FrameRate, frames_needed
from rayconvai.asr.dataset import SpeechBatch, SpeechDataset, Waveform
from rayconvai.core.model import Model
from rayconvai.data.corpus import Corpus
from rayconvai.data.lines import keep_good
from rayconvai.data.manifest import Manifest, text_problems
from rayconvai.data.module import ManifestData
from rayconvai.data.speech import STRICT, Checks, usable
from rayconvai.tokenizers.base import Tokenizer

if TYPE_CHECKING:
    from rayconvai.asr.models.ctc import CTCModel


class SpeechData(ManifestData):
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

    unit = "seconds"

    def __init__(
        self,
        *,
        corpus: Corpus,
        batch_seconds: float | None = None,
        batch_size: int | None = None,
        num_buckets: int = 16,
        num_workers: int = 0,
        augment: Sequence[Waveform] = (),
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
        self.checks, self.augment = checks, tuple(augment)

    def check(self, split: str, manifest: Manifest) -> Manifest:
        return usable(manifest, self.checks)

    def texts(self) -> Iterator[str]:
        manifest: Manifest = self.splits["train"]
        return manifest.texts()

    def bind(self, model: Model) -> None:
        """Take tokenizer, sample rate and frame rate from a recognizer, and check every text against them.

        Raises:
            DataError: a text that the tokenizer cannot write, or too long for its audio, by manifest and line.
        """
        recognizer: CTCModel = model  # type: ignore[assignment]
        tokenizer, rate = recognizer.tokenizer, recognizer.frame_rate
        for name, manifest in self.splits.items():
            spelled = keep_good(manifest, text_problems(manifest, tokenizer), self.checks.on_bad)
            sayable = keep_good(spelled, _infeasible(spelled, tokenizer, rate), self.checks.on_bad)
            augment = self.augment if name == "train" else ()
            self.keep(name, SpeechDataset(sayable, tokenizer, rate, augment, self.seed))

    def bound_by(self, model: Model) -> FrameRate:
        recognizer: CTCModel = model  # type: ignore[assignment]
        return recognizer.frame_rate

    def largest_batch(self) -> tuple[SpeechBatch, float]:
        """No sound is read; augmentation may make the real one longer."""
        rows, times = self.largest_rows()
        dataset: SpeechDataset = self.dataset("train")
        count, longest = len(rows), float(dataset.manifest.durations[rows].max())
        tokens = max(len(dataset.tokenizer.encode(dataset.manifest[row].text)) for row in rows)
        batch = SpeechBatch(
            audio=torch.empty(count, int(longest * dataset.rate.sample_rate)),
            audio_lengths=torch.empty(count, dtype=torch.int64),
            tokens=torch.empty(count, tokens, dtype=torch.int64),
            token_lengths=torch.empty(count, dtype=torch.int64),
            indices=torch.empty(count, dtype=torch.int64),
        )
        return batch, times


def _infeasible(manifest: Manifest, tokenizer: Tokenizer, rate: FrameRate) -> dict[int, str]:
    """Return the rows whose text CTC cannot say in their time, each with the reason."""
    bad = {}
    for row, (text, duration) in enumerate(zip(manifest.texts(), manifest.durations, strict=True)):
        frames = rate.frames(int(duration * rate.sample_rate))
        needed = frames_needed(tokenizer.encode(text))
        if needed > frames:
            bad[row] = f"the text needs {needed} frames, but {duration:.2f} s make {frames}; correct the text"
    return bad
