"""Connectionist temporal classification: the output layer, the loss, and what they need of an utterance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor, nn

from rayconvai.core import (
    AcousticEncodedRepresentation,
    LabelsType,
    LengthsType,
    LogprobsType,
    Loss,
    LossType,
    NeuralModule,
    NeuralType,
    typecheck,
)


# B batch, T frames, D encoder channels, V classes, U tokens
class CTCDecoder(NeuralModule):
    """A linear layer from encoded frames to log-probabilities of the tokens and the blank, which comes last.

    Args:
        in_features: channels of an encoded frame.
        num_classes: tokens and the blank.
    """

    def __init__(self, *, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.in_features, self.num_classes = in_features, num_classes
        self.project = nn.Linear(in_features, num_classes)

    @property
    def blank_id(self) -> int:
        """The class that means "no token"."""
        return self.num_classes - 1

    @cached_property
    def input_types(self) -> dict[str, NeuralType]:
        return {"encoded": NeuralType(("B", "T", f"D:{self.in_features}"), AcousticEncodedRepresentation())}

    @cached_property
    def output_types(self) -> dict[str, NeuralType]:
        return {"log_probs": NeuralType(("B", "T", f"D:{self.num_classes}"), LogprobsType())}

    @typecheck()
    def forward(self, *, encoded: Tensor) -> Tensor:
        """Return log-probabilities (B, T, V) in float32, whatever the autocast."""
        return torch.log_softmax(self.project(encoded), dim=-1, dtype=torch.float32)


class CTCLoss(Loss):
    """The mean over a batch of each utterance's negative log-probability.

    It is infinite if an utterance has more tokens than ``frames_needed`` allows its frames.

    Args:
        blank_id: the class that means "no token".

    Source: Graves et al., ICML 2006.
    """

    def __init__(self, *, blank_id: int) -> None:
        super().__init__()
        self.blank_id = blank_id

    @cached_property
    def input_types(self) -> dict[str, NeuralType]:
        return {
            "log_probs": NeuralType(("B", "T", "D"), LogprobsType()),
            "lengths": NeuralType(("B",), LengthsType()),
            "tokens": NeuralType(("B", "T"), LabelsType()),
            "token_lengths": NeuralType(("B",), LengthsType()),
        }

    @cached_property
    def output_types(self) -> dict[str, NeuralType]:
        return {"loss": NeuralType((), LossType())}

    @typecheck()
    def forward(self, *, log_probs: Tensor, lengths: Tensor, tokens: Tensor, token_lengths: Tensor) -> Tensor:
        """Return the loss, a scalar."""
        loss_B = nn.functional.ctc_loss(
            log_probs.transpose(0, 1), tokens, lengths, token_lengths, blank=self.blank_id, reduction="none"
        )
        return loss_B.mean()


def frames_needed(tokens: Sequence[int]) -> int:
    """Return the fewest frames that can say ``tokens``: one each, and a blank between two that are equal."""
    return len(tokens) + sum(left == right for left, right in pairwise(tokens))


@dataclass(frozen=True)
class FrameRate:
    """How many encoded frames an utterance gets."""

    sample_rate: int
    hop_length: int
    """Samples from one feature frame to the next."""
    subsampling: int
    """Feature frames for each encoded frame."""

    def frames(self, samples: int) -> int:
        """Return the encoded frames of so many samples."""
        return -(-(samples // self.hop_length + 1) // self.subsampling)

    def fits(self, samples: int, tokens: Sequence[int]) -> bool:
        """Return whether CTC can say ``tokens`` in so many samples."""
        return frames_needed(tokens) <= self.frames(samples)
