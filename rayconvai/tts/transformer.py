"""Feed-forward transformers that encode the sounds of a text and decode them to a spectrogram; small predictors."""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor, nn

from rayconvai.core import (
    EmbeddedTextType,
    EncodedRepresentation,
    LengthsType,
    MelSpectrogramType,
    NeuralModule,
    NeuralType,
    RegressionValuesType,
    TokenIndex,
    typecheck,
)
from rayconvai.core.attention import length_mask, padding_scores
from rayconvai.core.dropout import Dropout
from rayconvai.errors import require_positive


# B batch, T frames or tokens, D channels, H heads, K channels of a head, U tokens
class FFTransformer(nn.Module):
    """Blocks of self-attention and convolutions, with sinusoidal positions; each normalised behind its residual.

    Args:
        d_model: channels between the blocks.
        num_layers: blocks.
        num_heads: attention heads.
        head_dim: channels of a head; they need not make up ``d_model``.
        d_inner: channels between the two convolutions of a block.
        kernel_size: positions that a convolution sees, odd.
        dropout: probability, behind the positions, the attention and the convolutions.

    Raises:
        ValueError: sizes that cannot be.

    Source: FastSpeech (arXiv 1905.09263), section 3.1, as in FastPitch (arXiv 2006.06873).
    """

    def __init__(
        self,
        *,
        d_model: int,
        num_layers: int,
        num_heads: int,
        head_dim: int,
        d_inner: int,
        kernel_size: int,
        dropout: float,
    ) -> None:
        super().__init__()
        require_positive(d_model=d_model, num_layers=num_layers, num_heads=num_heads, head_dim=head_dim)
        require_positive(d_inner=d_inner, kernel_size=kernel_size)
        if d_model % 2 or not kernel_size % 2:
            raise ValueError(f"d_model ({d_model}) must be even and kernel_size ({kernel_size}) odd")
        self.d_model, self.dropout = d_model, Dropout(dropout)
        self.layers = nn.ModuleList(
            FFTransformerLayer(d_model, num_heads, head_dim, d_inner, kernel_size, dropout) for _ in range(num_layers)
        )

    def forward(self, x_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        """Return (B, T, D); padded positions are 0."""
        mask_BT = length_mask(lengths_B, x_BTD.shape[1])
        mask_BT1 = mask_BT[..., None].to(x_BTD.dtype)
        padding = padding_scores(mask_BT, x_BTD.dtype)
        x_BTD = self.dropout((x_BTD + sinusoids(x_BTD.shape[1], self.d_model, x_BTD)) * mask_BT1)
        for layer in self.layers:
            x_BTD = layer(x_BTD, mask_BT1, padding)
        return x_BTD


class FFTransformerLayer(nn.Module):
    """One block."""

    def __init__(
        self, d_model: int, num_heads: int, head_dim: int, d_inner: int, kernel_size: int, dropout: float
    ) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, Dropout(dropout)
        self.project_in = nn.Linear(d_model, 3 * num_heads * head_dim)
        self.project_out = nn.Linear(num_heads * head_dim, d_model, bias=False)
        self.norm_attention, self.norm_convolution = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.widen = nn.Conv1d(d_model, d_inner, kernel_size, padding=kernel_size // 2)
        self.narrow = nn.Conv1d(d_inner, d_model, kernel_size, padding=kernel_size // 2)

    def forward(self, x_BTD: Tensor, mask_BT1: Tensor, padding: Tensor) -> Tensor:
        qkv = self.project_in(x_BTD).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        queries, keys, values = qkv.unbind(0)
        mask = padding.to(queries.dtype)
        heads_BHTK = nn.functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        attended_BTD = self.project_out(heads_BHTK.transpose(1, 2).flatten(2))
        x_BTD = self.norm_attention(self.dropout.add_to(x_BTD, attended_BTD)) * mask_BT1
        wide_BDT = torch.relu(self.widen(x_BTD.transpose(1, 2))) * mask_BT1.transpose(1, 2)
        seen_BTD = self.narrow(wide_BDT).transpose(1, 2)
        normed: Tensor = self.norm_convolution(self.dropout.add_to(x_BTD, seen_BTD)) * mask_BT1
        return normed


def sinusoids(length: int, channels: int, like: Tensor) -> Tensor:
    """Return positions (length, channels), of the device and type of ``like``.

    Source: arXiv 1706.03762, section 3.5; sines first, then cosines.
    """
    rates = 10_000.0 ** (-torch.arange(0, channels, 2, device=like.device, dtype=torch.float32) / channels)
    angles = torch.outer(torch.arange(length, device=like.device, dtype=torch.float32), rates)
    return torch.cat((angles.sin(), angles.cos()), -1).to(like.dtype)


class TextEncoder(NeuralModule):
    """Tokens to vectors, each knowing those around it.

    Args:
        num_tokens: of the tokenizer.
        d_model: channels of a vector.
        num_layers: as in ``FFTransformer``, and so on.
        num_heads: attention heads.
        head_dim: channels of a head.
        d_inner: channels between the convolutions.
        kernel_size: positions that a convolution sees.
        dropout: probability.
    """

    def __init__(
        self,
        *,
        num_tokens: int,
        d_model: int = 384,
        num_layers: int = 6,
        num_heads: int = 1,
        head_dim: int = 64,
        d_inner: int = 1536,
        kernel_size: int = 3,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        require_positive(num_tokens=num_tokens, d_model=d_model)
        self.num_tokens, self.d_model = num_tokens, d_model
        self.embedding = nn.Embedding(num_tokens, d_model)
        self.body = FFTransformer(
            d_model=d_model,
            num_layers=num_layers,
            num_heads=num_heads,
            head_dim=head_dim,
            d_inner=d_inner,
            kernel_size=kernel_size,
            dropout=dropout,
        )

    @cached_property
    def input_types(self) -> dict[str, NeuralType]:
        return {"tokens": NeuralType(("B", "T"), TokenIndex()), "token_lengths": NeuralType(("B",), LengthsType())}

    @cached_property
    def output_types(self) -> dict[str, NeuralType]:
        return {
            "encoded": NeuralType(("B", "T", f"D:{self.d_model}"), EncodedRepresentation()),
            "embedded": NeuralType(("B", "T", f"D:{self.d_model}"), EmbeddedTextType()),
        }

    @typecheck()
    def forward(self, *, tokens: Tensor, token_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return the vectors (B, U, D), and the tokens' own before they knew of each other (B, U, D)."""
        embedded_BUD = self.embedding(tokens)
        return self.body(embedded_BUD, token_lengths), embedded_BUD


class MelDecoder(NeuralModule):
    """A vector for each frame to a mel spectrogram.

    Args:
        num_mels: bands of a frame.
        d_model: channels of a vector.
        num_layers: as in ``FFTransformer``, and so on.
        num_heads: attention heads.
        head_dim: channels of a head.
        d_inner: channels between the convolutions.
        kernel_size: positions that a convolution sees.
        dropout: probability.
    """

    def __init__(
        self,
        *,
        num_mels: int,
        d_model: int,
        num_layers: int = 6,
        num_heads: int = 1,
        head_dim: int = 64,
        d_inner: int = 1536,
        kernel_size: int = 3,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.num_mels, self.d_model = num_mels, d_model
        self.body = FFTransformer(
            d_model=d_model,
            num_layers=num_layers,
            num_heads=num_heads,
            head_dim=head_dim,
            d_inner=d_inner,
            kernel_size=kernel_size,
            dropout=dropout,
        )
        self.project = nn.Linear(d_model, num_mels)

    @cached_property
    def input_types(self) -> dict[str, NeuralType]:
        return {
            "frames": NeuralType(("B", "T", f"D:{self.d_model}"), EncodedRepresentation()),
            "lengths": NeuralType(("B",), LengthsType()),
        }

    @cached_property
    def output_types(self) -> dict[str, NeuralType]:
        return {"mel": NeuralType(("B", f"D:{self.num_mels}", "T"), MelSpectrogramType())}

    @typecheck()
    def forward(self, *, frames: Tensor, lengths: Tensor) -> Tensor:
        """Return mels (B, D, T) in float32; padded frames hold anything finite."""
        mel_BTD: Tensor = self.project(self.body(frames, lengths))
        return mel_BTD.transpose(1, 2).float()


class TokenPredictor(NeuralModule):
    """One value for each token: its duration, pitch or energy.

    Args:
        d_model: channels of a token.
        channels: of the layers.
        num_layers: convolutions, each normalised.
        kernel_size: tokens that a convolution sees, odd.
        dropout: probability.

    Source: FastPitch (arXiv 2006.06873), section 2.1.
    """

    def __init__(
        self, *, d_model: int, channels: int = 256, num_layers: int = 2, kernel_size: int = 3, dropout: float = 0.1
    ) -> None:
        super().__init__()
        require_positive(d_model=d_model, channels=channels, num_layers=num_layers, kernel_size=kernel_size)
        if not kernel_size % 2:
            raise ValueError(f"kernel_size is {kernel_size}; it must be odd")
        self.d_model, self.dropout = d_model, Dropout(dropout)
        sizes = [d_model, *[channels] * num_layers]
        self.convolutions = nn.ModuleList(
            nn.Conv1d(n, m, kernel_size, padding=kernel_size // 2) for n, m in pairwise(sizes)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(size) for size in sizes[1:])
        self.project = nn.Linear(channels, 1)

    @cached_property
    def input_types(self) -> dict[str, NeuralType]:
        return {
            "encoded": NeuralType(("B", "T", f"D:{self.d_model}"), EncodedRepresentation()),
            "token_lengths": NeuralType(("B",), LengthsType()),
        }

    @cached_property
    def output_types(self) -> dict[str, NeuralType]:
        return {"values": NeuralType(("B", "T"), RegressionValuesType())}

    @typecheck()
    def forward(self, *, encoded: Tensor, token_lengths: Tensor) -> Tensor:
        """Return the values (B, U), float32; 0 in the padding."""
        mask_BT1 = length_mask(token_lengths, encoded.shape[1])[..., None].to(encoded.dtype)
        x_BTD = encoded * mask_BT1
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x_BTD = self.dropout(norm(torch.relu(convolution(x_BTD.transpose(1, 2))).transpose(1, 2))) * mask_BT1
        values_BU1: Tensor = self.project(x_BTD) * mask_BT1
        return values_BU1[..., 0].float()


class TokenValues(NeuralModule):
    """A value for each token, pitch or energy, to vectors that are added to its own.

    Args:
        d_model: channels of a token.
        kernel_size: tokens that a value reaches, odd.
    """

    def __init__(self, *, d_model: int, kernel_size: int = 3) -> None:
        super().__init__()
        self.d_model = d_model
        self.embed = nn.Conv1d(1, d_model, kernel_size, padding=kernel_size // 2)

    @cached_property
    def input_types(self) -> dict[str, NeuralType]:
        return {
            "encoded": NeuralType(("B", "T", f"D:{self.d_model}"), EncodedRepresentation()),
            "values": NeuralType(("B", "T"), RegressionValuesType()),
        }

    @cached_property
    def output_types(self) -> dict[str, NeuralType]:
        return {"encoded": NeuralType(("B", "T", f"D:{self.d_model}"), EncodedRepresentation())}

    @typecheck()
    def forward(self, *, encoded: Tensor, values: Tensor) -> Tensor:
        """Return the tokens (B, U, D) with their values in them."""
        added_BDU: Tensor = self.embed(values[:, None].to(encoded.dtype))
        return encoded + added_BDU.transpose(1, 2)
