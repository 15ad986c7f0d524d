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

from rayconvai.core.sample import Marked


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


def align(reference: Sequence[str], hypothesis: Sequence[str]) -> tuple[Marked, Marked]:
    """Return both with the marks of a shortest way from the one to the other, and as many pieces."""
    head = _shared(reference, hypothesis)
    tail = _shared(reference[head:][::-1], hypothesis[head:][::-1])
    said, heard = reference[head : len(reference) - tail], hypothesis[head : len(hypothesis) - tail]
    pairs = [(word, word, "") for word in reference[:head]]
    pairs += _aligned(said, heard)
    pairs += [(word, word, "") for word in reference[len(reference) - tail :]]
    return Marked(tuple((a, mark) for a, _, mark in pairs)), Marked(tuple((b, mark) for _, b, mark in pairs))


def _aligned(said: Sequence[str], heard: Sequence[str]) -> list[tuple[str, str, str]]:
    costs = [list(range(len(heard) + 1))]
    for row, word in enumerate(said, start=1):
        above, costs_here = costs[-1], [row]
        for column, other in enumerate(heard):
            costs_here.append(min(above[column] + (word != other), above[column + 1] + 1, costs_here[-1] + 1))
        costs.append(costs_here)
    pairs = []
    row, column = len(said), len(heard)
    while row or column:
        here = costs[row][column]
        if row and column and here == costs[row - 1][column - 1] + (said[row - 1] != heard[column - 1]):
            row, column = row - 1, column - 1
            pairs.append((said[row], heard[column], "" if said[row] == heard[column] else "sub"))
        elif row and here == costs[row - 1][column] + 1:
            row -= 1
            pairs.append((said[row], "", "del"))
        else:
            column -= 1
            pairs.append(("", heard[column], "ins"))
    return pairs[::-1]
