"""A vocoder: HiFi-GAN, trained against discriminators."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from typing_extensions import Self, override

from rayconvai.core import AudioSignal, LengthsType, NeuralType, typecheck
from rayconvai.core.build import build
from rayconvai.core.model import Model
from rayconvai.core.sample import Matrix, Part, Sample, Sound
from rayconvai.core.turns import Losses
from rayconvai.core.typecheck import trace
from rayconvai.data.module import dataset_of, refuse_not_finite
from rayconvai.data.speech import heard
from rayconvai.errors import ConfigError, GraphError
from rayconvai.tts.discriminators import Discriminators, adversarial_loss, discriminators_loss, feature_loss
from rayconvai.tts.features import MelSpectrogram
from rayconvai.tts.hifigan import Generator
from rayconvai.tts.losses import stft_distances
from rayconvai.tts.metrics import LogMelDistance, MelCepstralDistortion
from rayconvai.tts.segments import SegmentBatch

_log = logging.getLogger("rayconvai")
NUM_SAMPLES = 3
"""Utterances of a validation that can be heard; its batches have one each."""


# B batch, S samples, T frames, D mel bands
class HifiGanModel(Model):
    """A vocoder trained against discriminators: they step, then the generator does.

    Args:
        preprocessor: audio to the mels that the vocoder reads.
        generator: mels to audio.
        discriminators: in training; None in a model for use.
        mel_weight: of the mel distance in the generator's loss.
        feature_weight: of the distance between what discriminators' layers make of real and of made speech.
        adversarial_from: the step from which the discriminators take part; before, the generator learns from the
            distances of spectra alone, which is some times as fast.
        stft_weight: of the ``stft_distances``, in a generator's loss; 0, as published, leaves them out.

    Raises:
        GraphError: the parts do not fit together.

    Source: HiFi-GAN (arXiv 2010.05646).
    """

    metric_names = (
        "train_loss",
        "train_mel_loss",
        "train_stft_loss",
        "train_feature_loss",
        "train_adversarial_loss",
        "train_discriminators_loss",
        "val_mel_loss",
        "val_mcd",
        "test_mel_loss",
        "test_mcd",
    )

    def __init__(
        self,
        *,
        preprocessor: MelSpectrogram,
        generator: Generator,
        discriminators: Discriminators | None = None,
        mel_weight: float = 45.0,
        feature_weight: float = 2.0,
        adversarial_from: int = 0,
        stft_weight: float = 0.0,
    ) -> None:
        super().__init__()
        if generator.hop_length != preprocessor.hop_length:
            raise GraphError(
                f"generator ({type(generator).__name__}) makes {generator.hop_length} samples of a frame (the product "
                "of its upsample_rates, times the hop_length of its istft), but preprocessor.hop_length is "
                f"{preprocessor.hop_length}"
            )
        self.preprocessor, self.generator, self.discriminators = preprocessor, generator, discriminators
        self.mel_weight, self.feature_weight = mel_weight, feature_weight
        self.adversarial_from, self.stft_weight = adversarial_from, stft_weight
        self.whole_band = preprocessor.with_fmax(None)
        self.metrics = nn.ModuleDict(
            {f"{stage}_{name}": metric for stage in ("val", "test") for name, metric in _metrics().items()}
        )
        self.check_graph()

    @classmethod
    @override
    def from_config(  # type: ignore[override]  # a model names its own nodes
        cls,
        *,
        preprocessor: Mapping[str, Any],
        generator: Mapping[str, Any],
        discriminators: Mapping[str, Any] | None = None,
        mel_weight: float = 45.0,
        feature_weight: float = 2.0,
        adversarial_from: int = 0,
        stft_weight: float = 0.0,
    ) -> Self:
        front = build(preprocessor)
        return cls(
            preprocessor=front,
            generator=build(generator, num_mels=front.num_mels, sample_rate=front.sample_rate),
            discriminators=None if discriminators is None else build(discriminators),
            mel_weight=mel_weight,
            feature_weight=feature_weight,
            adversarial_from=adversarial_from,
            stft_weight=stft_weight,
        )

    @property
    def sample_rate(self) -> int:
        """Hz of the audio that is read and made."""
        return self.preprocessor.sample_rate

    @cached_property
    def input_types(self) -> dict[str, NeuralType]:
        return self.generator.input_types

    @cached_property
    def output_types(self) -> dict[str, NeuralType]:
        return self.generator.output_types

    @typecheck()
    def forward(self, *, mel: Tensor) -> Tensor:
        """Return audio (B, S)."""
        audio: Tensor = self.generator(mel=mel)
        return audio

    @torch.inference_mode()
    def convert_spectrogram_to_audio(self, spec: Tensor) -> Tensor:
        """Return the audio (B, S), ``hop_length`` samples a frame, of mels (B, D, T) as the preprocessor makes them."""
        audio: Tensor = self.generator(mel=spec.to(self.device))
        return audio

    def resynthesize(self, *, audio: Tensor, audio_lengths: Tensor) -> Tensor:
        """Return what the vocoder makes of the mels of audio: both (B, S)."""
        mel, _ = self.preprocessor(audio=audio, audio_lengths=audio_lengths)
        made: Tensor = self.generator(mel=mel)
        return made

    @override
    def check_graph(self) -> None:
        trace(
            self.resynthesize,
            audio=NeuralType(("B", "T"), AudioSignal(freq=self.sample_rate)),
            audio_lengths=NeuralType(("B",), LengthsType()),
        )

    @override
    def seen(self, batch: SegmentBatch) -> Mapping[str, int | float | Tensor]:
        return heard(batch.audio_lengths, self.sample_rate)

    @override
    def trained_parts(self) -> Sequence[nn.Module]:
        if self.discriminators is None:
            raise ConfigError("model.discriminators is null, as in a model for use; training needs them")
        return (self.discriminators, self.generator)

    @override
    def training_step(self, batch: SegmentBatch, batch_idx: int) -> None:
        parts: tuple[Losses | None, Losses] = (None, self._spectral_loss)
        if self.global_step >= self.adversarial_from:
            parts = (self._discriminators_loss, self._generator_loss)
        self.take_turns(batch, len(batch.indices), *(compute and self._finite(compute) for compute in parts))

    @override
    def on_train_start(self) -> None:
        steps = self.trainer.estimated_stepping_batches
        if steps <= self.adversarial_from and self.trainer.is_global_zero:
            what = "the discriminators will not be trained: model.adversarial_from is %d, and the run ends at step %d"
            _log.warning(what, self.adversarial_from, steps)

    @override
    def dry_step(self, batch: SegmentBatch) -> Tensor:
        self._discriminators_loss(batch)  # what it needs is free when the generator's turn comes
        return self._generator_loss(batch)["train_loss"]

    @override
    def validation_step(self, batch: SegmentBatch, batch_idx: int) -> None:
        self._evaluate(batch, "val", shown=batch_idx < NUM_SAMPLES)

    @override
    def test_step(self, batch: SegmentBatch, batch_idx: int) -> None:
        self._evaluate(batch, "test", shown=batch_idx < NUM_SAMPLES)

    def folded(self) -> HifiGanModel:
        """Return a copy for use, which computes the same: without discriminators and weight norms."""
        made = HifiGanModel(preprocessor=self.preprocessor, generator=self.generator.folded())
        if self._cfg is not None:
            changes = {"generator": {"weight_norm": False}, "discriminators": None}
            config = OmegaConf.merge(self._cfg, changes)
            assert isinstance(config, DictConfig)
            made._cfg = config
        return made.to(self.device).eval()

    @override
    def save_to(
        self,
        save_path: str | Path,
        card: Mapping[str, Any] | None = None,
        extras: Callable[[Path], None] | None = None,
    ) -> Path:
        """Write the model for use, ``folded``, as an artefact; see Model.save_to."""
        if self.discriminators is None:
            return super().save_to(save_path, card, extras)
        made = self.folded()
        return made.save_to(save_path, {**(card or {}), "parameters": made.num_weights}, extras)

    def _discriminators_loss(self, batch: SegmentBatch) -> dict[str, Tensor]:
        assert self.discriminators is not None
        with torch.no_grad():
            made = self.resynthesize(audio=batch.audio, audio_lengths=batch.audio_lengths)
        loss = discriminators_loss(self.discriminators(batch.audio), self.discriminators(made))
        return {"train_discriminators_loss": loss}

    def _generator_loss(self, batch: SegmentBatch) -> dict[str, Tensor]:
        assert self.discriminators is not None
        made = self.resynthesize(audio=batch.audio, audio_lengths=batch.audio_lengths)
        with torch.no_grad():
            real = self.discriminators(batch.audio)
        judged = self.discriminators(made)
        spectral = self._spectral_losses(made, batch)
        feature, adversarial = feature_loss(real, judged), adversarial_loss(judged)
        return {
            **spectral,
            "train_loss": spectral["train_loss"] + adversarial + self.feature_weight * feature,
            "train_feature_loss": feature,
            "train_adversarial_loss": adversarial,
        }

    def _spectral_loss(self, batch: SegmentBatch) -> dict[str, Tensor]:
        made = self.resynthesize(audio=batch.audio, audio_lengths=batch.audio_lengths)
        return self._spectral_losses(made, batch)

    def _spectral_losses(self, made_BS: Tensor, batch: SegmentBatch) -> dict[str, Tensor]:
        mel = self._mel_distance(made_BS, batch)
        losses = {"train_loss": self.mel_weight * mel, "train_mel_loss": mel}
        if self.stft_weight:
            convergence, logarithms = stft_distances(made_BS, batch.audio)
            losses["train_stft_loss"] = convergence + logarithms
            losses["train_loss"] = losses["train_loss"] + self.stft_weight * losses["train_stft_loss"]
        return losses

    def _mel_distance(self, made_BS: Tensor, batch: SegmentBatch) -> Tensor:
        mels = [self.whole_band(audio=audio, audio_lengths=batch.audio_lengths)[0] for audio in (made_BS, batch.audio)]
        distance: Tensor = (mels[0] - mels[1]).abs().mean()
        return distance

    def _finite(self, compute: Losses) -> Losses:
        """Let what computes losses refuse a batch whose loss is none."""

        def checked(batch: SegmentBatch) -> Mapping[str, Tensor]:
            means = compute(batch)
            refuse_not_finite(self, next(iter(means.values())), batch.indices, "train")
            return means

        return checked

    def _evaluate(self, batch: SegmentBatch, stage: str, *, shown: bool) -> None:
        for row, length in enumerate(batch.audio_lengths.tolist()):  # a rank may get two, and padding would be heard
            self._compare(batch.audio[row : row + 1, :length], int(batch.indices[row]), stage, shown=shown)
        for name in _metrics():
            metric: Any = self.metrics[f"{stage}_{name}"]
            self.log_evaluation_mean(f"{stage}_{name}", metric, len(batch.indices), prog_bar=name == "mel_loss")

    def _compare(self, audio: Tensor, row: int, stage: str, *, shown: bool) -> None:
        """Measure what is made of the mel of one utterance (1, S)."""
        lengths = torch.tensor([audio.shape[1]], device=audio.device)
        made = self.resynthesize(audio=audio, audio_lengths=lengths)
        mels = [self.whole_band(audio=x, audio_lengths=lengths)[0] for x in (audio, made)]
        for name in _metrics():
            metric: Any = self.metrics[f"{stage}_{name}"]
            metric.update(mels[1], mels[0], lengths // self.preprocessor.hop_length)
        if shown:
            where = dataset_of(self, stage).manifest.where(row)
            self.keep_samples(stage, [self._sample(where, (audio[0], made[0]), (mels[0][0], mels[1][0]))])

    def _sample(self, where: str, sounds: tuple[Tensor, Tensor], mels: tuple[Tensor, Tensor]) -> Sample:
        parts: dict[str, Part] = {}
        for name, sound, mel in zip(("reference", "audio"), sounds, mels, strict=True):
            parts[name] = Sound(signal=sound.cpu().numpy(), sample_rate=self.sample_rate)
            parts[f"mel of {name}"] = Matrix(mel.cpu().numpy(), rows="mel", columns="frame")
        return Sample(where, float((mels[0] - mels[1]).abs().mean()), parts)


def _metrics() -> dict[str, Any]:
    return {"mel_loss": LogMelDistance(), "mcd": MelCepstralDistortion()}
