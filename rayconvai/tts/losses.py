"""What synthesizers of spectrograms and vocoders make smaller."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rayconvai.core import (
    LengthsType,
    Loss,
    LossType,
    MelSpectrogramType,
    NeuralType,
    RegressionValuesType,
    TokenDurationType,
    TokenLogDurationType,
    typecheck,
)
from rayconvai.core.attention import length_mask


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What each part counts in the loss."""

    mel: float = 1.0
    duration: float = 0.1
    pitch: float = 0.1
    energy: float = 0.1
    alignment: float = 1.0
    """Of the sum over all alignments."""
    binarization: float = 1.0
    """Of the soft alignment's distance from the hard one."""
    binarization_steps: int = 10_000
    """Optimizer steps in which the weight of binarization grows from 0 to its own."""


PUBLISHED = Weights()
SILENT = 1e-2
"""Root mean square magnitude of a spectrum, of audio between -1 and 1, below which errors count as they do there."""
RESOLUTIONS = ((512, 128), (1024, 256), (2048, 512))
"""Points of the Fourier transforms and hops that audio is compared at."""


# B batch, T frames, U tokens, D mel bands
class MelLoss(Loss):
    """The mean over a batch of each utterance's squared error, over its own frames and bands."""

    input_types = {
        "predicted": NeuralType(("B", "D", "T"), MelSpectrogramType()),
        "mel": NeuralType(("B", "D", "T"), MelSpectrogramType()),
        "lengths": NeuralType(("B",), LengthsType()),
    }
    output_types = {"loss": NeuralType((), LossType())}

    @typecheck()
    def forward(self, *, predicted: Tensor, mel: Tensor, lengths: Tensor) -> Tensor:
        """Return the loss, a scalar."""
        return mel_errors(predicted, mel, lengths).mean()


def mel_errors(predicted_BDT: Tensor, mel_BDT: Tensor, lengths_B: Tensor) -> Tensor:
    """Return the mean squared error of each utterance (B,)."""
    squared_BT = (predicted_BDT - mel_BDT).square().mean(1)
    return (squared_BT * length_mask(lengths_B, squared_BT.shape[1])).sum(1) / lengths_B


class TokenLoss(Loss):
    """The mean over a batch of each utterance's squared error, over its tokens."""

    input_types = {
        "predicted": NeuralType(("B", "T"), RegressionValuesType()),
        "values": NeuralType(("B", "T"), RegressionValuesType()),
        "token_lengths": NeuralType(("B",), LengthsType()),
    }
    output_types = {"loss": NeuralType((), LossType())}

    @typecheck()
    def forward(self, *, predicted: Tensor, values: Tensor, token_lengths: Tensor) -> Tensor:
        """Return the loss, a scalar."""
        return token_means((predicted - values).square(), token_lengths).mean()


class DurationLoss(Loss):
    """The mean over a batch of each utterance's squared error of log(1 + frames), over its tokens."""

    input_types = {
        "log_durations": NeuralType(("B", "T"), TokenLogDurationType()),
        "durations": NeuralType(("B", "T"), TokenDurationType()),
        "token_lengths": NeuralType(("B",), LengthsType()),
    }
    output_types = {"loss": NeuralType((), LossType())}

    @typecheck()
    def forward(self, *, log_durations: Tensor, durations: Tensor, token_lengths: Tensor) -> Tensor:
        """Return the loss, a scalar."""
        return token_means((log_durations - torch.log1p(durations.float())).square(), token_lengths).mean()


def token_means(values_BU: Tensor, token_lengths_B: Tensor) -> Tensor:
    """Return the mean over each utterance's tokens (B,)."""
    return (values_BU * length_mask(token_lengths_B, values_BU.shape[1])).sum(1) / token_lengths_B


def stft_distances(made_BS: Tensor, real_BS: Tensor) -> tuple[Tensor, Tensor]:
    """Return how far made audio's spectra are from those of real audio: means over utterances and three resolutions.

    The first is the spectral convergence: the norm of the difference of magnitudes, in parts of the real magnitudes'
    norm. The second is the mean difference of log magnitudes.

    Source: Parallel WaveGAN (arXiv 1910.11480), equations 4 to 6.
    """
    convergence, logarithms = [], []
    for points, hop in RESOLUTIONS:
        window = torch.hann_window(points, device=real_BS.device)
        made, real = (
            torch.stft(x.float(), points, hop, window=window, pad_mode="constant", return_complex=True)
            .abs()
            .clamp(min=1e-4)
            for x in (made_BS, real_BS)
        )
        least = SILENT * real[0].numel() ** 0.5
        convergence.append(((real - made).norm(dim=(1, 2)) / real.norm(dim=(1, 2)).clamp(min=least)).mean())
        logarithms.append((real.log() - made.log()).abs().mean())
    return torch.stack(convergence).mean(), torch.stack(logarithms).mean()
