"""What stands on an encoder of text: scores of classes for a text or for each word, and their loss."""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from rayconvai.core import (
    EncodedRepresentation,
    Index,
    LabelsType,
    LengthsType,
    LogitsType,
    Loss,
    LossType,
    NeuralModule,
    NeuralType,
    typecheck,
)
from rayconvai.core.attention import length_mask
from rayconvai.core.dropout import Dropout

IGNORED = -100
"""The tag of padding."""


# B batch, T tokens, W words, D channels, C classes
class SequenceClassifier(NeuralModule):
    """One vector of a text, and from it the scores of its classes.

    Args:
        in_features: channels of an encoded token.
        num_classes: how many classes there are.
        pooling: ``mean`` of all tokens, or the ``first`` one's vector (``[CLS]``).
        dropout: probability, on the text's vector.
    """

    def __init__(
        self,
        *,
        in_features: int,
        num_classes: int,
        pooling: Literal["mean", "first"] = "mean",
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.in_features, self.num_classes, self.pooling = in_features, num_classes, pooling
        self.dropout = Dropout(dropout)
        self.project = nn.Linear(in_features, num_classes)

    @cached_property
    def input_types(self) -> dict[str, NeuralType]:
        return {
            "encoded": NeuralType(("B", "T", f"D:{self.in_features}"), EncodedRepresentation()),
            "lengths": NeuralType(("B",), LengthsType()),
        }

    @cached_property
    def output_types(self) -> dict[str, NeuralType]:
        return {"logits": NeuralType(("B", f"D:{self.num_classes}"), LogitsType())}

    @typecheck()
    def forward(self, *, encoded: Tensor, lengths: Tensor) -> Tensor:
        """Return logits (B, C) in float32, whatever the autocast."""
        if self.pooling == "first":
            pooled_BD = encoded[:, 0]
        else:
            mask_BT1 = length_mask(lengths, encoded.shape[1])[..., None].to(encoded.dtype)
            pooled_BD = (encoded * mask_BT1).sum(1) / lengths[:, None]
        return torch.as_tensor(self.project(self.dropout(pooled_BD))).float()


class TokenClassifier(NeuralModule):
    """The scores of the classes of each word, from its first token.

    Args:
        in_features: channels of an encoded token.
        num_classes: how many classes there are.
        dropout: probability, on the vectors of the words.
    """

    def __init__(self, *, in_features: int, num_classes: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.in_features, self.num_classes = in_features, num_classes
        self.dropout = Dropout(dropout)
        self.project = nn.Linear(in_features, num_classes)

    @cached_property
    def input_types(self) -> dict[str, NeuralType]:
        return {
            "encoded": NeuralType(("B", "T", f"D:{self.in_features}"), EncodedRepresentation()),
            "places": NeuralType(("B", "T"), Index()),
        }

    @cached_property
    def output_types(self) -> dict[str, NeuralType]:
        return {"logits": NeuralType(("B", "T", f"D:{self.num_classes}"), LogitsType())}

    @typecheck()
    def forward(self, *, encoded: Tensor, places: Tensor) -> Tensor:
        """Return logits (B, W, C) in float32, whatever the autocast."""
        first_BWD = encoded.gather(1, places[..., None].expand(-1, -1, encoded.shape[-1]))
        return torch.as_tensor(self.project(self.dropout(first_BWD))).float()


class SequenceLoss(Loss):
    """Cross entropy of each text's class, the mean over the batch.

    Args:
        label_smoothing: this share of the probability is asked for from all classes alike.
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    input_types = {
        "logits": NeuralType(("B", "D"), LogitsType()),
        "labels": NeuralType(("B",), LabelsType()),
    }
    output_types = {"loss": NeuralType((), LossType())}

    @typecheck()
    def forward(self, *, logits: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)


class TokenLoss(Loss):
    """Cross entropy of the words' classes: the mean over each text's words, and of that over the batch.

    So texts count alike, and the loss of several ranks is that of one.
    """

    input_types = {
        "logits": NeuralType(("B", "T", "D"), LogitsType()),
        "tags": NeuralType(("B", "T"), LabelsType()),
    }
    output_types = {"loss": NeuralType((), LossType())}

    @typecheck()
    def forward(self, *, logits: Tensor, tags: Tensor) -> Tensor:
        losses_BW = nn.functional.cross_entropy(logits.transpose(1, 2), tags, ignore_index=IGNORED, reduction="none")
        return (losses_BW.sum(1) / (tags != IGNORED).sum(1)).mean()
