"""What tells real speech from made: HiFi-GAN's discriminators, by periods and by scales, and the losses from them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from rayconvai.errors import require_positive
from rayconvai.tts.hifigan import SLOPE

Judgement = list[Tensor]
"""What the layers of one discriminator make of a batch; the last one's is its score: 1 is real, 0 is made."""


# B batch, S samples, C channels, P period
class PeriodDiscriminator(nn.Module):
    """Sees every ``period``-th sample beside each other: convolutions along time, one column for each phase."""

    def __init__(self, period: int, channels: int) -> None:
        super().__init__()
        self.period = period
        widths = [1, channels, 4 * channels, 16 * channels, 32 * channels, 32 * channels]
        strides = [3, 3, 3, 3, 1]
        layers = [
            nn.Conv2d(before, after, (5, 1), (stride, 1), padding=(2, 0))
            for before, after, stride in zip(widths, widths[1:], strides, strict=False)
        ]
        self.layers = nn.ModuleList(weight_norm(layer) for layer in layers)
        self.score = weight_norm(nn.Conv2d(widths[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, audio_BS: Tensor) -> Judgement:
        audio_BS = functional.pad(audio_BS[:, None], (0, -audio_BS.shape[1] % self.period), mode="reflect")[:, 0]
        folded_BTP = audio_BS.reshape(len(audio_BS), -1, self.period)
        return _through(self.layers, self.score, folded_BTP[:, None])


class ScaleDiscriminator(nn.Module):
    """Sees the signal as it is, by strided and grouped convolutions."""

    def __init__(self, channels: int, *, by_spectrum: bool) -> None:
        super().__init__()
        norm = spectral_norm if by_spectrum else weight_norm
        widths = [1, *(channels * times for times in (1, 1, 2, 4, 8, 8, 8))]
        kernels, strides, groups = (15, 41, 41, 41, 41, 41, 5), (1, 2, 2, 4, 4, 1, 1), (1, 4, 16, 16, 16, 16, 1)
        layers = [
            nn.Conv1d(before, after, kernel, stride, padding=kernel // 2, groups=group)
            for before, after, kernel, stride, group in zip(widths, widths[1:], kernels, strides, groups, strict=False)
        ]
        self.layers = nn.ModuleList(norm(layer) for layer in layers)
        self.score = norm(nn.Conv1d(widths[-1], 1, 3, padding=1))

    def forward(self, audio_BS: Tensor) -> Judgement:
        return _through(self.layers, self.score, audio_BS[:, None])


class Discriminators(nn.Module):
    """All of them together.

    Args:
        periods: of the period discriminators.
        period_channels: of their first layer; the last have 32 times as many.
        scales: how many scale discriminators: the second hears the signal at half the rate, the third at a quarter.
        scale_channels: of their first layer, a multiple of 16; the last have 8 times as many.

    Raises:
        ValueError: sizes that cannot be.

    Source: HiFi-GAN (arXiv 2010.05646), section 2.3; scales as in MelGAN (arXiv 1910.06711).
    """

    def __init__(
        self,
        *,
        periods: Sequence[int] = (2, 3, 5, 7, 11),
        period_channels: int = 32,
        scales: int = 3,
        scale_channels: int = 128,
    ) -> None:
        super().__init__()
        require_positive(period_channels=period_channels, scale_channels=scale_channels)
        if scale_channels % 16:
            raise ValueError(f"scale_channels is {scale_channels}; it must be a multiple of 16, the groups of a layer")
        if not periods and not scales:
            raise ValueError("there is no discriminator: give periods, or scales above 0")
        self.by_period = nn.ModuleList(PeriodDiscriminator(period, period_channels) for period in periods)
        self.by_scale = nn.ModuleList(ScaleDiscriminator(scale_channels, by_spectrum=not at) for at in range(scales))

    def forward(self, audio_BS: Tensor) -> list[Judgement]:
        """Return what each one makes of audio (B, S)."""
        found = [one(audio_BS) for one in self.by_period]
        for one in self.by_scale:
            found.append(one(audio_BS))
            audio_BS = functional.avg_pool1d(audio_BS[:, None], 4, 2, padding=2)[:, 0]
        return found


def discriminators_loss(real: Sequence[Judgement], made: Sequence[Judgement]) -> Tensor:
    """Return how far the scores are from 1 for real speech and 0 for made: squares, summed over discriminators."""
    losses = [
        (1 - ours[-1].float()).square().mean() + theirs[-1].float().square().mean()
        for ours, theirs in zip(real, made, strict=True)
    ]
    return torch.stack(losses).sum()


def adversarial_loss(made: Sequence[Judgement]) -> Tensor:
    """Return how far the scores of made speech are from 1: squares, summed over discriminators (arXiv 1611.04076)."""
    return torch.stack([(1 - judgement[-1].float()).square().mean() for judgement in made]).sum()


def feature_loss(real: Sequence[Judgement], made: Sequence[Judgement]) -> Tensor:
    """Return the mean difference of each layer's outputs, summed over layers and discriminators (arXiv 1512.09300)."""
    losses = [
        (ours.float() - theirs.float()).abs().mean()
        for judgement, other in zip(real, made, strict=True)
        for ours, theirs in zip(judgement, other, strict=True)
    ]
    return torch.stack(losses).sum()


def _through(layers: nn.ModuleList, score: nn.Module, x: Tensor) -> Judgement:
    found = []
    for layer in layers:
        x = functional.leaky_relu(layer(x), SLOPE)
        found.append(x)
    return [*found, score(x).flatten(1)]
