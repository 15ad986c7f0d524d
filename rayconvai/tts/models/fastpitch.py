"""FastPitch: text to mel spectrogram in one pass, with durations that it learns by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self, override

from rayconvai.core import (
    AudioSignal,
    LengthsType,
    MelSpectrogramType,
    NeuralType,
    RegressionValuesType,
    TokenDurationType,
    TokenIndex,
    typecheck,
)
from rayconvai.core.attention import length_mask
from rayconvai.core.build import build
from rayconvai.core.model import Model
from rayconvai.core.sample import Part, Sample, Text
from rayconvai.core.typecheck import trace
from rayconvai.data.manifest import Manifest
from rayconvai.data.module import dataset_of, refuse_not_finite
from rayconvai.data.speech import heard
from rayconvai.errors import DataError, GraphError
from rayconvai.tokenizers import Tokenizer, load_tokenizer
from rayconvai.tts.alignment import AlignmentEncoder, BinarizationLoss, ForwardSumLoss, HardAlignment
from rayconvai.tts.dataset import TTSBatch, Voice
from rayconvai.tts.evaluation import MEASURES, Step, measures, shown
from rayconvai.tts.features import MelSpectrogram
from rayconvai.tts.losses import PUBLISHED, DurationLoss, MelLoss, TokenLoss, Weights, mel_errors
from rayconvai.tts.metrics import MelCepstralDistortion
from rayconvai.tts.prosody import LengthRegulator, ProsodyAdaptor, ProsodyTargets, alignment_of
from rayconvai.tts.transformer import MelDecoder, TextEncoder

NUM_SAMPLES = 3
"""Utterances shown and heard after each validation."""
LONGEST = 200
"""Most frames that a token is given when text is spoken: a model that has learnt little may ask for any number."""


# B batch, S samples, T frames, U tokens, D mel bands
class FastPitchModel(Model):
    """A synthesizer of spectrograms, trained on texts and sounds alone: which token sounds when is learnt beside.

    Args:
        preprocessor: audio to mel spectrograms.
        encoder: tokens to vectors.
        aligner: compares frames with tokens.
        adaptor: predicts duration, pitch and energy.
        decoder: a vector for each frame to a mel spectrogram.
        tokenizer: text to tokens.
        weights: what each part counts in the loss.

    Raises:
        GraphError: the parts do not fit together.

    Source: FastPitch (arXiv 2006.06873), with the aligner of arXiv 2108.10447.
    """

    usage = 'synthesize {} "TEXT" -o out.wav'
    metric_names = (
        "train_loss",
        *(f"{stage}_{name}" for stage in ("val", "test") for name in ("loss", "mcd", *MEASURES)),
    )

    def __init__(
        self,
        *,
        preprocessor: MelSpectrogram,
        encoder: TextEncoder,
        aligner: AlignmentEncoder,
        adaptor: ProsodyAdaptor,
        decoder: MelDecoder,
        tokenizer: Tokenizer,
        weights: Weights = PUBLISHED,
    ) -> None:
        super().__init__()
        if encoder.num_tokens != tokenizer.vocab_size:
            raise GraphError(
                f"encoder ({type(encoder).__name__}) has {encoder.num_tokens} tokens, the tokenizer "
                f"{tokenizer.vocab_size}"
            )
        self.preprocessor, self.encoder, self.aligner = preprocessor, encoder, aligner
        self.adaptor, self.decoder, self.tokenizer, self.weights = adaptor, decoder, tokenizer, weights
        self.targets, self.hard_alignment, self.regulator = ProsodyTargets(), HardAlignment(), LengthRegulator()
        self.mel_loss, self.duration_loss, self.token_loss = MelLoss(), DurationLoss(), TokenLoss()
        self.forward_sum_loss, self.binarization_loss = ForwardSumLoss(), BinarizationLoss()
        self.mcd = nn.ModuleDict({stage: MelCepstralDistortion() for stage in ("val", "test")})
        self.check_graph()

    @classmethod
    @override
    def from_config(  # type: ignore[override]  # a model names its own nodes
        cls,
        *,
        preprocessor: Mapping[str, Any],
        encoder: Mapping[str, Any],
        aligner: Mapping[str, Any],
        adaptor: Mapping[str, Any],
        decoder: Mapping[str, Any],
        tokenizer: Tokenizer,
        weights: Weights = PUBLISHED,
    ) -> Self:
        front = build(preprocessor)
        text = build(encoder, num_tokens=tokenizer.vocab_size)
        return cls(
            preprocessor=front,
            encoder=text,
            aligner=build(aligner, num_mels=front.num_mels, embedding_dim=text.d_model),
            adaptor=build(adaptor, d_model=text.d_model),
            decoder=build(decoder, num_mels=front.num_mels, d_model=text.d_model),
            tokenizer=tokenizer,
            weights=weights,
        )

    @property
    def voice(self) -> Voice:
        """What the data must fit."""
        return Voice(self.preprocessor.sample_rate, self.preprocessor.hop_length)

    @cached_property
    def input_types(self) -> dict[str, NeuralType]:
        return self.encoder.input_types

    @cached_property
    def output_types(self) -> dict[str, NeuralType]:
        return {
            "mel": NeuralType(("B", f"D:{self.preprocessor.num_mels}", "T"), MelSpectrogramType()),
            "lengths": NeuralType(("B",), LengthsType()),
            "durations": NeuralType(("B", "T"), TokenDurationType()),
        }

    @typecheck()
    def forward(self, *, tokens: Tensor, token_lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return mels (B, D, T), their lengths (B,) and the durations in frames (B, U), all predicted."""
        return self._speak(tokens, token_lengths)

    def _speak(
        self, tokens: Tensor, token_lengths: Tensor, pace: float = 1.0, pitch_shift: float = 0.0
    ) -> tuple[Tensor, Tensor, Tensor]:
        encoded, _ = self.encoder(tokens=tokens, token_lengths=token_lengths)
        encoded, log_durations = self.adaptor.predict(encoded, token_lengths, self.targets, pitch_shift)
        inside_BU = length_mask(token_lengths, tokens.shape[1])
        durations = (torch.expm1(log_durations) / pace).round().clamp(0, LONGEST).long() * inside_BU
        durations[:, 0].clamp_(min=1)  # or there could be nothing to decode
        alignment, lengths = alignment_of(durations), durations.sum(1)
        frames = self.regulator(encoded=encoded, alignment=alignment)
        return self.decoder(frames=frames, lengths=lengths), lengths, durations

    def step(
        self, *, tokens: Tensor, token_lengths: Tensor, audio: Tensor, audio_lengths: Tensor, pitch: Tensor
    ) -> Step:
        """Return the losses and what they come from: what training, validation and the graph check share."""
        mel, lengths = self.preprocessor(audio=audio, audio_lengths=audio_lengths)
        encoded, embedded = self.encoder(tokens=tokens, token_lengths=token_lengths)
        scores, log_soft = self.aligner(mel=mel, lengths=lengths, embedded=embedded, token_lengths=token_lengths)
        alignment, durations = self.hard_alignment(log_soft=log_soft, lengths=lengths, token_lengths=token_lengths)
        token_pitch, energy = self.targets(pitch=pitch, mel=mel, alignment=alignment)
        encoded, log_durations, own_pitch, own_energy = self.adaptor(
            encoded=encoded, token_lengths=token_lengths, pitch=token_pitch, energy=energy
        )
        frames = self.regulator(encoded=encoded, alignment=alignment)
        predicted = self.decoder(frames=frames, lengths=lengths)
        losses = {
            "mel": self.mel_loss(predicted=predicted, mel=mel, lengths=lengths),
            "duration": self.duration_loss(
                log_durations=log_durations, durations=durations, token_lengths=token_lengths
            ),
            "pitch": self.token_loss(predicted=own_pitch, values=token_pitch, token_lengths=token_lengths),
            "energy": self.token_loss(predicted=own_energy, values=energy, token_lengths=token_lengths),
            "alignment": self.forward_sum_loss(scores=scores, lengths=lengths, token_lengths=token_lengths),
            "binarization": self.binarization_loss(alignment=alignment, log_soft=log_soft, lengths=lengths),
        }
        return Step(
            losses, mel, lengths, predicted, log_soft, alignment, durations, log_durations, token_pitch, own_pitch
        )

    @override
    def dry_step(self, batch: TTSBatch) -> Tensor:
        # The aligner's losses look at values; they are little beside the network.
        mel, lengths = self.preprocessor(audio=batch.audio, audio_lengths=batch.audio_lengths)
        encoded, embedded = self.encoder(tokens=batch.tokens, token_lengths=batch.token_lengths)
        _, log_soft = self.aligner(mel=mel, lengths=lengths, embedded=embedded, token_lengths=batch.token_lengths)
        alignment = torch.zeros_like(log_soft)
        pitch, energy = self.targets(pitch=batch.pitch, mel=mel, alignment=alignment)
        encoded, *predicted = self.adaptor(
            encoded=encoded, token_lengths=batch.token_lengths, pitch=pitch, energy=energy
        )
        frames = self.regulator(encoded=encoded, alignment=alignment)
        means = [part.mean() for part in (self.decoder(frames=frames, lengths=lengths), *predicted)]
        return torch.stack(means).sum()

    @override
    def check_graph(self) -> None:
        trace(
            self.step,
            tokens=NeuralType(("B", "T"), TokenIndex()),
            token_lengths=NeuralType(("B",), LengthsType()),
            audio=NeuralType(("B", "T"), AudioSignal(freq=self.preprocessor.sample_rate)),
            audio_lengths=NeuralType(("B",), LengthsType()),
            pitch=NeuralType(("B", "T"), RegressionValuesType()),
        )

    @override
    def seen(self, batch: TTSBatch) -> Mapping[str, int | float | Tensor]:
        return heard(batch.audio_lengths, self.preprocessor.sample_rate)

    @override
    def training_step(self, batch: TTSBatch, batch_idx: int) -> Tensor:
        step = self._step(batch)
        loss = self._total(step.losses, min(1.0, self.global_step / max(1, self.weights.binarization_steps)))
        refuse_not_finite(self, loss, batch.indices, "train")
        self.log_training_mean("train_loss", loss, len(batch.audio_lengths))
        return loss

    @override
    def validation_step(self, batch: TTSBatch, batch_idx: int) -> None:
        self._evaluate(batch, "val", batch_idx)

    @override
    def test_step(self, batch: TTSBatch, batch_idx: int) -> None:
        self._evaluate(batch, "test", batch_idx)

    def parse(self, text: str) -> Tensor:
        """Return the tokens of a text, (1, U).

        Raises:
            DataError: it has nothing to say, or what the tokenizer cannot write.
        """
        tokens = self.tokenizer.encode(text)
        if not tokens:
            raise DataError(f"{text!r} has nothing to say; give a text with words")
        return torch.tensor([tokens], device=self.device)

    def generate_spectrogram(self, tokens: Tensor, pace: float = 1.0, pitch_shift: float = 0.0) -> Tensor:
        """Return the mel spectrogram (B, D, T) of tokens (B, U) from ``parse``.

        Args:
            tokens: of one text, or of several with equally many.
            pace: how fast to speak; 2 is twice as fast.
            pitch_shift: how much higher, in semitones.
        """
        lengths = torch.full((len(tokens),), tokens.shape[1], device=self.device)
        with self.in_use():
            mel, _, _ = self._speak(tokens.to(self.device), lengths, pace, pitch_shift)
        return mel

    @override
    def save_assets(self, directory: Path) -> None:
        self.tokenizer.save(directory / "tokenizer")

    @classmethod
    @override
    def load_assets(cls, directory: Path) -> dict[str, Any]:
        return {"tokenizer": load_tokenizer(directory / "tokenizer")}

    def _step(self, batch: TTSBatch) -> Step:
        inputs = batch._asdict()
        del inputs["indices"]
        return self.step(**inputs)

    def _total(self, losses: Mapping[str, Tensor], binarized: float = 1.0) -> Tensor:
        weights = {**asdict(self.weights), "binarization": binarized * self.weights.binarization}
        return torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()

    def _evaluate(self, batch: TTSBatch, stage: str, batch_idx: int) -> None:
        step = self._step(batch)
        loss = self._total(step.losses)
        refuse_not_finite(self, loss, batch.indices, stage)
        mcd: Any = self.mcd[stage]
        mcd.update(step.predicted, step.mel, step.lengths)
        measured = {"loss": loss, "mcd": mcd, **measures(step, batch.token_lengths, self.targets, self.preprocessor)}
        count = len(batch.audio_lengths)
        for name, value in measured.items():
            self.log_evaluation_mean(f"{stage}_{name}", value, count, prog_bar=name == "mel_loss")
        if batch_idx == 0:
            self.keep_samples(stage, self._samples(batch, step, dataset_of(self, stage).manifest))

    def _samples(self, batch: TTSBatch, step: Step, manifest: Manifest) -> Iterator[Sample]:
        errors_B = mel_errors(step.predicted, step.mel, step.lengths)
        for i in range(min(NUM_SAMPLES, len(batch.indices))):
            row, count = int(batch.indices[i]), int(batch.token_lengths[i])
            mel, _, _ = self._speak(batch.tokens[i : i + 1, :count], batch.token_lengths[i : i + 1])
            tokens = self.tokenizer.decode(batch.tokens[i, :count].tolist())
            texts: dict[str, Part] = {"text": Text(manifest[row].text), "tokens": Text(tokens)}
            parts = shown(step, i, count, manifest[row], mel, self.preprocessor)
            yield Sample(manifest.where(row), float(errors_B[i]), {**texts, **parts})
