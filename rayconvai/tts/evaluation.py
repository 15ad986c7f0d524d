"""What a step of FastPitch came to: figures, and what can be seen and heard of it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rayconvai.core.sample import Curve, Matrix, Part, Sound
from rayconvai.data.manifest import Utterance
from rayconvai.tts.alignment import monotonicity, sharpness
from rayconvai.tts.features import MelSpectrogram
from rayconvai.tts.griffin_lim import GriffinLim
from rayconvai.tts.losses import token_means
from rayconvai.tts.prosody import ProsodyTargets

MEASURES = ("mel_loss", "duration_error", "pitch_error", "sharpness", "monotonicity")
"""Durations in milliseconds a token and pitch in Hz, means of their absolute errors; ``sharpness`` and ``monotonicity``
are shares, 1 at best (``alignment.py``). Means over utterances."""


# B batch, T frames, U tokens, D mel bands
class Step(NamedTuple):
    """What a batch came to."""

    losses: dict[str, Tensor]
    """By the names of their weights."""
    mel: Tensor
    """(B, D, T)"""
    lengths: Tensor
    """(B,)"""
    predicted: Tensor
    """(B, D, T)"""
    log_soft: Tensor
    """(B, T, U)"""
    alignment: Tensor
    """(B, T, U)"""
    durations: Tensor
    """(B, U)"""
    log_durations: Tensor
    """(B, U)"""
    pitch: Tensor
    """(B, U), in standard deviations."""
    own_pitch: Tensor
    """(B, U), predicted."""


def measures(
    step: Step, token_lengths_B: Tensor, targets: ProsodyTargets, preprocessor: MelSpectrogram
) -> dict[str, Tensor]:
    """Return the figures that are named in ``MEASURES``."""
    frame_ms = 1000 * preprocessor.hop_length / preprocessor.sample_rate
    late_BU = (torch.expm1(step.log_durations).clamp(min=0) - step.durations).abs()
    voiced_BU = step.pitch != 0
    wrong_BU = (step.own_pitch - step.pitch).abs() * targets.deviation * voiced_BU
    return {
        "mel_loss": step.losses["mel"],
        "duration_error": frame_ms * token_means(late_BU, token_lengths_B).mean(),
        "pitch_error": (wrong_BU.sum(1) / voiced_BU.sum(1).clamp(min=1)).mean(),
        "sharpness": sharpness(step.log_soft, step.alignment, step.lengths).mean(),
        "monotonicity": monotonicity(step.log_soft, step.lengths).mean(),
    }


def shown(
    step: Step, i: int, count: int, utterance: Utterance, spoken_1DT: Tensor, preprocessor: MelSpectrogram
) -> dict[str, Part]:
    """Return what can be seen and heard of an example of a batch.

    Args:
        step: of the batch.
        i: the example.
        count: its tokens.
        utterance: its recording.
        spoken_1DT: the mel spectrogram of its text alone.
        preprocessor: of the spectrograms.
    """
    length = int(step.lengths[i])
    sound = GriffinLim(preprocessor).convert_spectrogram_to_audio(spec=spoken_1DT)[0]
    pitch = {"true": step.pitch, "predicted": step.own_pitch}
    return {
        "audio": Sound(str(utterance.audio_filepath), utterance.offset, utterance.duration),
        "synthesized": Sound(signal=sound.cpu().numpy(), sample_rate=preprocessor.sample_rate),
        "mel": Matrix(step.mel[i, :, :length].cpu().numpy(), "mel", "frames"),
        "predicted": Matrix(step.predicted[i, :, :length].cpu().numpy(), "mel", "frames"),
        "alignment": Matrix(step.log_soft[i, :length, :count].exp().T.cpu().numpy(), "tokens", "frames"),
        "pitch": Curve(
            {name: values[i, :count].cpu().numpy() for name, values in pitch.items()}, "tokens", "standard deviations"
        ),
    }
