"""SpecAugment: masks over features and time."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from rayconvai.core import LengthsType, NeuralModule, NeuralType, SpectrogramType, typecheck
from rayconvai.core.attention import length_mask


# B batch, T frames, D features, N masks
class SpecAugment(NeuralModule):
    """Sets random bands of features and spans of time to zero (the mean of normalised features), in training only.

    Args:
        freq_masks: bands for each utterance.
        freq_width: the widest band, in features; widths are uniform from 0.
        time_masks: spans for each utterance.
        time_width: the longest span, as a share of the utterance's own frames; lengths are uniform from 0.

    Source: arXiv 1904.08779, the adaptive widths from arXiv 1912.05533; no time warping.
    """

    def __init__(
        self, *, freq_masks: int = 2, freq_width: int = 27, time_masks: int = 2, time_width: float = 0.05
    ) -> None:
        super().__init__()
        if min(freq_masks, freq_width, time_masks) < 0 or not 0 <= time_width <= 1:
            raise ValueError("freq_masks, freq_width and time_masks must be 0 or more, time_width between 0 and 1")
        self.freq_masks, self.freq_width = freq_masks, freq_width
        self.time_masks, self.time_width = time_masks, time_width

    @cached_property
    def input_types(self) -> dict[str, NeuralType]:
        return {
            "features": NeuralType(("B", "T", "D"), SpectrogramType()),
            "lengths": NeuralType(("B",), LengthsType()),
        }

    @cached_property
    def output_types(self) -> dict[str, NeuralType]:
        return {"features": NeuralType(("B", "T", "D"), SpectrogramType())}

    @typecheck()
    @torch.no_grad()
    def forward(self, *, features: Tensor, lengths: Tensor) -> Tensor:
        """Return the features with masks, or as they are outside training."""
        if not self.training:
            return features
        frames, size = features.shape[1:]
        sizes_B = torch.full_like(lengths, size)
        bands_BD = _spans(sizes_B, torch.full_like(sizes_B, min(self.freq_width, size)), self.freq_masks, size)
        spans_BT = _spans(lengths, (lengths * self.time_width).long(), self.time_masks, frames)
        return features.masked_fill(bands_BD[:, None, :] | spans_BT[:, :, None], 0.0)


def _spans(lengths_B: Tensor, widest_B: Tensor, count: int, size: int) -> Tensor:
    """Return (B, size) booleans: the union of ``count`` spans of random width and place within each length."""
    shape = (len(lengths_B), count)
    width_BN = (torch.rand(shape, device=lengths_B.device) * (widest_B[:, None] + 1)).long()
    start_BN = (torch.rand(shape, device=lengths_B.device) * (lengths_B[:, None] - width_BN + 1)).long()
    ends_BN = start_BN + width_BN
    if not count:
        return torch.zeros_like(length_mask(lengths_B, size))
    place = torch.arange(size, device=lengths_B.device)
    return ((place >= start_BN[..., None]) & (place < ends_BN[..., None])).any(1)
