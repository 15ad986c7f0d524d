"""Subwords by Hugging Face's ``tokenizers``: trained here, or those that a pretrained encoder has learnt with."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from typing_extensions import Self

from rayconvai._optional import require
from rayconvai.errors import ArtefactError, ConfigError, DataError
from rayconvai.places import pretrained, words
from rayconvai.tokenizers.base import Tokenizer, read_record, write_record

DEFINITION_FILE = "subwords.json"
_UNKNOWN = "[UNK]"
_PROBE = "a"


class SubwordTokenizer(Tokenizer):
    """Word pieces or byte pairs, as the library ``tokenizers`` defines them in JSON.

    What it lower-cases or strips does not come back by ``decode``.

    Args:
        definition: the tokenizer as the library writes it.

    Raises:
        ArtefactError: not such a definition.
    Source: Wu et al. 2016 (arXiv 1609.08144, word pieces); Sennrich et al. 2016 (arXiv 1508.07909, byte pairs).
    """

    kind = "subword"

    def __init__(self, definition: str) -> None:
        library: Any = require("tokenizers", extra="nlp")
        try:
            self._tokenizer = library.Tokenizer.from_str(definition)
        except Exception as error:  # the library's own have no type
            raise ArtefactError(f"not a definition of a tokenizer: {words(error)[:200]}") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        *,
        algorithm: Literal["wordpiece", "bpe"] = "wordpiece",
        vocab_size: int = 2000,
        lowercase: bool = True,
    ) -> Self:
        """Train on ``texts``: word pieces of words and punctuation marks, or pairs of bytes, which can write any text.

        Raises:
            ConfigError: ``vocab_size`` does not hold the characters (``wordpiece``) or bytes (``bpe``).
            DataError: there is no text.
        """
        library: Any = require("tokenizers", extra="nlp")
        written = [text for text in texts if text.strip()]
        if not written:
            raise DataError("no text to train a tokenizer from: the training texts have no characters")
        parts, trainers = library.pre_tokenizers, library.trainers
        options = {"vocab_size": vocab_size, "show_progress": False}
        if algorithm == "wordpiece":
            tokenizer = library.Tokenizer(library.models.WordPiece(unk_token=_UNKNOWN))
            tokenizer.normalizer = library.normalizers.BertNormalizer(lowercase=lowercase)
            tokenizer.pre_tokenizer = parts.BertPreTokenizer()
            tokenizer.decoder = library.decoders.WordPiece()
            # The library numbers what goes on within a word in the order of a hash, and breaks ties by number: other
            # pieces in each process. Here they have their numbers before.
            words = (word for text in written for word in _words(tokenizer, text))
            within = sorted({f"##{character}" for word in words for character in word[1:]})
            trainer = trainers.WordPieceTrainer(special_tokens=[_UNKNOWN, *within], **options)
        else:
            tokenizer = library.Tokenizer(library.models.BPE())
            tokenizer.normalizer = library.normalizers.Lowercase() if lowercase else None
            tokenizer.pre_tokenizer = parts.ByteLevel(add_prefix_space=True)
            tokenizer.decoder = library.decoders.ByteLevel()
            trainer = trainers.BpeTrainer(initial_alphabet=sorted(parts.ByteLevel.alphabet()), **options)
        tokenizer.train_from_iterator(written, trainer)
        if tokenizer.get_vocab_size() > vocab_size:
            least = tokenizer.get_vocab_size()
            raise ConfigError(f"tokenizer.vocab_size={vocab_size} is too small for these texts; smallest: {least}")
        if algorithm == "wordpiece":  # without what was special for the training only
            tokenizer.model = library.models.WordPiece(tokenizer.get_vocab(), unk_token=_UNKNOWN)
            plain = json.loads(tokenizer.to_str())
            plain["added_tokens"] = [one for one in plain["added_tokens"] if one["content"] == _UNKNOWN]
            return cls(json.dumps(plain))
        return cls(tokenizer.to_str())

    @classmethod
    def pretrained(cls, texts: Iterable[str] | None = None, *, source: str) -> Self:
        """Take the tokenizer of a pretrained encoder.

        Args:
            texts: what a run gives every tokenizer; not read.
            source: as the encoder's: a directory, ``package:NAME/DIRECTORY``, or a name on the hub.

        Raises:
            ConfigError: there is none.
        """
        transformers: Any = require("transformers", extra="nlp")
        directory = pretrained(source)
        try:
            found = transformers.AutoTokenizer.from_pretrained(
                directory, add_prefix_space=True, trust_remote_code=False
            )
            made = cls(found.backend_tokenizer.to_str())
        except Exception as error:  # whatever the library raises: it has one kind for each way to fail
            raise ConfigError(f"tokenizer.source: {source} holds no tokenizer: {words(error)[:200]}") from error
        if not made._reads_words_one_by_one():
            made._prepend_space()
        if not made._reads_words_one_by_one():
            raise ConfigError(
                f"tokenizer.source: {source} reads words alone in another way than in a text; take another"
            )
        return made

    @cached_property
    def vocab(self) -> list[str]:
        numbered: dict[str, int] = self._tokenizer.get_vocab()
        names = {number: name for name, number in numbered.items()}
        return [names.get(number, "") for number in range(max(names) + 1)]  # numbers may have gaps

    @cached_property
    def frame(self) -> tuple[list[int], list[int]]:
        bare = len(self._tokenizer.encode(_PROBE, add_special_tokens=False).ids)
        probe = self._tokenizer.encode(_PROBE)
        before = probe.special_tokens_mask.index(0)
        ids: list[int] = probe.ids
        return ids[:before], ids[before + bare :]

    @cached_property
    def _unknown_id(self) -> int | None:
        token = getattr(self._tokenizer.model, "unk_token", None)
        number: int | None = None if token is None else self._tokenizer.token_to_id(token)
        return number

    def _reads_words_one_by_one(self) -> bool:
        """Return whether a word alone has the tokens that it has behind another one."""
        alone, twice = (
            self._tokenizer.encode(text, add_special_tokens=False).ids for text in (_PROBE, f"{_PROBE} {_PROBE}")
        )
        return bool(twice == alone + alone)

    def _prepend_space(self) -> None:
        """Let every text begin with a space: byte pairs have the one before a word in its first token."""
        library: Any = require("tokenizers", extra="nlp")
        steps = [library.normalizers.Prepend(" "), self._tokenizer.normalizer]
        self._tokenizer.normalizer = library.normalizers.Sequence([step for step in steps if step is not None])

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        if self._unknown_id in ids:
            self._refuse_unknown(text)
        return ids

    def encode_words(self, words: Sequence[str]) -> list[list[int]]:
        return [made.ids for made in self._tokenizer.encode_batch_fast(list(words), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        self._check_ids(ids)
        text: str = self._tokenizer.decode([int(i) for i in ids])
        return text.strip()

    def unknown(self, text: str) -> set[str]:
        encoded = zip(sorted(set(text)), self.encode_words(sorted(set(text))), strict=True)
        return {char for char, ids in encoded if self._unknown_id in ids}

    def save(self, directory: Path) -> None:
        write_record(directory, {"type": self.kind, "vocab_size": self.vocab_size})
        (directory / DEFINITION_FILE).write_text(self._tokenizer.to_str(), encoding="utf-8")

    @classmethod
    def load(cls, directory: Path) -> Self:
        read_record(directory, cls.kind)
        path = directory / DEFINITION_FILE
        try:
            return cls(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ArtefactError(f"{path}: cannot read the tokenizer: {error}") from error

    def __getstate__(self) -> dict[str, Any]:
        return {"definition": self._tokenizer.to_str()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["definition"])  # type: ignore[misc]


def _words(tokenizer: Any, text: str) -> list[str]:
    return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(text))]
