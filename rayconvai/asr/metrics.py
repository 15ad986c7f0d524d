"""Error rates of transcripts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from operator import eq
from typing import Any, Literal

import torch
from torch import Tensor
from torchaudio.functional import edit_distance
from torchmetrics import Metric


class WordErrorRate(Metric):
    """Word or character error rate: edits over all utterances, divided by the length of all references.

    The sums are integers, kept over ranks and batches, so the rate is that of the whole set however it was split:
    neither a mean of batches nor rounded.

    Args:
        unit: ``word``, separated by white space, or ``character``, white space at the ends left out.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    edits: Tensor
    length: Tensor

    def __init__(self, unit: Literal["word", "character"] = "word", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.unit = unit
        self.add_state("edits", torch.tensor(0, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("length", torch.tensor(0, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, hypotheses: Sequence[str], references: Sequence[str]) -> None:
        """Count the edits of these utterances."""
        if len(hypotheses) != len(references):
            raise ValueError(f"{len(hypotheses)} hypotheses for {len(references)} references")
        for hypothesis, reference in zip(hypotheses, references, strict=True):
            expected = self._units(reference)
            self.edits += distance(self._units(hypothesis), expected)
            self.length += len(expected)

    def compute(self) -> Tensor:
        """Return the rate, a share (0.05 is 5 %). With nothing to say it is the number of edits."""
        return self.edits.double().div(self.length.clamp(min=1)).float()

    def _units(self, text: str) -> list[str]:
        return text.split() if self.unit == "word" else list(text.strip())


def distance(left: Sequence[str], right: Sequence[str]) -> int:
    """Return the Levenshtein distance.

    What both have in common at the ends costs nothing and is left out: transcripts are mostly right, and torchaudio's
    distance takes quadratic time in Python.
    """
    head = _shared(left, right)
    left, right = left[head:], right[head:]
    tail = _shared(left[::-1], right[::-1])
    return int(edit_distance(left[: len(left) - tail], right[: len(right) - tail]))


def _shared(left: Sequence[str], right: Sequence[str]) -> int:
    """Return how many units are the same from the start."""
    return sum(takewhile(bool, map(eq, left, right)))
