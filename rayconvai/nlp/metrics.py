"""Scores of classes and spans, exact over batches and ranks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics import Metric

from rayconvai.nlp.labels import Span

Figure = Literal["accuracy", "precision", "recall", "f1", "macro_f1"]


# C classes, or types of spans
class Score(Metric):
    """A figure of how often each class was found, was right, and was there.

    The counts are whole numbers, kept over ranks and batches: the figure is that of the whole set however it was split.

    Args:
        figure: of all classes together; ``macro_f1`` is the mean of each class's F1, classes that neither were there
            nor were found left out. A figure of nothing is 0.
        num_classes: how many classes there are.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    counts: Tensor

    def __init__(self, figure: Figure, num_classes: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.figure = figure
        self.add_state("counts", torch.zeros(3, num_classes, dtype=torch.int64), dist_reduce_fx="sum")
        self.last: Tensor | None = None
        """The counts of the whole set that was computed last."""

    def update(self, counts: Tensor) -> None:
        """Add what was right, found and there of each class, (3, C)."""
        self.counts += counts.to(self.counts.device)

    def compute(self) -> Tensor:
        """Return the figure, a share."""
        self.last = self.counts.clone()
        right, found, there = self.counts.double()
        if self.figure == "macro_f1":
            occurs = found + there > 0
            of_each, whole = 2 * right[occurs] / (found + there)[occurs], occurs.sum().double()
        else:
            of_each, whole = right, {"precision": found, "f1": (found + there) / 2}.get(self.figure, there).sum()
        return torch.where(whole > 0, of_each.sum() / whole, 0.0).float()

    def by_class(self, names: Iterable[str]) -> dict[str, dict[str, float]]:
        """Return precision, recall, F1 and number of each class of the set that was computed last."""
        if self.last is None:
            return {}
        return {
            name: {"precision": _share(right, found), "recall": _share(right, there),
                   "f1": _share(2 * right, found + there), "count": there}
            for name, right, found, there in zip(names, *self.last.tolist(), strict=True)
        }  # fmt: skip


def class_counts(found: Tensor, there: Tensor, num_classes: int) -> Tensor:
    """Return what was right, found and there of each class, (3, C), for the classes of examples (N,)."""
    return torch.stack([part.bincount(minlength=num_classes) for part in (there[found == there], found, there)])


def span_counts(found: Sequence[Sequence[Span]], there: Sequence[Sequence[Span]], kinds: Sequence[str]) -> Tensor:
    """Return what was right, found and there of each type, (3, C): a span is right if type and both ends are."""
    places = {kind: place for place, kind in enumerate(kinds)}
    counts = torch.zeros(3, len(kinds), dtype=torch.int64)
    for mine, theirs in zip(found, there, strict=True):
        for row, some in enumerate((set(mine) & set(theirs), mine, theirs)):
            for span in some:
                counts[row, places[span.kind]] += 1
    return counts


def _share(part: int, whole: int) -> float:
    return round(part / whole, 4) if whole else 0.0
