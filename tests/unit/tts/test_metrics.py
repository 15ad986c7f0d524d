"""Metrics of made speech, against plain computations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.fft import dct

from rayconvai.tts.features import MelSpectrogram
from rayconvai.tts.griffin_lim import GriffinLim
from rayconvai.tts.metrics import (
    DurationError,
    LogMelDistance,
    MelCepstralDistortion,
    PitchError,
    VoicingError,
    aligned_distortion,
    warp,
)
from tests.unit.tts.tiny import RATE, hum


def mels(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) - 3


def test_distortion_is_that_of_cosine_transforms() -> None:
    made, real = mels(2, 80, 30, seed=0), mels(2, 80, 30, seed=1)
    lengths = torch.tensor([30, 11])
    metric = MelCepstralDistortion()
    for row in range(2):  # added up over batches
        metric.update(made[row : row + 1], real[row : row + 1], lengths[row : row + 1])
    distances = []
    for row, length in enumerate(lengths.tolist()):
        a, b = (dct(2 * mel[row, :, :length].double().numpy(), axis=0) / 160 for mel in (made, real))
        distances += (10 / math.log(10) * np.sqrt(2 * ((a - b)[1:25] ** 2).sum(0))).tolist()
    assert metric.compute() == pytest.approx(np.mean(distances), rel=1e-5)


def test_distortion_with_all_coefficients_is_the_difference_in_decibels() -> None:
    made, real = mels(1, 40, 7, seed=0), mels(1, 40, 7, seed=1)
    metric = MelCepstralDistortion(order=39)
    metric.update(made, real, torch.tensor([7]))
    decibels = 20 / math.log(10) * (made - real)[0].double()
    assert metric.compute() == pytest.approx(decibels.std(0, correction=0).mean().item(), rel=1e-5)


def test_warping_finds_the_cheapest_way() -> None:
    cost = np.random.default_rng(0).random((9, 6))
    total = np.full((9, 6), np.inf)
    for i in range(9):
        for j in range(6):
            before = [total[a, b] for a, b in ((i - 1, j), (i, j - 1), (i - 1, j - 1)) if a >= 0 and b >= 0]
            total[i, j] = cost[i, j] + (min(before) if before else 0)
    path = warp(cost)
    assert cost[path[:, 0], path[:, 1]].sum() == pytest.approx(total[-1, -1])
    slow = mels(80, 20, seed=2)
    assert aligned_distortion(slow.repeat_interleave(2, 1), slow) == pytest.approx(0, abs=1e-3)


def test_pitch_voicing_durations_and_mels() -> None:
    made = torch.tensor([[100.0, 200.0, 0.0, 150.0, 99.0]])
    real = torch.tensor([[100.0, 100.0, 120.0, 0.0, 50.0]])
    lengths = torch.tensor([4])
    expected = {PitchError: 1200 / math.sqrt(2), VoicingError: 0.5, DurationError: (100 + 120 + 150) / 4}
    for kind, value in expected.items():
        metric = kind()
        metric.update(made, real, lengths)
        assert metric.compute() == pytest.approx(value)
    distance = LogMelDistance()
    distance.update(torch.zeros(1, 2, 3), torch.tensor([[[1.0, 2.0, 9.0], [3.0, 0.0, 9.0]]]), torch.tensor([2]))
    assert distance.compute() == pytest.approx(1.5)


def test_griffin_lim_says_the_same_in_its_place() -> None:
    front = MelSpectrogram(sample_rate=RATE, n_fft=512, win_length=512, hop_length=128, num_mels=60, fmax=None)
    audio = hum(3, 128 * 60)[None] + 0.02 * torch.randn(1, 128 * 60, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([audio.shape[1]])
    mel, frames = front(audio=audio, audio_lengths=lengths)
    made = GriffinLim(front, iterations=30).convert_spectrogram_to_audio(mel).clone()
    assert made.shape == audio.shape
    again, _ = front(audio=made, audio_lengths=lengths)
    distance = LogMelDistance()
    distance.update(again, mel, frames)
    assert distance.compute() < 0.3
    # A burst stays where it is.
    burst = torch.zeros_like(audio)
    burst[0, 4000:4040] = audio[0, 4000:4040]
    mel, _ = front(audio=burst, audio_lengths=lengths)
    made = GriffinLim(front, iterations=10).convert_spectrogram_to_audio(mel)
    centre = (made[0].square() * torch.arange(made.shape[1])).sum() / made[0].square().sum()
    assert abs(centre - 4020) < 64
