"""Names of classes and tags: numbered by the training data, kept with the model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from rayconvai.errors import ArtefactError, nearest

LABELS_FILE = "labels.json"
OUTSIDE = "O"


class Span(NamedTuple):
    """A stretch of words with a type."""

    kind: str
    begin: int
    end: int
    """The first word that is no longer in it."""


class Labels(Sequence[str]):
    """Names of classes, each with a number.

    Args:
        names: each once, in the order of their numbers.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(names)
        self.numbers = {name: number for number, name in enumerate(self.names)}

    @classmethod
    def of_tags(cls, tags: Iterable[str]) -> Labels:
        """Return ``O``, and ``B-`` and ``I-`` of each type that is among the tags."""
        kinds = sorted({tag[2:] for tag in tags if tag != OUTSIDE})
        return cls([OUTSIDE, *(f"{begin}-{kind}" for kind in kinds for begin in "BI")])

    @property
    def kinds(self) -> list[str]:
        """The types of spans, where these are tags."""
        return [name[2:] for name in self.names if name.startswith("B-")]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, number: Any) -> Any:
        return self.names[number]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Labels) and self.names == other.names

    def __hash__(self) -> int:
        return hash(self.names)

    def unknown(self, name: str) -> str:
        """Return what to say of a name that is none of these; empty if it is."""
        return "" if name in self.numbers else f"{name!r} is not among the {len(self)} of train{nearest(name, self)}"


def spans(tags: Sequence[str]) -> list[Span]:
    """Return the spans of BIO tags; an ``I-`` that continues nothing begins one, as in CoNLL's own count."""
    found: list[Span] = []
    before = OUTSIDE
    for place, tag in enumerate(tags):
        if tag != OUTSIDE:
            if tag[0] == "I" and before[2:] == tag[2:]:
                found[-1] = found[-1]._replace(end=place + 1)
            else:
                found.append(Span(tag[2:], place, place + 1))
        before = tag
    return found


def bio_problem(tags: Sequence[str]) -> str:
    """Return what breaks BIO in the tags of a text; empty: nothing."""
    for place, (before, tag) in enumerate(pairwise((OUTSIDE, *tags)), start=1):
        if tag == OUTSIDE:
            continue
        if tag[:2] not in ("B-", "I-") or len(tag) < 3:
            return f"tag {place} is {tag!r}; it must be O, B-TYPE or I-TYPE"
        if tag[0] == "I" and before[2:] != tag[2:]:
            return f"tag {place} is {tag!r} after {before!r}; a span begins with B-{tag[2:]}"
    return ""


def save_labels(directory: Path, **labels: Labels) -> None:
    """Write names of classes as labels.json."""
    written = {key: list(names) for key, names in labels.items()}
    (directory / LABELS_FILE).write_text(json.dumps(written, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def load_labels(directory: Path) -> dict[str, Labels]:
    """Read what ``save_labels`` wrote.

    Raises:
        ArtefactError: it is missing or damaged.
    """
    path = directory / LABELS_FILE
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
        return {str(key): Labels(map(str, names)) for key, names in written.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ArtefactError(f"{path}: cannot read the labels: {error}") from error
