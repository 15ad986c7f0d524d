"""What a model made of a text, for people to read."""

from __future__ import annotations

from collections.abc import Sequence

from rayconvai.core.sample import Marked, Part, Sample, Text
from rayconvai.nlp.labels import Span


def classified(where: str, text: str, there: str, found: str, probability: float) -> Sample:
    """Return a text with its class and the one that was found; ``probability`` is that of its own."""
    parts: dict[str, Part] = {"text": Text(text), "reference": Text(there), "hypothesis": _answer(there, found)}
    return Sample(where, 1 - probability, parts)


def tagged(where: str, words: Sequence[str], there: Sequence[Span], found: Sequence[Span]) -> Sample:
    """Return a text with its spans and those that were found; its score is 1 less the F1 of its spans."""
    right = len(set(there) & set(found))
    total = len(there) + len(found)
    parts = {"reference": marked(words, there, there), "hypothesis": marked(words, found, there)}
    return Sample(where, 1 - 2 * right / total if total else 0.0, parts)


def with_intent(sample: Sample, there: str, found: str) -> Sample:
    """Return the sample of a text's slots with its intent and the one that was found; a wrong one counts 1."""
    intents: dict[str, Part] = {"intent": Text(there), "found intent": _answer(there, found)}
    return Sample(sample.where, (sample.score or 0.0) + (there != found), {**intents, **sample.parts})


def _answer(there: str, found: str) -> Marked:
    return Marked(((found, "" if there == found else "sub"),))


def marked(words: Sequence[str], spans: Sequence[Span], right: Sequence[Span]) -> Marked:
    """Return the words in pieces: each span is one, marked by its type, with ``!`` where it is not right."""
    pieces: list[tuple[str, str]] = []
    done = 0
    for span in spans:
        if span.begin > done:
            pieces.append((" ".join(words[done : span.begin]), ""))
        mark = span.kind if span in right else f"!{span.kind}"
        pieces.append((" ".join(words[span.begin : span.end]), mark))
        done = span.end
    if done < len(words):
        pieces.append((" ".join(words[done:]), ""))
    return Marked(tuple(pieces))
