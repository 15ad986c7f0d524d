"""One number a character."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from typing_extensions import Self

from rayconvai.errors import ArtefactError, ConfigError, DataError
from rayconvai.tokenizers.base import TOKENIZER_FILE, Tokenizer, read_record, write_record


class CharTokenizer(Tokenizer):
    """Characters (Unicode code points), numbered in the order of ``vocab``.

    Args:
        vocab: the characters, each once.

    Raises:
        ConfigError: ``vocab`` is empty, repeats itself, or has an entry that is not one character.
    """

    kind = "char"

    def __init__(self, vocab: Sequence[str]) -> None:
        wrong = next((entry for entry in vocab if not isinstance(entry, str) or len(entry) != 1), None)
        if wrong is not None:
            raise ConfigError(f"tokenizer vocab: {wrong!r} is not one character")
        if not vocab or len(set(vocab)) != len(vocab):
            raise ConfigError(f"tokenizer vocab must have each character once, and at least one: {''.join(vocab)!r}")
        self._vocab = list(vocab)
        self._ids = {char: i for i, char in enumerate(self._vocab)}

    @classmethod
    def train(cls, texts: Iterable[str]) -> Self:
        """Take every character of ``texts``, sorted."""
        chars = set().union(*texts)
        if not chars:
            raise DataError("no text to make a tokenizer from: the training manifest has no characters")
        return cls(sorted(chars))

    @property
    def vocab(self) -> list[str]:
        return self._vocab

    def encode(self, text: str) -> list[int]:
        try:
            return [self._ids[char] for char in text]
        except KeyError:
            self._refuse_unknown(text)
            raise

    def decode(self, ids: Sequence[int]) -> str:
        self._check_ids(ids)
        return "".join([self._vocab[i] for i in ids])

    def unknown(self, text: str) -> set[str]:
        return set(text) - self._ids.keys()

    def save(self, directory: Path) -> None:
        write_record(directory, {"type": self.kind, "vocab": self._vocab})

    @classmethod
    def load(cls, directory: Path) -> Self:
        vocab = read_record(directory, cls.kind).get("vocab")
        try:
            return cls(vocab if isinstance(vocab, list) else [])
        except ConfigError as error:
            raise ArtefactError(f"{directory / TOKENIZER_FILE}: {error}") from error
