"""What models say of texts: a class, spans of words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from rayconvai.nlp.heads import IGNORED
from rayconvai.nlp.labels import Labels, Span, spans


class Classified(NamedTuple):
    """The class of a text, and how probable the model holds it to be."""

    label: str
    probability: float


class Tagged(NamedTuple):
    """A text in words, and its spans."""

    words: list[str]
    spans: list[Span]

    def named(self) -> list[tuple[str, str]]:
        """Return type and text of each span."""
        return [(span.kind, " ".join(self.words[span.begin : span.end])) for span in self.spans]


# B batch, W words
def spans_of(tags_BW: Tensor, names: Labels, counts: Sequence[int]) -> list[list[Span]]:
    """Return the spans of each text, of which ``counts`` says how many words it has."""
    return [
        spans([names[number] for number in row[:count]]) for row, count in zip(tags_BW.tolist(), counts, strict=True)
    ]


def words_in(tags_BW: Tensor) -> list[int]:
    """Return how many words each text of a batch has."""
    counts: list[int] = (tags_BW != IGNORED).sum(1).tolist()
    return counts


def in_words(texts: Sequence[str | Sequence[str]]) -> list[list[str]]:
    """Return each text as words: a string is divided at white space."""
    return [text.split() if isinstance(text, str) else list(text) for text in texts]
