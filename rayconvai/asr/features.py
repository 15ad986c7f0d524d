"""Log-mel features from audio."""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from rayconvai.core import AudioSignal, LengthsType, MelSpectrogramType, NeuralModule, NeuralType, typecheck
from rayconvai.core.attention import length_mask
from rayconvai.data.audio import mel_filters
from rayconvai.errors import require_positive

LOG_FLOOR = 2.0**-24
"""Added to mel energies before the logarithm: below what 16-bit audio can hold."""
STD_FLOOR = 1e-5


# B batch, S samples, T frames, N samples of a window, F frequency bins, D mel features
class LogMel(NeuralModule):
    """Log-mel spectrogram, normalised per feature over each utterance's own frames.

    Frame ``t`` is the window centred on sample ``t * hop_length``; beyond both ends of an utterance there is silence.
    What stands in the padding of ``audio`` has no influence, so an utterance gives the same features alone and in a
    batch; padded frames are zero.

    Args:
        sample_rate: Hz of the audio that comes in.
        num_mels: number of features.
        n_fft: points of the Fourier transform, at least ``win_length``.
        win_length: samples of the (Hann) window, even.
        hop_length: samples from one frame to the next.
        dither: standard deviation of the noise added to the samples in training.
        preemphasis: coefficient of ``x[t] - c * x[t - 1]``; 0 turns it off.
        normalize: ``per_feature`` gives each feature of each utterance mean 0 and variance 1; ``none`` gives log
            energies.

    Raises:
        ValueError: lengths that do not fit together.

    Source: mel scale and filters of Slaney (1998), whose lowest filters are wide enough for a 512-point transform;
    normalisation as in Jasper (arXiv 1904.03288).
    """

    def __init__(
        self,
        *,
        sample_rate: int = 16_000,
        num_mels: int = 80,
        n_fft: int = 512,
        win_length: int = 400,
        hop_length: int = 160,
        dither: float = 1e-5,
        preemphasis: float = 0.97,
        normalize: Literal["per_feature", "none"] = "per_feature",
    ) -> None:
        super().__init__()
        require_positive(sample_rate=sample_rate, num_mels=num_mels)
        if not 0 < hop_length <= win_length <= n_fft or win_length % 2:
            raise ValueError(
                f"hop_length ({hop_length}) <= win_length ({win_length}, even) <= n_fft ({n_fft}) does not hold"
            )
        self.sample_rate, self.num_features = sample_rate, num_mels
        self.n_fft, self.win_length, self.hop_length = n_fft, win_length, hop_length
        self.dither, self.preemphasis, self.normalize = dither, preemphasis, normalize
        filters_FD = mel_filters(n_fft, num_mels, sample_rate, 0.0, sample_rate / 2)
        self.window_N: Tensor
        self.filters_FD: Tensor
        self.register_buffer("window_N", torch.hann_window(win_length), persistent=False)
        self.register_buffer("filters_FD", filters_FD, persistent=False)

    @cached_property
    def input_types(self) -> dict[str, NeuralType]:
        return {
            "audio": NeuralType(("B", "T"), AudioSignal(freq=self.sample_rate)),
            "audio_lengths": NeuralType(("B",), LengthsType()),
        }

    @cached_property
    def output_types(self) -> dict[str, NeuralType]:
        return {
            "features": NeuralType(("B", "T", f"D:{self.num_features}"), MelSpectrogramType()),
            "lengths": NeuralType(("B",), LengthsType()),
        }

    @typecheck()
    @torch.no_grad()
    def forward(self, *, audio: Tensor, audio_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (B, T, D) and their lengths (B,) in frames.

        They are computed in float32 or better, whatever the autocast, and come in the module's own precision.
        """
        lengths_B = torch.div(audio_lengths, self.hop_length, rounding_mode="floor") + 1
        with torch.autocast(audio.device.type, enabled=False):
            mel_BTD = self._mel(self._shape(audio.to(self._precision), audio_lengths))
            features_BTD = mel_BTD.add_(LOG_FLOOR).log_()
            mask_BT1 = length_mask(lengths_B, features_BTD.shape[1])[..., None].to(features_BTD.dtype)
            if self.normalize == "per_feature":
                features_BTD = _normalize(features_BTD, mask_BT1, lengths_B)
            return features_BTD.mul_(mask_BT1).to(self.filters_FD.dtype), lengths_B

    @property
    def _precision(self) -> torch.dtype:
        return torch.promote_types(self.filters_FD.dtype, torch.float32)

    def _shape(self, audio_BS: Tensor, lengths_B: Tensor) -> Tensor:
        """Dither, pre-emphasise, silence the padding, and add half a window at both ends."""
        if self.training and self.dither > 0:
            audio_BS = torch.randn_like(audio_BS).mul_(self.dither).add_(audio_BS)
        mask_BS = length_mask(lengths_B, audio_BS.shape[1])
        half = self.win_length // 2
        padded = nn.functional.pad(audio_BS * mask_BS, (half, half))
        if self.preemphasis > 0:
            emphasised = padded[:, half:-half] - self.preemphasis * padded[:, half - 1 : -half - 1]
            padded[:, half:-half] = emphasised.mul_(mask_BS)
        return padded

    def _mel(self, padded: Tensor) -> Tensor:
        frames_BTN = padded.unfold(1, self.win_length, self.hop_length) * self.window_N.to(padded.dtype)
        spectrum_BTF = torch.fft.rfft(frames_BTN, n=self.n_fft)
        power_BTF = spectrum_BTF.real.square() + spectrum_BTF.imag.square()
        return torch.matmul(power_BTF, self.filters_FD.to(power_BTF.dtype))


def _normalize(x_BTD: Tensor, mask_BT1: Tensor, lengths_B: Tensor) -> Tensor:
    counts_B11 = lengths_B[:, None, None].to(x_BTD.dtype)
    centred = x_BTD - (x_BTD * mask_BT1).sum(1, keepdim=True) / counts_B11
    variance = (centred * mask_BT1).square().sum(1, keepdim=True) / counts_B11
    return centred / (variance.sqrt() + STD_FLOOR)
