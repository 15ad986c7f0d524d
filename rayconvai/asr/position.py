"""Relative positions for self-attention: rotary, and Transformer-XL's."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

NEVER = -1e4
"""Attention score of a padded frame: the softmax of it is exactly 0, and a row of nothing else is not NaN."""


# B batch, T frames, H heads, K channels of a head, D model channels, R = 2T - 1 distances
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

    def forward(self, frames: int) -> tuple[Tensor, Tensor]:
        """Return cosines and signed sines, each (T, 1, 1, K), once for all layers."""
        angles = torch.outer(torch.arange(frames, device=self.rates_K.device, dtype=torch.float32), self.rates_K)
        cos, sin = angles.cos(), angles.sin()
        return torch.cat((cos, cos), -1)[:, None, None], torch.cat((-sin, sin), -1)[:, None, None]


def rotate(x_BTCHK: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Turn the channel pairs (k, k + K/2) of queries and keys, (B, T, 2, H, K)."""
    cos, sin = (part.to(x_BTCHK.dtype) for part in table)
    return torch.addcmul(x_BTCHK * cos, x_BTCHK.roll(x_BTCHK.shape[-1] // 2, -1), sin)


class RelativeTable(nn.Module):
    """Sinusoids of the distances T-1 ... -(T-1), (R, D), once for all layers."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.rates_D: Tensor
        rates = torch.exp(torch.arange(0, d_model, 2) * (-math.log(10_000.0) / d_model))
        self.register_buffer("rates_D", rates, persistent=False)

    def forward(self, frames: int) -> Tensor:
        distances = torch.arange(frames - 1, -frames, -1, device=self.rates_D.device, dtype=torch.float32)
        angles = torch.outer(distances, self.rates_D)
        return torch.stack((angles.sin(), angles.cos()), -1).flatten(1)


class RelativeBias(nn.Module):
    """The positional half of Transformer-XL's attention scores (arXiv 1901.02860), as an additive bias."""

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.project = nn.Linear(d_model, d_model, bias=False)
        self.content_HK = nn.Parameter(torch.zeros(num_heads, d_model // num_heads))
        self.position_HK = nn.Parameter(torch.zeros(num_heads, d_model // num_heads))

    def forward(self, query_BHTK: Tensor, table_RD: Tensor) -> tuple[Tensor, Tensor]:
        """Return the queries with the content bias added, and the scaled positional scores (B, H, T, T)."""
        keys_RHK = self.project(table_RD.to(query_BHTK.dtype)).unflatten(-1, (self.num_heads, -1))
        query = (query_BHTK + self.position_HK[:, None]) * query_BHTK.shape[-1] ** -0.5
        return query_BHTK + self.content_HK[:, None], shift(query @ keys_RHK.permute(1, 2, 0))


def shift(scores_BHTR: Tensor) -> Tensor:
    """Return (B, H, T, T) with out[i, j] = scores[i, T-1 - (i - j)]: row i begins one later than the row below it.

    Read row by row with a stride of R - 1 instead of R, the rows fall into place; nothing is gathered.
    """
    frames, distances = scores_BHTR.shape[-2:]
    flat = scores_BHTR.flatten(-2)[..., frames - 1 : frames - 1 + frames * (distances - 1)]
    rows = flat.view(*flat.shape[:-1], frames, distances - 1) if distances > 1 else scores_BHTR
    return rows[..., :frames]
