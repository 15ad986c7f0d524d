"""Tokenizers: text to numbers and back, kept without pickle."""

from __future__ import annotations

from pathlib import Path

from rayconvai.errors import ArtefactError, nearest
from rayconvai.tokenizers.base import TOKENIZER_FILE, Tokenizer, read_record
from rayconvai.tokenizers.char import CharTokenizer
from rayconvai.tokenizers.sentencepiece import SentencePieceTokenizer
from rayconvai.tokenizers.speech import SpeechTokenizer
from rayconvai.tokenizers.subword import SubwordTokenizer

__all__ = [
    "CharTokenizer",
    "SentencePieceTokenizer",
    "SpeechTokenizer",
    "SubwordTokenizer",
    "Tokenizer",
    "load_tokenizer",
]

KINDS: dict[str, type[Tokenizer]] = {
    kind.kind: kind for kind in (CharTokenizer, SentencePieceTokenizer, SpeechTokenizer, SubwordTokenizer)
}


def load_tokenizer(directory: Path) -> Tokenizer:
    """Load whichever tokenizer was saved in ``directory``.

    Raises:
        ArtefactError: a file is missing or damaged, or the type is unknown.
    """
    kind = read_record(directory)["type"]
    if kind not in KINDS:
        raise ArtefactError(f"{directory / TOKENIZER_FILE}: unknown type {kind!r}{nearest(kind, KINDS)}")
    return KINDS[kind].load(directory)
