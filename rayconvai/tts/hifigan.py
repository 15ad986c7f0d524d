"""HiFi-GAN's generator: mel frames become samples by transposed convolutions and dilated residual blocks."""

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

    def __post_init__(self) -> None:
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel is {self.kernel}; it must be odd, so that frames stay in their place")


# B batch, S samples, T frames, C channels, D mel bands
class Generator(NeuralModule):
    """Mel spectrograms to audio.

    Args:
        num_mels: bands of the mel that comes in.
        sample_rate: Hz of the audio that goes out.
        channels: before the first upsampling; each halves them.
        upsample_rates: their product is the mel's hop length.
        upsample_kernels: of the transposed convolutions; each has the parity of its rate and is no shorter.
        blocks: residual blocks that stand side by side after each upsampling.
        paired: an undilated convolution stands behind each dilated one (block 1 of the paper), or does not (block 2).
        weight_norm: for training; without, for use, see ``folded``.

    Raises:
        ValueError: sizes that do not fit together.

    Source: HiFi-GAN (arXiv 2010.05646), section 2.2 and appendix A.1.
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
        paired: bool = True,
        weight_norm: bool = True,
    ) -> None:
        super().__init__()
        _check_sizes(channels, upsample_rates, upsample_kernels)
        self.num_mels, self.sample_rate, self.hop_length = num_mels, sample_rate, math.prod(upsample_rates)
        self.before = nn.Conv1d(num_mels, channels, 7, padding=3)
        self.stages = nn.ModuleList(
            Stage(channels >> step, rate, kernel, blocks, paired=paired)
            for step, (rate, kernel) in enumerate(zip(upsample_rates, upsample_kernels, strict=True))
        )
        self.after = nn.Conv1d(channels >> len(upsample_rates), 1, 7, padding=3)
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
        """Return audio (B, S), float32, between -1 and 1: ``hop_length`` samples for each frame."""
        x_BCT = self.before(mel)
        for stage in self.stages:
            x_BCT = stage(x_BCT)
        audio_BS: Tensor = self.after(functional.leaky_relu(x_BCT)).squeeze(1)
        return audio_BS.float().tanh()

    def folded(self) -> Self:
        """Return a copy for use, which computes the same: the norms are multiplied into the weights."""
        made = copy.deepcopy(self)
        for module in made.modules():
            if parametrize.is_parametrized(module):
                parametrize.remove_parametrizations(module, "weight")
        return made


class Stage(nn.Module):
    """An upsampling, and the mean of residual blocks side by side."""

    def __init__(self, channels: int, rate: int, kernel: int, blocks: Sequence[Block], *, paired: bool) -> None:
        super().__init__()
        padding = (kernel - rate) // 2
        self.upsampling = nn.ConvTranspose1d(channels, channels // 2, kernel, stride=rate, padding=padding)
        self.blocks = nn.ModuleList(ResidualBlock(channels // 2, block, paired=paired) for block in blocks)

    def forward(self, x_BCT: Tensor) -> Tensor:
        x_BCT = self.upsampling(functional.leaky_relu(x_BCT, SLOPE))
        return torch.stack([block(x_BCT) for block in self.blocks]).mean(0)


class ResidualBlock(nn.Module):
    """Dilated convolutions, each with a way around it."""

    def __init__(self, channels: int, block: Block, *, paired: bool) -> None:
        super().__init__()

        def convolution(dilation: int) -> list[nn.Module]:
            padding = dilation * (block.kernel - 1) // 2
            size = (channels, channels, block.kernel)
            return [nn.LeakyReLU(SLOPE), nn.Conv1d(*size, dilation=dilation, padding=padding)]

        self.steps = nn.ModuleList(
            nn.Sequential(*convolution(dilation), *(convolution(1) if paired else [])) for dilation in block.dilations
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
