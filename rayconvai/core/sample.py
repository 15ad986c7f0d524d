"""What a model made of one example, in parts that a person can read, hear and see, whatever the collection.

A model says what it made (``Model.keep_samples``); loggers, notebooks and reports show each part by what it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Text:
    """A text as it is."""

    text: str


@dataclass(frozen=True)
class Marked:
    """A text in pieces, each with a mark.

    Marks of an alignment: ``""`` is right, ``sub``, ``ins`` and ``del`` are errors. Any other mark is a label, which is
    shown: the type of an entity, say; a wrong one begins with ``!``.
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
