"""Transformer-XL's relative positions for self-attention."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


# B batch, T frames, H heads, K channels of a head, D model channels, R = 2T - 1 distances
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
