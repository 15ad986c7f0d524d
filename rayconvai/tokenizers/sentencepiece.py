"""Subwords by SentencePiece."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import sentencepiece
from typing_extensions import Self

from rayconvai.errors import ArtefactError, ConfigError, DataError
from rayconvai.tokenizers.base import Tokenizer, read_record, write_record

MODEL_FILE = "tokenizer.model"
MAX_BYTES = 1 << 20  # SentencePiece leaves longer texts out without a word; its own limit is 4192


class SentencePieceTokenizer(Tokenizer):
    """Subwords of a SentencePiece model, whose bytes the object keeps: it can be pickled and needs no file.

    Args:
        model: the bytes of a ``.model`` file.

    Raises:
        ArtefactError: not a SentencePiece model.
    Source: Kudo and Richardson 2018 (arXiv 1808.06226).
    """

    kind = "sentencepiece"

    def __init__(self, model: bytes) -> None:
        self._model = model
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
        except (RuntimeError, TypeError) as error:
            raise ArtefactError(f"not a SentencePiece model ({len(model)} bytes)") from error
        self._vocab = [self._processor.IdToPiece(i) for i in range(self._processor.GetPieceSize())]
        self._unk_id: int = self._processor.unk_id()

    @classmethod
    def train(
        cls, texts: Iterable[str], *, vocab_size: int = 128, model_type: Literal["unigram", "bpe"] = "unigram"
    ) -> Self:
        """Train on ``texts`` as they are written: no case folding, no Unicode normalisation.

        Raises:
            ConfigError: ``model_type`` is unknown, or ``vocab_size`` does not fit the texts.
            DataError: there is no text.
        """
        if model_type not in ("unigram", "bpe"):
            raise ConfigError(f"tokenizer.model_type is {model_type!r}; use unigram or bpe")
        written = (text for text in texts if text.strip())
        first = next(written, None)
        if first is None:
            raise DataError("no text to train a tokenizer from: the training manifest has no characters")
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=chain([first], written),
                model_writer=model,
                vocab_size=vocab_size,
                model_type=model_type,
                character_coverage=1.0,
                normalization_rule_name="identity",
                max_sentence_length=MAX_BYTES,
                bos_id=-1,
                eos_id=-1,
                minloglevel=2,
            )
        except RuntimeError as error:
            raise _vocab_size_error(vocab_size, str(error)) from error
        return cls(model.getvalue())

    @property
    def vocab(self) -> list[str]:
        return self._vocab

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._processor.EncodeAsIds(text)
        if self._unk_id in ids:
            self._refuse_unknown(text)
        return ids

    def encode_words(self, words: Sequence[str]) -> list[list[int]]:
        return [self._processor.EncodeAsIds(word) for word in words]

    def decode(self, ids: Sequence[int]) -> str:
        self._check_ids(ids)
        text: str = self._processor.DecodeIds([int(i) for i in ids if i != self._unk_id])
        return text

    def unknown(self, text: str) -> set[str]:
        return {char for char in set(text) if self._unk_id in self._processor.EncodeAsIds(char)}

    def save(self, directory: Path) -> None:
        write_record(directory, {"type": self.kind, "vocab_size": self.vocab_size})
        (directory / MODEL_FILE).write_bytes(self._model)

    @classmethod
    def load(cls, directory: Path) -> Self:
        read_record(directory, cls.kind)
        path = directory / MODEL_FILE
        try:
            return cls(path.read_bytes())
        except (OSError, ArtefactError) as error:
            raise ArtefactError(f"{path}: cannot read the tokenizer's model: {error}") from error

    def __getstate__(self) -> dict[str, Any]:
        return {"model": self._model}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["model"])  # type: ignore[misc]


def _vocab_size_error(vocab_size: int, message: str) -> ConfigError:
    """Say in our words what SentencePiece said in its own."""
    if found := re.search(r"too high.*?<= (\d+)", message, re.DOTALL):
        return ConfigError(f"tokenizer.vocab_size={vocab_size} is too large for these texts; largest: {found[1]}")
    if found := re.search(r"smaller than required_chars\D*\d+ vs (\d+)", message):
        return ConfigError(f"tokenizer.vocab_size={vocab_size} is too small for these texts; smallest: {found[1]}")
    return ConfigError(f"tokenizer.vocab_size={vocab_size}: SentencePiece refuses: {' '.join(message.split())}")
