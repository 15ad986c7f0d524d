"""A Transformer encoder that is trained from scratch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rayconvai.core import typecheck
from rayconvai.core.attention import Positions, Rotary, length_mask, padding_scores, rotate
from rayconvai.core.dropout import Dropout
from rayconvai.errors import require_positive
from rayconvai.nlp.encoder import TextEncoder


# B batch, T tokens, D model channels, H heads, K channels of a head
class TransformerEncoder(TextEncoder):
    """Blocks of self-attention with rotary positions and a gated feed-forward part, each normalised before.

    Args:
        vocab_size: how many tokens there are.
        d_model: channels between the blocks, a multiple of ``num_heads``.
        num_layers: blocks.
        num_heads: attention heads.
        ff_expansion: the feed-forward part is this times as wide as ``d_model``.
        dropout: probability, behind the embedding and at the end of each part.
        token_dropout: in training, the share of tokens that are left blank: what a text says must not hang on one word.

    Raises:
        ValueError: sizes that do not fit together.
    Source: arXiv 1706.03762; positions as in 2104.09864, norms as in 2002.04745, gates as in 2002.05202.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        d_model: int = 128,
        num_layers: int = 2,
        num_heads: int = 4,
        ff_expansion: int = 2,
        dropout: float = 0.1,
        token_dropout: float = 0.0,
    ) -> None:
        super().__init__(vocab_size, d_model)
        require_positive(d_model=d_model, num_layers=num_layers, num_heads=num_heads, ff_expansion=ff_expansion)
        if d_model % num_heads:
            raise ValueError(f"d_model ({d_model}) must be a multiple of num_heads ({num_heads})")
        if not 0 <= token_dropout < 1:
            raise ValueError(f"token_dropout is {token_dropout}; it must be 0 or more and below 1")
        self.token_dropout = token_dropout
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.dropout = Dropout(dropout)
        self.position = Rotary(d_model // num_heads)
        self.layers = nn.ModuleList(
            TransformerLayer(d_model, num_heads, ff_expansion * d_model, dropout) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(d_model)

    @typecheck()
    def forward(self, *, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return the encoded tokens (B, T, D); padded ones hold anything finite."""
        x_BTD = self.embedding(tokens)
        if self.training and self.token_dropout:
            x_BTD = x_BTD * (torch.rand(tokens.shape, device=tokens.device) >= self.token_dropout)[..., None]
        x_BTD = self.dropout(x_BTD)
        size = tokens.shape[1]
        padding = None if lengths is None else padding_scores(length_mask(lengths, size), x_BTD.dtype)
        positions = self.position(size)
        for layer in self.layers:
            x_BTD = layer(x_BTD, padding, positions)
        return torch.as_tensor(self.norm(x_BTD))


class TransformerLayer(nn.Module):
    """One block, with its residual connections."""

    def __init__(self, d_model: int, num_heads: int, width: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm, self.ff_norm = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.project = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)
        self.widen, self.narrow = nn.Linear(d_model, 2 * width), nn.Linear(width, d_model)
        self.dropout = Dropout(dropout)

    def forward(self, x_BTD: Tensor, padding: Tensor | None, positions: Positions) -> Tensor:
        x_BTD = self.dropout.add_to(x_BTD, self._attend(self.attention_norm(x_BTD), padding, positions))
        value, gate = self.widen(self.ff_norm(x_BTD)).chunk(2, -1)
        return self.dropout.add_to(x_BTD, self.narrow(value * nn.functional.silu(gate)))

    def _attend(self, x_BTD: Tensor, padding: Tensor | None, positions: Positions) -> Tensor:
        qkv_BTCHK = self.project(x_BTD).unflatten(-1, (3, self.num_heads, -1))
        query, key = (part.transpose(1, 2) for part in rotate(qkv_BTCHK[:, :, :2], positions).unbind(2))
        value = qkv_BTCHK[:, :, 2].transpose(1, 2)
        mask = None if padding is None else padding.to(query.dtype)
        mixed_BHTK = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return torch.as_tensor(self.out(mixed_BHTK.transpose(1, 2).flatten(2)))
