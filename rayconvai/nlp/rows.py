"""Rows of a manifest of texts: what they say, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rayconvai.data.lines import Row
from rayconvai.data.rows import HALF, is_unicode
from rayconvai.errors import nearest
from rayconvai.nlp.labels import Labels, bio_problem


@dataclass(frozen=True, kw_only=True)
class Fields:
    """Which keys of a row are read: the text, and what is to be learnt of it."""

    text: str = "text"
    tokens: str = "tokens"
    """The text as a list of words, which tags belong to; a row without it is divided at white space."""
    label: str | None = None
    """The class of the text; null: none is learnt."""
    tags: str | None = None
    """BIO tags, one a word; null: none are learnt."""

    def words(self, row: Row) -> list[str]:
        """Return the words that tags belong to, or the whole text as one where there are no tags."""
        if self.tags is None:
            return [row[self.text] if self.text in row else " ".join(row[self.tokens])]
        words: list[str] = row[self.tokens] if self.tokens in row else row[self.text].split()
        return words

    def label_of(self, row: Row) -> str:
        """Return the text's class."""
        return str(row[self.label or ""])

    def tags_of(self, row: Row) -> list[str]:
        """Return the words' tags."""
        tags: list[str] = row[self.tags or ""]
        return tags

    def problem(self, row: Row, known: Mapping[str, Labels]) -> str:
        """Return what is wrong with a row and the way out; empty: nothing.

        Args:
            row: as it was read.
            known: names that ``label`` and ``tags`` may have; empty: any.
        """
        problem = self._text_problem(row) or self._character_problem(row)
        if not problem and self.label is not None:
            problem = _label_problem(row, self.label, known.get("label"))
        if not problem and self.tags is not None:
            problem = self._tags_problem(row, self.tags, known.get("tags"))
        return problem

    def _text_problem(self, row: Row) -> str:
        if self.text not in row and self.tokens not in row:
            hint = nearest(self.text, row) or f"; name the keys of your rows in data.fields ({', '.join(row)})"
            return f"neither '{self.text}' nor '{self.tokens}' is there{hint}"
        text, words = row.get(self.text, ""), row.get(self.tokens, [])
        if not isinstance(text, str):
            return f"'{self.text}' is {text!r}; it must be a string"
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            return f"'{self.tokens}' is not a list of strings; write the words of the text"
        if not (text.strip() or words):
            return f"'{self.text if self.text in row else self.tokens}' is empty; write a text or remove the line"
        if not all(word.strip() for word in words):
            place = next(place for place, word in enumerate(words, start=1) if not word.strip())
            return f"word {place} of '{self.tokens}' is empty; remove it, and its tag"
        return ""

    def _character_problem(self, row: Row) -> str:
        for key in (self.text, self.tokens, self.label, self.tags):
            value = row.get(key or "", "")
            if not is_unicode("".join(map(str, value if isinstance(value, list) else [value]))):
                return f"'{key}' is {value!r}, {HALF}"
        return ""

    def _tags_problem(self, row: Row, key: str, known: Labels | None) -> str:
        tags = row.get(key)
        if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
            hint = nearest(key, row) if key not in row else ""
            return f"'{key}' is {tags!r}{hint}; it must be a list of BIO tags"
        count = len(self.words(row))
        if len(tags) != count:
            return f"{len(tags)} tags for {count} words; give each word one"
        if found := bio_problem(tags):
            return found
        unknown = next((found for tag in tags if known and (found := known.unknown(tag))), "")
        return f"tag {unknown}; correct it, or put texts with it into train" if unknown else ""


def _label_problem(row: Row, key: str, known: Labels | None) -> str:
    label: Any = row.get(key)
    if label is None or not isinstance(label, (str, int)) or not str(label).strip():
        hint = nearest(key, row) if key not in row else ""
        return f"'{key}' is {label!r}{hint}; it must be the name of a class"
    unknown = known.unknown(str(label)) if known else ""
    return f"label {unknown}; correct it, or put texts with it into train" if unknown else ""
