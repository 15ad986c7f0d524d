"""Strided convolutions that bring the frame rate down in front of an encoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rayconvai.asr.masking import strided_lengths
from rayconvai.core.attention import length_mask

IMAGE_CHANNELS = 32


def halvings(subsampling: int) -> int:
    """Return how many strides of 2 make ``subsampling``."""
    if subsampling not in (2, 4, 8):
        raise ValueError(f"subsampling must be 2, 4 or 8, not {subsampling}")
    return subsampling.bit_length() - 1


# B batch, T frames, F features, C channels, D model channels
class SignalStem(nn.Module):
    """Convolutions of width 5 and stride 2 along time, features as channels, each with a gated linear unit.

    Source: the subsampler of arXiv 2010.05171; a tenth of the work of ``ImageStem`` on full channels. Windows are laid
    out for one matrix product, which is faster on the CPU than a strided convolution.
    """

    KERNEL = 5

    def __init__(self, in_features: int, d_model: int, subsampling: int) -> None:
        super().__init__()
        sizes = [in_features] + [d_model] * halvings(subsampling)
        self.convs = nn.ModuleList(nn.Linear(self.KERNEL * size, 2 * d_model) for size in sizes[:-1])

    def forward(self, x_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return (B, T', D) and the lengths."""
        for conv in self.convs:
            mask_BT1 = length_mask(lengths_B, x_BTF.shape[1])[..., None]
            half = self.KERNEL // 2
            padded = nn.functional.pad(x_BTF * mask_BT1, (0, 0, half, half))
            windows = padded.unfold(1, self.KERNEL, 2).transpose(2, 3).flatten(2)
            x_BTF = nn.functional.glu(conv(windows), dim=-1)
            lengths_B = strided_lengths(lengths_B, 2)
        return x_BTF, lengths_B


class ImageStem(nn.Module):
    """3x3 convolutions of stride 2 over time and features, each with SiLU, and a linear layer.

    Source: arXiv 2005.08100, with few channels, since the first, large maps are bound by memory.
    """

    def __init__(self, in_features: int, d_model: int, subsampling: int) -> None:
        super().__init__()
        count, height = halvings(subsampling), in_features
        self.convs = nn.ModuleList(
            nn.Conv2d(IMAGE_CHANNELS if index else 1, IMAGE_CHANNELS, 3, stride=2, padding=1) for index in range(count)
        )
        for _ in range(count):
            height = (height + 1) // 2
        self.out = nn.Linear(IMAGE_CHANNELS * height, d_model)

    def forward(self, x_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return (B, T', D) and the lengths."""
        x_BCTF = x_BTF[:, None]
        for conv in self.convs:
            mask_B1T1 = length_mask(lengths_B, x_BCTF.shape[2])[:, None, :, None]
            x_BCTF = nn.functional.silu(conv(x_BCTF * mask_B1T1))
            lengths_B = strided_lengths(lengths_B, 2)
        return torch.as_tensor(self.out(x_BCTF.transpose(1, 2).flatten(2))), lengths_B
