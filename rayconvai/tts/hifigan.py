"""HiFi-GAN's generator: mel frames become audio by transposed convolutions and dilated residual blocks."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm as add_weight_norm
from typing_extensions import Self

from rayconvai.core import AudioSignal, MelSpectrogramType, NeuralModule, NeuralType, typecheck

SLOPE = 0.1
"""Of the leaky rectifiers."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """The sizes of a residual block."""

    kernel: int
    dilations: tuple[int, ...]
    """Of its convolutions, one after the other."""
    paired: bool = True
    """An undilated convolution stands behind each dilated one (block 1 of the paper), or does not (block 2)."""

    def __post_init__(self) -> None:
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel is {self.kernel}; it must be odd, so that frames stay in their place")


@dataclass(frozen=True, kw_only=True)
class Istft:
    """The sizes of an inverse short-time Fourier transform."""

    n_fft: int
    """Points, and samples of the (Hann) window."""
    hop_length: int

    def __post_init__(self) -> None:
        if self.n_fft % 2 or not 0 < self.hop_length <= self.n_fft // 2:
            raise ValueError(f"hop_length ({self.hop_length}) must be at most half of an even n_fft ({self.n_fft})")


# B batch, S samples, T frames, C channels, D mel bands, F frequency bins
class Generator(NeuralModule):
    """Mel spectrograms to audio.

    Args:
        num_mels: bands of the mel that comes in.
        sample_rate: Hz of the audio that goes out.
        channels: before the first upsampling; each halves them.
        upsample_rates: their product, times ``istft.hop_length``, is the mel's hop length.
        upsample_kernels: of the transposed convolutions; each has the parity of its rate and is no shorter.
        blocks: residual blocks that stand side by side after each upsampling.
        istft: null: the last convolution makes samples, as published. Else it makes magnitudes and phases, which an
            inverse short-time Fourier transform makes samples of; it stands for the last upsamplings, the costly ones.
        weight_norm: for training; without, for use, see ``folded``.

    Raises:
        ValueError: sizes that do not fit together.

    Source: HiFi-GAN (arXiv 2010.05646), section 2.2 and appendix A.1; iSTFTNet (arXiv 2203.02395), section 2.
    """

    def __init__(
        self,
        *,
        num_mels: int,
        sample_rate: int,
        channels: int,
        upsample_rates: Sequence[int],
        upsample_kernels: Sequence[int],
        blocks: Sequence[Block],
        istft: Istft | None = None,
        weight_norm: bool = True,
    ) -> None:
        super().__init__()
        _check_sizes(channels, upsample_rates, upsample_kernels)
        self.num_mels, self.sample_rate = num_mels, sample_rate
        self.hop_length = math.prod(upsample_rates) * (istft.hop_length if istft else 1)
        self.before = nn.Conv1d(num_mels, channels, 7, padding=3)
        self.stages = nn.ModuleList(
            Stage(channels >> step, rate, kernel, blocks)
            for step, (rate, kernel) in enumerate(zip(upsample_rates, upsample_kernels, strict=True))
        )
        self.after = nn.Conv1d(channels >> len(upsample_rates), istft.n_fft + 2 if istft else 1, 7, padding=3)
        self.inverse = InverseSpectrum(istft) if istft else None
        for module in [self.after, *self.stages.modules()]:
            if isinstance(module, (nn.Conv1d, nn.ConvTranspose1d)):
                nn.init.normal_(module.weight, 0.0, 0.01)
        if weight_norm:
            for module in list(self.modules()):
                if isinstance(module, (nn.Conv1d, nn.ConvTranspose1d)):
                    add_weight_norm(module)

    @cached_property
    def input_types(self) -> dict[str, NeuralType]:
        return {"mel": NeuralType(("B", f"D:{self.num_mels}", "T"), MelSpectrogramType())}

    @cached_property
    def output_types(self) -> dict[str, NeuralType]:
        return {"audio": NeuralType(("B", "T"), AudioSignal(freq=self.sample_rate))}

    @typecheck()
    def forward(self, *, mel: Tensor) -> Tensor:
        """Return audio (B, S), float32: ``hop_length`` samples for each frame; without ``istft`` between -1 and 1."""
        x_BCT = self.before(mel)
        for stage in self.stages:
            x_BCT = stage(x_BCT)
        x_BCT = self.after(functional.leaky_relu(x_BCT)).float()
        audio_BS: Tensor = x_BCT.squeeze(1).tanh() if self.inverse is None else self.inverse(x_BCT)
        return audio_BS

    def folded(self) -> Self:
        """Return a copy for use, which computes the same: the norms are multiplied into the weights."""
        made = copy.deepcopy(self)
        for module in made.modules():
            if parametrize.is_parametrized(module):
                parametrize.remove_parametrizations(module, "weight")
        return made


class InverseSpectrum(nn.Module):
    """Log magnitudes and phases, one above the other in the channels, to samples: ``hop_length`` for each frame.

    As torch.istft, which cannot be traced without data.
    """

    def __init__(self, sizes: Istft) -> None:
        super().__init__()
        self.sizes = sizes
        self.loudest = math.log(sizes.n_fft)  # signals between -1 and 1 have half of n_fft at most, the window's sum
        self.window: Tensor
        self.register_buffer("window", torch.hann_window(sizes.n_fft), persistent=False)

    def forward(self, x_BCT: Tensor) -> Tensor:
        x_BCT = functional.pad(x_BCT, (0, 1), mode="replicate")  # the last samples lie between two frames' centres
        log_BFT, phase_BFT = x_BCT.chunk(2, dim=1)
        spectrum_BFT = torch.polar(log_BFT.clamp(max=self.loudest).exp(), math.pi * phase_BFT.sin())
        window_N1 = self.window[:, None]
        frames_BNT = torch.fft.irfft(spectrum_BFT, n=self.sizes.n_fft, dim=1) * window_N1
        envelope_BNT = window_N1.square().expand_as(frames_BNT[:1])
        return self._overlapped(frames_BNT) / self._overlapped(envelope_BNT)

    def _overlapped(self, frames_BNT: Tensor) -> Tensor:
        """Add frames up, each ``hop_length`` after the one before; half a frame at both ends is cut."""
        n_fft, hop_length = self.sizes.n_fft, self.sizes.hop_length
        samples = n_fft + hop_length * (frames_BNT.shape[-1] - 1)
        added_BS = functional.fold(frames_BNT, (1, samples), (1, n_fft), stride=(1, hop_length))[:, 0, 0]
        return added_BS[:, n_fft // 2 : samples - n_fft // 2]


class Stage(nn.Module):
    """An upsampling, and the mean of residual blocks side by side."""

    def __init__(self, channels: int, rate: int, kernel: int, blocks: Sequence[Block]) -> None:
        super().__init__()
        padding = (kernel - rate) // 2
        self.upsampling = nn.ConvTranspose1d(channels, channels // 2, kernel, stride=rate, padding=padding)
        self.blocks = nn.ModuleList(ResidualBlock(channels // 2, block) for block in blocks)

    def forward(self, x_BCT: Tensor) -> Tensor:
        x_BCT = self.upsampling(functional.leaky_relu(x_BCT, SLOPE))
        return torch.stack([block(x_BCT) for block in self.blocks]).mean(0)


class ResidualBlock(nn.Module):
    """Dilated convolutions, each with a way around it."""

    def __init__(self, channels: int, block: Block) -> None:
        super().__init__()

        def convolution(dilation: int) -> list[nn.Module]:
            padding = dilation * (block.kernel - 1) // 2
            size = (channels, channels, block.kernel)
            return [nn.LeakyReLU(SLOPE), nn.Conv1d(*size, dilation=dilation, padding=padding)]

        self.steps = nn.ModuleList(
            nn.Sequential(*convolution(dilation), *(convolution(1) if block.paired else []))
            for dilation in block.dilations
        )

    def forward(self, x_BCT: Tensor) -> Tensor:
        for step in self.steps:
            x_BCT = x_BCT + step(x_BCT)
        return x_BCT


def _check_sizes(channels: int, upsample_rates: Sequence[int], upsample_kernels: Sequence[int]) -> None:
    if len(upsample_rates) != len(upsample_kernels):
        raise ValueError(f"upsample_rates and upsample_kernels have {len(upsample_rates)} and {len(upsample_kernels)}")
    if channels % (1 << len(upsample_rates)) or channels < 1:
        raise ValueError(f"channels ({channels}) cannot be halved {len(upsample_rates)} times, once an upsampling")
    for rate, kernel in zip(upsample_rates, upsample_kernels, strict=True):
        if kernel < rate or (kernel - rate) % 2:
            raise ValueError(f"upsample_kernels: {kernel} must be {rate}, its rate, or more by an even number")
