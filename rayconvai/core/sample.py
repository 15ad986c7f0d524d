"""What a model made of one example, in parts that a person can read, hear and see, whatever the collection.

A model says what it made (``Model.keep_samples``); loggers, notebooks and reports show each part by what it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

FEW = 5
"""So many of the best and so many of the worst samples are kept."""


@dataclass(frozen=True)
class Text:
    """A text as it is."""

    text: str


@dataclass(frozen=True)
class Marked:
    """A text in pieces, each with a mark; they are shown with spaces between.

    Marks of an alignment: ``""`` is right, ``sub``, ``ins`` and ``del`` are errors; of two aligned texts each has as
    many pieces, where it has nothing to say empty ones. Any other mark is a label, which is shown: the type of an
    entity, say; a wrong one begins with ``!``.
    """

    pieces: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Sound:
    """A stretch of a sound file, or a signal (S,) of its own."""

    path: str = ""
    offset: float = 0.0
    """Seconds."""
    duration: float | None = None
    """Seconds; None: to the end."""
    signal: np.ndarray[Any, Any] | None = None
    sample_rate: int = 0
    """Of ``signal``."""


@dataclass(frozen=True)
class Matrix:
    """Values (rows, columns): a spectrogram, an alignment. The first row is shown at the bottom."""

    values: np.ndarray[Any, Any]
    rows: str = ""
    """What the rows are: ``mel``, ``text``."""
    columns: str = ""


@dataclass(frozen=True)
class Curve:
    """Values by frame (T,), of one or several lines with names: predicted and true pitch, say."""

    lines: Mapping[str, np.ndarray[Any, Any]]
    columns: str = ""
    unit: str = ""


Part = Text | Marked | Sound | Matrix | Curve


@dataclass(frozen=True)
class Sample:
    """One example, what the model made of it, and how bad that is."""

    where: str
    """Its manifest and line."""
    score: float | None
    """Less is better: an error rate, a distortion; None where there is no such figure."""
    parts: Mapping[str, Part]
    """``reference``, ``hypothesis``, ``audio``, ``mel``, ``alignment`` ... in the order that they are shown in."""

    @property
    def texts(self) -> dict[str, str]:
        """The texts among the parts, without their marks."""
        plain = {name: part.text for name, part in self.parts.items() if isinstance(part, Text)}
        marked = {name: part for name, part in self.parts.items() if isinstance(part, Marked)}
        joined = {name: " ".join(text for text, _ in part.pieces if text) for name, part in marked.items()}
        return {name: {**plain, **joined}[name] for name in self.parts if name in plain or name in joined}


class Shelf:
    """Keeps the best and the worst few of the samples that it is shown; of those without a score, the first few."""

    def __init__(self) -> None:
        self._best: list[Sample] = []
        self._worst: list[Sample] = []
        self._first: list[Sample] = []

    def add(self, samples: Iterable[Sample]) -> None:
        for sample in samples:
            if sample.score is None:
                self._first = [*self._first, sample][:FEW]
            else:
                self._best = sorted([*self._best, sample], key=_score)[:FEW]
                self._worst = sorted([*self._worst, sample], key=lambda kept: -_score(kept))[:FEW]

    def take(self) -> list[Sample]:
        """Return what was kept, the worst first, and forget it."""
        best = [sample for sample in reversed(self._best) if all(sample is not worst for worst in self._worst)]
        kept = [*self._worst, *best, *self._first]
        self._best, self._worst, self._first = [], [], []
        return kept


def _score(sample: Sample) -> float:
    return math.inf if sample.score is None or math.isnan(sample.score) else sample.score
