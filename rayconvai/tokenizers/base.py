"""What every tokenizer can do, and how it is kept on disk."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from typing_extensions import Self

from rayconvai.errors import ArtefactError, DataError

TOKENIZER_FILE = "tokenizer.json"


class Tokenizer(ABC):
    """Turns text into numbers below ``vocab_size`` and back.

    The CTC blank is not the tokenizer's: a model puts it at ``vocab_size``, behind the last symbol.
    """

    kind: ClassVar[str]
    """The ``type`` in tokenizer.json."""

    @property
    @abstractmethod
    def vocab(self) -> list[str]:
        """The written form of every number, in order."""

    @property
    def vocab_size(self) -> int:
        return len(self.vocab)

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Return the numbers of ``text``; an empty text has none.

        Raises:
            DataError: the text has characters that this tokenizer cannot write.
        """

    def encode_words(self, words: Sequence[str]) -> list[list[int]]:
        """Return the numbers of each word, or text, by itself: what cannot be written is the unknown token.

        Raises:
            DataError: this kind has no unknown token, and a word cannot be written.
        """
        return [self.encode(word) for word in words]

    @property
    def frame(self) -> tuple[list[int], list[int]]:
        """The numbers that stand before and behind a text where the encoder was trained so: ``[CLS]``, ``[SEP]``."""
        return [], []

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ``ids``.

        Raises:
            DataError: a number is not below ``vocab_size``.
        """

    @abstractmethod
    def unknown(self, text: str) -> set[str]:
        """Return the characters of ``text`` that this tokenizer cannot write."""

    @classmethod
    @abstractmethod
    def train(cls, texts: Iterable[str]) -> Self:
        """Make a tokenizer that can write all of ``texts``; a kind may take options besides.

        Raises:
            DataError: there is no text.
        """

    @abstractmethod
    def save(self, directory: Path) -> None:
        """Write tokenizer.json, and what else this kind needs, into ``directory``."""

    @classmethod
    @abstractmethod
    def load(cls, directory: Path) -> Self:
        """Read what ``save`` wrote.

        Raises:
            ArtefactError: a file is missing, damaged, or of another kind.
        """

    def _refuse_unknown(self, text: str) -> None:
        unknown = self.unknown(text)
        if unknown:
            raise DataError(
                f"characters {sorted(unknown)} of {text!r} are not in the tokenizer's vocabulary; "
                "clean the text or train the tokenizer on texts that have them"
            )

    def _check_ids(self, ids: Sequence[int]) -> None:
        wrong = next((i for i in ids if not 0 <= i < self.vocab_size), None)
        if wrong is not None:
            raise DataError(f"token {wrong} is outside the tokenizer's vocabulary of {self.vocab_size}")


def write_record(directory: Path, record: dict[str, Any]) -> None:
    """Write ``record`` as tokenizer.json."""
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(record, ensure_ascii=False, indent=1)
    (directory / TOKENIZER_FILE).write_text(text + "\n", encoding="utf-8")


def read_record(directory: Path, kind: str | None = None) -> dict[str, Any]:
    """Read tokenizer.json, which must be of ``kind`` if one is given.

    Raises:
        ArtefactError: missing, not JSON, or of another kind.
    """
    path = directory / TOKENIZER_FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtefactError(f"{path}: cannot read the tokenizer: {error}") from error
    if not isinstance(record, dict) or not isinstance(record.get("type"), str):
        raise ArtefactError(f"{path}: not a tokenizer's record: it has no 'type'")
    if kind is not None and record["type"] != kind:
        raise ArtefactError(f"{path}: holds a tokenizer of type {record['type']!r}, not {kind!r}")
    return record
