"""Dropout that is cheap on the CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LEVELS = 256


class Dropout(nn.Dropout):
    """Dropout; on the CPU with a probability rounded to 1/256, and the expectation kept.

    PyTorch draws one 64-bit number for each element on the CPU, which takes a fifth of a small encoder's training
    step. This draws one byte for each.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.p == 0 or input.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(input)
        return input * keep_mask(input, self.p)

    def add_to(self, residual: Tensor, input: Tensor, alpha: float = 1.0) -> Tensor:
        """Return ``residual + alpha * dropout(input)`` in one pass over memory."""
        if not self.training or self.p == 0:
            return torch.add(residual, input, alpha=alpha)
        if input.device.type != "cpu" or torch.compiler.is_compiling() or residual.dtype != input.dtype:
            return torch.add(residual, self(input), alpha=alpha)
        return torch.addcmul(residual, input, keep_mask(input, self.p), value=alpha)


def keep_mask(like: Tensor, p: float) -> Tensor:
    """Return 0 with probability ``p``, otherwise ``1 / (1 - p)``, in the shape and type of ``like``."""
    threshold = min(max(round(p * LEVELS), 1), LEVELS - 1)
    count = like.numel()
    words = torch.empty((count + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
    keep = words.view(torch.uint8)[:count].view(like.shape) >= threshold
    return keep.to(like.dtype).mul_(LEVELS / (LEVELS - threshold))
