"""What keeps padding out of results: masks from lengths, and layers that know them."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase


def strided_lengths(lengths_B: Tensor, stride: int) -> Tensor:
    """Return the lengths behind a convolution with "same" padding: rounded up."""
    return torch.div(lengths_B + (stride - 1), stride, rounding_mode="floor")


LONGEST_FAST_KERNEL = 31
"""From 51 on, oneDNN 3.12 gives wrong weight gradients for the fast layout; dilated, it is slow."""


# B batch, T frames, D channels
class DepthwiseConv(nn.Module):
    """One filter a channel along time, on (B, T, D), with "same" padding. The caller masks its input.

    On the CPU, short filters are a 2-d convolution over a channels-last view: no copy, and two to four times as fast
    as ``Conv1d`` on a transposed tensor.
    """

    def __init__(self, channels: int, kernel_size: int, *, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd so that frames stay centred, not {kernel_size}")
        self.stride, self.dilation, self.padding = stride, dilation, dilation * (kernel_size - 1) // 2
        self.is_short = kernel_size <= LONGEST_FAST_KERNEL and dilation == 1
        conv = nn.Conv1d(channels, channels, kernel_size, groups=channels)  # for its initialisation
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, x_BTD: Tensor) -> Tensor:
        x_BDT, groups = x_BTD.transpose(1, 2), len(self.weight)
        if x_BTD.device.type == "cpu" and self.is_short:
            y_BDT1 = nn.functional.conv2d(
                x_BDT[..., None],
                self.weight[..., None],
                self.bias,
                stride=(self.stride, 1),
                padding=(self.padding, 0),
                groups=groups,
            )
            return y_BDT1[..., 0].transpose(1, 2)
        y_BDT = nn.functional.conv1d(
            x_BDT, self.weight, self.bias, self.stride, self.padding, self.dilation, groups=groups
        )
        return y_BDT.transpose(1, 2)


class MaskedBatchNorm(_NormBase):  # no BatchNorm1d: trainer.sync_batchnorm would replace it by one without a mask
    """Batch normalisation of (B, T, D) over the frames that are not padding.

    Statistics are those of this rank's part of the batch or, where ``over_ranks`` is set, of all ranks' parts.
    """

    over_ranks = False
    """Set by the model that trains, as ``trainer.sync_batchnorm`` says."""

    def forward(self, x_BTD: Tensor, mask_BT1: Tensor) -> Tensor:
        """Return the normalised frames; padded ones hold anything finite."""
        dtype = x_BTD.dtype
        assert self.running_mean is not None
        assert self.running_var is not None
        if self.training:
            x_BTD = x_BTD.float()
            count = self._total(mask_BT1.sum().float()).clamp(min=1)
            mean_D = self._total((x_BTD * mask_BT1).sum((0, 1))) / count
            centred = (x_BTD - mean_D) * mask_BT1
            variance_D = self._total(centred.square().sum((0, 1))) / count
            self._follow(mean_D.detach(), variance_D.detach() * (count / (count - 1).clamp(min=1)))
        else:
            centred, variance_D = x_BTD - self.running_mean, self.running_var
        scale_D = torch.rsqrt(variance_D + self.eps) * self.weight
        return torch.addcmul(self.bias, centred, scale_D).to(dtype)

    def _total(self, part: Tensor) -> Tensor:
        if not (self.over_ranks and dist.is_initialized()):
            return part
        total: Tensor = _SumOverRanks.apply(part)
        return total

    @torch.no_grad()
    def _follow(self, mean_D: Tensor, variance_D: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean_D, self.momentum)
        self.running_var.lerp_(variance_D, self.momentum)


class _SumOverRanks(torch.autograd.Function):
    """The sum of all ranks' tensors; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        total = part.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _SumOverRanks.forward(ctx, grad)


class MaskedLayerNorm(nn.LayerNorm):
    """Layer normalisation with the signature of ``MaskedBatchNorm``: each frame by itself, so no mask is needed."""

    def forward(self, x_BTD: Tensor, mask_BT1: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x_BTD)


def masked_norm(kind: str, channels: int) -> MaskedBatchNorm | MaskedLayerNorm:
    """Return the normalisation named ``batch`` or ``layer``."""
    return MaskedBatchNorm(channels) if kind == "batch" else MaskedLayerNorm(channels)
