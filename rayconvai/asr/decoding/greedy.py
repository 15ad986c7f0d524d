"""The best class of each frame."""

from __future__ import annotations

import torch
from torch import Tensor

from rayconvai.core.attention import length_mask


# B batch, T frames, V classes
class GreedyCTCDecoder:
    """Takes the best class of each frame, joins repeats and drops blanks.

    Args:
        blank_id: the class that means "no token".
    """

    def __init__(self, blank_id: int) -> None:
        self.blank_id = blank_id

    @torch.no_grad()
    def __call__(self, log_probs: Tensor, lengths: Tensor) -> list[list[int]]:
        """Return each utterance's tokens.

        Args:
            log_probs: (B, T, V).
            lengths: (B,) frames.
        """
        best_BT = log_probs.argmax(-1)
        keep_BT = (best_BT != self.blank_id) & length_mask(lengths, best_BT.shape[1])
        keep_BT[:, 1:] &= best_BT[:, 1:] != best_BT[:, :-1]
        return [best[keep].tolist() for best, keep in zip(best_BT.cpu(), keep_BT.cpu(), strict=True)]
