"""Tokenizers, through the doors that recipes and artefacts use."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayconvai.errors import ArtefactError, ConfigError, DataError
from rayconvai.tokenizers import (
    CharTokenizer,
    SentencePieceTokenizer,
    SubwordTokenizer,
    Tokenizer,
    load_tokenizer,
)

TEXTS = ["zero one two three four", "five six seven eight nine", "über größe"]
KINDS = [
    pytest.param(CharTokenizer.train, id="char"),
    pytest.param(partial(SentencePieceTokenizer.train, vocab_size=25), id="unigram"),
    pytest.param(partial(SentencePieceTokenizer.train, vocab_size=40, model_type="bpe"), id="bpe"),
    pytest.param(partial(SubwordTokenizer.train, vocab_size=100, lowercase=False), id="wordpiece"),
]
BYTES = pytest.param(partial(SubwordTokenizer.train, algorithm="bpe", vocab_size=300, lowercase=False), id="bytes")
Train = Callable[..., Tokenizer]


@pytest.mark.parametrize("train", [*KINDS, BYTES])
def test_round_trip_alone_pickled_and_saved(train: Train, tmp_path: Path) -> None:
    tokenizer = train(iter(TEXTS))
    tokenizer.save(tmp_path / "tokenizer")
    for copy in (tokenizer, pickle.loads(pickle.dumps(tokenizer)), load_tokenizer(tmp_path / "tokenizer")):
        assert type(copy) is type(tokenizer)
        assert copy.vocab == tokenizer.vocab
        assert copy.vocab_size == len(copy.vocab)
        for text in [*TEXTS, "nine nine six", ""]:
            assert copy.encode(text) == tokenizer.encode(text)
            assert copy.decode(copy.encode(text)) == text


@pytest.mark.parametrize("train", KINDS)
def test_refusals(train: Train) -> None:
    tokenizer = train(TEXTS)
    assert tokenizer.encode("") == []
    assert tokenizer.unknown("one") == set()
    assert tokenizer.unknown("one! Ünix") == {"!", "Ü"}
    with pytest.raises(DataError, match=r"characters \['!', 'Ü'\] of 'one! Ünix'.*train the tokenizer"):
        tokenizer.encode("one! Ünix")
    for wrong in (-1, tokenizer.vocab_size):
        with pytest.raises(DataError, match="outside the tokenizer's vocabulary"):
            tokenizer.decode([wrong])
    with pytest.raises(DataError, match="no text"):
        train([])


@pytest.mark.parametrize("algorithm", ["wordpiece", "bpe"])
def test_words_are_read_one_by_one_as_in_their_text(algorithm: str) -> None:
    tokenizer = SubwordTokenizer.train(TEXTS, algorithm=algorithm, vocab_size=300)  # type: ignore[arg-type]
    words = tokenizer.encode_words(["nine", "FIVE", "six"])
    assert [number for word in words for number in word] == tokenizer.encode("nine five six")
    assert tokenizer.encode_words(["!?"]) != [[]]
    assert tokenizer.frame == ([], [])


def test_char_is_sorted_or_as_given() -> None:
    assert CharTokenizer.train(["cab", "b a"]).vocab == [" ", "a", "b", "c"]
    assert CharTokenizer("cab").encode("abc") == [1, 2, 0]


@given(st.lists(st.text(max_size=30)).filter(lambda texts: any(texts)))
@settings(deadline=None)
def test_char_writes_whatever_it_was_trained_on(texts: list[str]) -> None:
    tokenizer = CharTokenizer.train(texts)
    for text in texts:
        ids = tokenizer.encode(text)
        assert len(ids) == len(text)
        assert tokenizer.decode(ids) == text


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lambda: CharTokenizer(["a", "a"]), "each character once", id="twice"),
        pytest.param(lambda: CharTokenizer([]), "at least one", id="no_vocab"),
        pytest.param(lambda: CharTokenizer(["ab"]), "'ab' is not one character", id="two_characters"),
        pytest.param(
            lambda: SentencePieceTokenizer.train(TEXTS, vocab_size=1000),
            r"vocab_size=1000 is too large for these texts; largest: \d+$",
            id="unigram_too_large",
        ),
        pytest.param(
            lambda: SentencePieceTokenizer.train(TEXTS, vocab_size=1000, model_type="bpe"),
            r"vocab_size=1000 is too large for these texts; largest: \d+$",
            id="bpe_too_large",
        ),
        pytest.param(
            lambda: SentencePieceTokenizer.train(TEXTS, vocab_size=5),
            r"vocab_size=5 is too small for these texts; smallest: \d+$",
            id="too_small",
        ),
        pytest.param(
            lambda: SubwordTokenizer.train(TEXTS, vocab_size=5),
            r"vocab_size=5 is too small for these texts; smallest: \d+$",
            id="wordpiece_too_small",
        ),
        pytest.param(
            lambda: SentencePieceTokenizer.train(TEXTS, model_type="word"),  # type: ignore[arg-type]
            "model_type is 'word'",
            id="model_type",
        ),
    ],
)
def test_options_that_cannot_be(make: Callable[[], Tokenizer], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_largest_named_is_possible(model_type: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SentencePieceTokenizer.train(TEXTS, vocab_size=1000, model_type=model_type)  # type: ignore[arg-type]
    largest = int(str(caught.value).split()[-1])
    tokenizer = SentencePieceTokenizer.train(TEXTS, vocab_size=largest, model_type=model_type)  # type: ignore[arg-type]
    assert tokenizer.vocab_size == largest


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(None, "cannot read the tokenizer", id="missing"),
        pytest.param("{", "cannot read the tokenizer", id="not_json"),
        pytest.param("[]", "has no 'type'", id="not_a_record"),
        pytest.param('{"type": "chars"}', "unknown type 'chars'; nearest: char", id="unknown_type"),
        pytest.param('{"type": "char"}', "at least one", id="no_vocab"),
        pytest.param('{"type": "char", "vocab": ["a", "a"]}', "each character once", id="vocab_twice"),
        pytest.param('{"type": "char", "vocab": [1]}', "not one character", id="vocab_of_numbers"),
        pytest.param('{"type": "subword"}', r"subwords\.json: cannot read the tokenizer", id="no_subwords"),
        pytest.param('{"type": "sentencepiece"}', r"tokenizer\.model: cannot read", id="no_model"),
    ],
)
def test_damaged_directory(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ArtefactError, match=message):
        load_tokenizer(tmp_path)


def test_damaged_model_and_other_kind(tmp_path: Path) -> None:
    SentencePieceTokenizer.train(TEXTS, vocab_size=25).save(tmp_path)
    with pytest.raises(ArtefactError, match="holds a tokenizer of type 'sentencepiece', not 'char'"):
        CharTokenizer.load(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"junk")
    with pytest.raises(ArtefactError, match="not a SentencePiece model"):
        load_tokenizer(tmp_path)
    assert json.loads((tmp_path / "tokenizer.json").read_text()) == {"type": "sentencepiece", "vocab_size": 25}


@pytest.mark.parametrize("algorithm", ["wordpiece", "bpe"])
def test_every_process_makes_the_same_subwords(algorithm: str) -> None:
    code = (
        "from rayconvai.tokenizers import SubwordTokenizer; texts = [f'{a}{b}ing {b}{a}ed' for a in 'abcdefgh' "
        f"for b in 'ijklmnop']; print(SubwordTokenizer.train(texts, algorithm='{algorithm}', vocab_size=320).vocab)"
    )
    command = [sys.executable, "-c", code]
    said = {subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(3)}
    assert len(said) == 1
