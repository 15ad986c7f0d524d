"""Mel spectrograms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchaudio
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rayconvai.tts.features import FLOOR, SILENCE, MelSpectrogram

SMALL = {"sample_rate": 16_000, "n_fft": 512, "win_length": 400, "hop_length": 128, "num_mels": 40, "fmax": None}


def speech_like(samples: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(samples, generator=generator) * torch.linspace(0, 9, samples).sin()


def mels_of(front: MelSpectrogram, *signals: Tensor) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([len(signal) for signal in signals])
    return front(audio=pad_sequence(list(signals), batch_first=True), audio_lengths=lengths)


@pytest.mark.parametrize("sizes", [pytest.param({}, id="published"), pytest.param(SMALL, id="window_in_transform")])
def test_mels_are_torchaudios(sizes: dict[str, Any]) -> None:
    front = MelSpectrogram(**sizes)
    reference = torchaudio.transforms.MelSpectrogram(
        front.sample_rate,
        n_fft=front.n_fft,
        win_length=front.win_length,
        hop_length=front.hop_length,
        f_min=front.fmin,
        f_max=front.fmax,
        n_mels=front.num_mels,
        power=1.0,
        norm="slaney",
        mel_scale="slaney",
        center=False,
    )
    audio, margin = speech_like(12_345), (front.n_fft - front.hop_length) // 2
    mel, lengths = mels_of(front, audio)
    mirrored = torch.nn.functional.pad(audio[None], (margin, margin), mode="reflect")
    torch.testing.assert_close(mel, reference(mirrored).clamp(min=FLOOR).log(), atol=2e-3, rtol=1e-3)
    assert lengths.tolist() == [12_345 // front.hop_length] == [mel.shape[-1]]


def test_alone_as_in_a_batch() -> None:
    front, signals = MelSpectrogram(**SMALL), [speech_like(length, length) for length in (9000, 5000, 130, 100)]
    together, lengths = mels_of(front, *signals)
    assert lengths.tolist() == [70, 39, 1, 0]
    for row, (signal, length) in enumerate(zip(signals[:3], lengths.tolist(), strict=False)):
        alone, _ = mels_of(front, signal)
        torch.testing.assert_close(together[row, :, :length], alone[0])
        assert (together[row, :, length:] == SILENCE).all()


def test_gradients_of_silence_are_finite() -> None:
    audio = torch.zeros(1, 2048, requires_grad=True)
    mel, _ = MelSpectrogram()(audio=audio, audio_lengths=torch.tensor([2048]))
    mel.sum().backward()
    assert audio.grad is not None
    assert audio.grad.isfinite().all()


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"hop_length": 2048}, "hop_length"),
        ({"hop_length": 255}, "even"),
        ({"sample_rate": 8000}, "fmax"),
        ({"num_mels": 0}, "num_mels"),
    ],
)
def test_sizes_that_cannot_be(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MelSpectrogram(**sizes)
