"""How examples of different lengths become a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


# B batch, L longest
def padded(sequences: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return sequences as one tensor (B, L), padded with zeros, and their lengths (B,)."""
    return pad_sequence(list(sequences), batch_first=True), torch.tensor([len(sequence) for sequence in sequences])
