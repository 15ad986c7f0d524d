"""The Conformer encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from rayconvai.asr.encoder import Encoder
from rayconvai.asr.masking import DepthwiseConv, masked_norm
from rayconvai.asr.position import RelativeBias, RelativeTable
from rayconvai.asr.subsampling import ImageStem, SignalStem
from rayconvai.core import typecheck
from rayconvai.core.attention import Rotary, length_mask, padding_scores, rotate
from rayconvai.core.dropout import Dropout
from rayconvai.errors import require_positive


@dataclass(frozen=True, kw_only=True)
class Variant:
    """How the parts of a Conformer are built; the sizes are the encoder's own arguments."""

    stem: Literal["signal", "image"] = "signal"
    """Subsampling by convolutions along time over the features as channels, or over the spectrogram as an image."""
    subsampling: int = 4
    """Feature frames for each frame that comes out: 2, 4 or 8."""
    position: Literal["rotary", "relative"] = "rotary"
    """Rotary, or Transformer-XL's relative positions, as in the paper."""
    conv_norm: Literal["layer", "batch"] = "layer"
    """Normalisation behind the depthwise convolution. The paper's is ``batch``, here over frames that are not
    padding. ``layer`` takes each frame by itself: training does not depend on who shares a batch or on the number of
    ranks, and training and use compute the same."""


