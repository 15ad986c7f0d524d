"""Log-mel features."""

from __future__ import annotations

import pytest
import torch
import torchaudio
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rayconvai.asr.features import LOG_FLOOR, LogMel

EXACT = {"dither": 0.0, "preemphasis": 0.0}


def speech_like(samples: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(samples, generator=generator) * torch.linspace(0, 9, samples).sin()


def features_of(front: LogMel, *signals: Tensor) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([len(signal) for signal in signals])
    return front(audio=pad_sequence(list(signals), batch_first=True), audio_lengths=lengths)


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param({}, id="default"),
        pytest.param({"sample_rate": 8000, "num_mels": 40, "n_fft": 256, "win_length": 200, "hop_length": 80}, id="8k"),
        pytest.param({"n_fft": 400}, id="window_fills_the_transform"),
    ],
)
def test_log_energies_are_torchaudios(sizes: dict[str, int]) -> None:
    front = LogMel(normalize="none", **EXACT, **sizes).eval()
    reference = torchaudio.transforms.MelSpectrogram(
        front.sample_rate,
        n_fft=front.n_fft,
        win_length=front.win_length,
        hop_length=front.hop_length,
        n_mels=front.num_features,
        norm="slaney",
        mel_scale="slaney",
        pad_mode="constant",
    )
    audio = speech_like(12_345)
    features, lengths = features_of(front, audio)
    expected = torch.log(reference(audio) + LOG_FLOOR).T
    assert lengths.tolist() == [len(expected)]
    torch.testing.assert_close(features[0], expected, atol=1e-4, rtol=1e-4)


def test_preemphasis_is_torchaudios() -> None:
    audio = speech_like(4000)
    emphasised = torchaudio.functional.preemphasis(audio, 0.97)
    actual, _ = features_of(LogMel(normalize="none", dither=0.0).eval(), audio)
    expected, _ = features_of(LogMel(normalize="none", **EXACT).eval(), emphasised)
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


def test_normalisation_is_over_the_utterances_own_frames() -> None:
    features, lengths = features_of(LogMel().eval(), speech_like(16_000), speech_like(5000, seed=1))
    for utterance, length in zip(features, lengths, strict=True):
        own = utterance[:length]
        torch.testing.assert_close(own.mean(0), torch.zeros(80), atol=1e-3, rtol=0)
        torch.testing.assert_close(own.std(0, correction=0), torch.ones(80), atol=1e-2, rtol=0)
    assert features[1, lengths[1] :].abs().max() == 0


@pytest.mark.parametrize("normalize", ["per_feature", "none"])
def test_padding_has_no_influence(normalize: str) -> None:
    front = LogMel(normalize=normalize).eval()  # type: ignore[arg-type]
    short, long = speech_like(5001), speech_like(16_000, seed=1)
    alone, lengths = features_of(front, short)
    together, _ = features_of(front, short, long)
    torch.testing.assert_close(together[:1, : lengths[0]], alone, atol=1e-5, rtol=1e-5)
    junk = torch.full((1, 16_000), 9.0)
    junk[0, : len(short)] = short
    dirty, _ = front(audio=junk, audio_lengths=torch.tensor([len(short)]))
    torch.testing.assert_close(dirty[:, : lengths[0]], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("samples", [0, 1, 160, 16_000])
def test_silence_is_finite(samples: int) -> None:
    features, lengths = front_features = features_of(LogMel(dither=0.0), torch.zeros(samples))
    assert torch.isfinite(features).all(), front_features
    assert lengths.tolist() == [samples // 160 + 1]


def test_dither_is_for_training_only() -> None:
    front, audio = LogMel(dither=1e-2), speech_like(8000)
    assert not torch.equal(features_of(front, audio)[0], features_of(front, audio)[0])
    front.eval()
    assert torch.equal(features_of(front, audio)[0], features_of(front, audio)[0])


def test_lengths_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"hop_length \(500\)"):
        LogMel(hop_length=500)
