"""The QuartzNet encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

from torch import Tensor, nn

from rayconvai.asr.encoder import Encoder
from rayconvai.asr.masking import DepthwiseConv, masked_norm, strided_lengths
from rayconvai.core import typecheck
from rayconvai.core.attention import length_mask
from rayconvai.core.dropout import Dropout
from rayconvai.errors import require_positive


@dataclass(frozen=True, kw_only=True)
class Block:
    """A block of separable convolutions with ReLU between them."""

    channels: int
    kernel_size: int
    """Frames, odd."""
    repeat: int = 1
    """Convolutions in a row."""
    stride: int = 1
    """Of the first convolution."""
    dilation: int = 1
    residual: bool = True
    """Add the block's input, through a pointwise convolution, before the last ReLU. Needs stride 1."""

    def __post_init__(self) -> None:
        require_positive(channels=self.channels, kernel_size=self.kernel_size, repeat=self.repeat)
        require_positive(stride=self.stride, dilation=self.dilation)
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd so that frames stay centred, not {self.kernel_size}")
        if self.residual and self.stride != 1:
            raise ValueError("a block with a stride cannot have a residual connection; set residual=false")


SMALL = (
    Block(channels=192, kernel_size=33, stride=2, residual=False),
    Block(channels=192, kernel_size=33, repeat=3),
    Block(channels=192, kernel_size=39, repeat=3),
    Block(channels=384, kernel_size=51, repeat=3),
    Block(channels=384, kernel_size=63, repeat=3),
    Block(channels=384, kernel_size=87, dilation=2, residual=False),
)


# B batch, T frames, D channels
class QuartzNetEncoder(Encoder):
    """QuartzNet: residual blocks of convolutions, each split into one along time and one across channels.

    Args:
        in_features: features of a frame.
        blocks: from the input to the output.
        dropout: probability behind each ReLU.
        norm: normalisation behind each convolution: ``batch``, over frames that are not padding, as in the paper, or
            ``layer``, each frame by itself.

    Source: arXiv 1910.10261.
    """

    def __init__(
        self,
        *,
        in_features: int,
        blocks: Sequence[Block] = SMALL,
        dropout: float = 0.0,
        norm: Literal["batch", "layer"] = "batch",
    ) -> None:
        if not blocks:
            raise ValueError("blocks is empty; give at least one block")
        super().__init__(in_features, blocks[-1].channels, prod(block.stride for block in blocks))
        sizes = [in_features, *(block.channels for block in blocks)]
        self.blocks = nn.ModuleList(
            QuartzNetBlock(size, block, dropout, norm) for size, block in zip(sizes, blocks, strict=False)
        )

    @typecheck()
    def forward(self, *, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return the encoded frames (B, T, D) and their lengths (B,); padded frames hold anything finite."""
        x_BTD = features
        for block in self.blocks:
            x_BTD, lengths = block(x_BTD, lengths)
        return x_BTD, lengths


class QuartzNetBlock(nn.Module):
    """One block."""

    def __init__(self, in_channels: int, block: Block, dropout: float, norm: str) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            SeparableConv(block.channels if index else in_channels, block, norm, stride=1 if index else block.stride)
            for index in range(block.repeat)
        )
        self.shortcut = nn.Linear(in_channels, block.channels, bias=False) if block.residual else None
        self.shortcut_norm = masked_norm(norm, block.channels) if block.residual else None
        self.dropout = Dropout(dropout)

    def forward(self, x_BTD: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        shortcut_BTD = None
        if self.shortcut is not None and self.shortcut_norm is not None:
            shortcut_BTD = self.shortcut_norm(self.shortcut(x_BTD), _mask(lengths_B, x_BTD))
        for index, conv in enumerate(self.convs):
            if index:
                x_BTD = self.dropout(nn.functional.relu(x_BTD))
            x_BTD, lengths_B = conv(x_BTD, lengths_B)
        if shortcut_BTD is not None:
            x_BTD = x_BTD + shortcut_BTD
        return self.dropout(nn.functional.relu(x_BTD)), lengths_B


class SeparableConv(nn.Module):
    """A depthwise and a pointwise convolution, and the normalisation behind them."""

    def __init__(self, in_channels: int, block: Block, norm: str, *, stride: int) -> None:
        super().__init__()
        self.depthwise = DepthwiseConv(in_channels, block.kernel_size, stride=stride, dilation=block.dilation)
        self.pointwise = nn.Linear(in_channels, block.channels, bias=False)
        self.norm = masked_norm(norm, block.channels)

    def forward(self, x_BTD: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        x_BTD = self.pointwise(self.depthwise(x_BTD * _mask(lengths_B, x_BTD)))
        lengths_B = strided_lengths(lengths_B, self.depthwise.stride)
        return self.norm(x_BTD, _mask(lengths_B, x_BTD)), lengths_B


def _mask(lengths_B: Tensor, x_BTD: Tensor) -> Tensor:
    return length_mask(lengths_B, x_BTD.shape[1])[..., None].to(x_BTD.dtype)