# B batch, T frames, D model channels, H heads, K channels of a head
class ConformerEncoder(Encoder):
    """Conformer: blocks of half a feed-forward step, self-attention, convolution and half a feed-forward step.

    Args:
        in_features: features of a frame.
        d_model: channels between the blocks, a multiple of ``num_heads``.
        num_layers: blocks.
        num_heads: attention heads.
        ff_expansion: the feed-forward parts are this times as wide as ``d_model``.
        conv_kernel_size: frames (behind subsampling) that the depthwise convolution sees, odd.
        dropout: probability, at the places of the paper's figures.
        variant: how the parts are built.

    Raises:
        ValueError: sizes that do not fit together.

    Source: arXiv 2005.08100.
    """

    def __init__(
        self,
        *,
        in_features: int,
        d_model: int = 144,
        num_layers: int = 4,
        num_heads: int = 4,
        ff_expansion: int = 4,
        conv_kernel_size: int = 15,
        dropout: float = 0.1,
        variant: Variant = Variant(),  # frozen
    ) -> None:
        super().__init__(in_features, d_model, variant.subsampling)
        require_positive(d_model=d_model, num_layers=num_layers, num_heads=num_heads)
        require_positive(ff_expansion=ff_expansion, conv_kernel_size=conv_kernel_size)
        if d_model % num_heads:
            raise ValueError(f"d_model ({d_model}) must be a multiple of num_heads ({num_heads})")
        stem = SignalStem if variant.stem == "signal" else ImageStem
        self.stem = stem(in_features, d_model, variant.subsampling)
        self.dropout = Dropout(dropout)
        rotary = variant.position == "rotary"
        self.position = Rotary(d_model // num_heads) if rotary else RelativeTable(d_model)
        self.layers = nn.ModuleList(
            ConformerLayer(
                FeedForward(d_model, ff_expansion, dropout),
                SelfAttention(d_model, num_heads, rotary=rotary),
                Convolution(d_model, conv_kernel_size, variant.conv_norm),
                FeedForward(d_model, ff_expansion, dropout),
                dropout,
            )
            for _ in range(num_layers)
        )

    @typecheck()
    def forward(self, *, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return the encoded frames (B, T, D) and their lengths (B,); padded frames hold anything finite."""
        x_BTD, lengths_B = self.stem(features, lengths)
        x_BTD = self.dropout(x_BTD)
        frames = x_BTD.shape[1]
        mask_BT = length_mask(lengths_B, frames)
        mask_BT1 = mask_BT[..., None].to(x_BTD.dtype)
        padding = padding_scores(mask_BT, x_BTD.dtype)
        positions = self.position(frames)
        for layer in self.layers:
            x_BTD = layer(x_BTD, mask_BT1, padding, positions)
        return x_BTD, lengths_B


Positions = Tensor | tuple[Tensor, Tensor]


class ConformerLayer(nn.Module):
    """One block, with its residual connections."""

    def __init__(
        self,
        before: FeedForward,
        attention: SelfAttention,
        convolution: Convolution,
        after: FeedForward,
        dropout: float,
    ) -> None:
        super().__init__()
        self.before, self.attention, self.convolution, self.after = before, attention, convolution, after
        self.norm = nn.LayerNorm(before.norm.normalized_shape)
        self.dropout = Dropout(dropout)

    def forward(self, x_BTD: Tensor, mask_BT1: Tensor, padding: Tensor, positions: Positions) -> Tensor:
        x_BTD = self.dropout.add_to(x_BTD, self.before(x_BTD), alpha=0.5)
        x_BTD = self.dropout.add_to(x_BTD, self.attention(x_BTD, padding, positions))
        x_BTD = self.dropout.add_to(x_BTD, self.convolution(x_BTD, mask_BT1))
        x_BTD = self.dropout.add_to(x_BTD, self.after(x_BTD), alpha=0.5)
        return torch.as_tensor(self.norm(x_BTD))


class FeedForward(nn.Module):
    """Two linear layers with SiLU between them."""

    def __init__(self, d_model: int, expansion: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d_model)
        self.widen = nn.Linear(d_model, expansion * d_model)
        self.narrow = nn.Linear(expansion * d_model, d_model)
        self.dropout = Dropout(dropout)

    def forward(self, x_BTD: Tensor) -> Tensor:
        hidden = self.dropout(nn.functional.silu(self.widen(self.norm(x_BTD))))
        return torch.as_tensor(self.narrow(hidden))


class SelfAttention(nn.Module):
    """Multi-head self-attention with relative positions."""

    def __init__(self, d_model: int, num_heads: int, *, rotary: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(d_model)
        self.project = nn.Linear(d_model, 3 * d_model)
        self.relative = None if rotary else RelativeBias(d_model, num_heads)
        self.out = nn.Linear(d_model, d_model)

    def forward(self, x_BTD: Tensor, padding: Tensor, positions: Positions) -> Tensor:
        qkv_BTCHK = self.project(self.norm(x_BTD)).unflatten(-1, (3, self.num_heads, -1))
        bias = padding.to(qkv_BTCHK.dtype)
        if self.relative is None:
            assert isinstance(positions, tuple)
            qk_BTCHK = rotate(qkv_BTCHK[:, :, :2], positions)
            query, key = (part.transpose(1, 2) for part in qk_BTCHK.unbind(2))
            value = qkv_BTCHK[:, :, 2].transpose(1, 2)
        else:
            assert isinstance(positions, Tensor)
            query, key, value = (part.transpose(1, 2) for part in qkv_BTCHK.unbind(2))
            query, scores = self.relative(query, positions)
            bias = bias + scores
        mixed_BHTK = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return torch.as_tensor(self.out(mixed_BHTK.transpose(1, 2).flatten(2)))


class Convolution(nn.Module):
    """Gated pointwise, depthwise and pointwise convolution."""

    def __init__(self, d_model: int, kernel_size: int, norm: str) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d_model)
        self.gate = nn.Linear(d_model, 2 * d_model)
        self.depthwise = DepthwiseConv(d_model, kernel_size)
        self.conv_norm = masked_norm(norm, d_model)
        self.out = nn.Linear(d_model, d_model)

    def forward(self, x_BTD: Tensor, mask_BT1: Tensor) -> Tensor:
        gated = nn.functional.glu(self.gate(self.norm(x_BTD)), dim=-1) * mask_BT1
        mixed = self.conv_norm(self.depthwise(gated), mask_BT1)
        return torch.as_tensor(self.out(nn.functional.silu(mixed)))
