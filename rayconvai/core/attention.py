"""What self-attention needs in any collection: masks from lengths, and rotary positions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

Positions = tuple[Tensor, Tensor]
"""Cosines and signed sines, each (T, 1, 1, K)."""
NEVER = -1e4
"""Attention score of a padded frame: the softmax of it is exactly 0, and a row of nothing else is not NaN."""


# B batch, T frames or tokens, H heads, K channels of a head
def length_mask(lengths_B: Tensor, size: int) -> Tensor:
    """Return (B, size) booleans: True within each length."""
    return torch.arange(size, device=lengths_B.device) < lengths_B[:, None]


def padding_scores(mask_BT: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the additive attention mask (B, 1, 1, T) of key padding."""
    scores = torch.zeros(mask_BT.shape, dtype=dtype, device=mask_BT.device)
    return scores.masked_fill_(~mask_BT, NEVER)[:, None, None]


class Rotary(nn.Module):
    """Rotary positions (arXiv 2104.09864): pairs of channels of queries and keys turn with time."""

    def __init__(self, head_dim: int, base: float = 10_000.0) -> None:
        super().__init__()
        if head_dim % 2:
            raise ValueError(f"rotary positions need an even number of channels a head, not {head_dim}")
        self.rates_K: Tensor
        rates = base ** (-torch.arange(0, head_dim, 2) / head_dim)
        self.register_buffer("rates_K", rates, persistent=False)

    def forward(self, frames: int) -> Positions:
        """Return the turns of the first so many positions, once for all layers."""
        angles = torch.outer(torch.arange(frames, device=self.rates_K.device, dtype=torch.float32), self.rates_K)
        cos, sin = angles.cos(), angles.sin()
        return torch.cat((cos, cos), -1)[:, None, None], torch.cat((-sin, sin), -1)[:, None, None]


def rotate(x_BTCHK: Tensor, table: Positions) -> Tensor:
    """Turn the channel pairs (k, k + K/2) of queries and keys, (B, T, 2, H, K)."""
    cos, sin = (part.to(x_BTCHK.dtype) for part in table)
    return torch.addcmul(x_BTCHK * cos, x_BTCHK.roll(x_BTCHK.shape[-1] // 2, -1), sin)
