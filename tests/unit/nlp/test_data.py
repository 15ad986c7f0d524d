"""The data of a run on texts: checks, labels, batches."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rayconvai.data.corpus import TextCorpus, TrainAndDev
from rayconvai.errors import ConfigError, DataError
from rayconvai.nlp.data import Checks, TextData
from rayconvai.nlp.dataset import read
from rayconvai.nlp.rows import Fields
from rayconvai.tokenizers import CharTokenizer, SentencePieceTokenizer, SubwordTokenizer

from .conftest import ROWS, TEXTS, Write

BOTH = Fields(label="intent", tags="slots")


def data_of(train: Path, dev: Path | None = None, fields: Fields = BOTH, **options: Any) -> TextData:
    corpus = TextCorpus(train=train, dev=dev or train)
    return TextData(corpus=corpus, fields=fields, **{"batch_size": 4, **options})


def reader(tokenizer: Any = None, max_tokens: int | None = None) -> Any:
    """What data take from a model."""
    return SimpleNamespace(
        tokenizer=tokenizer or SubwordTokenizer.train(TEXTS, vocab_size=60),
        encoder=SimpleNamespace(max_tokens=max_tokens),
    )


def test_labels_are_those_of_train_and_batches_are_typed(write: Write) -> None:
    data = data_of(write())
    assert data.assets()["labels"].names == ("music", "travel")
    assert data.assets()["tags"].names == ("O", "B-city", "I-city", "B-song", "I-song")
    assert sorted(data.texts()) == sorted(TEXTS)
    assert data.fingerprint()["train"]["texts"] == len(ROWS)
    data.bind(reader())
    dataset = data.dataset("train")
    batch = dataset.collate_fn([2, 4])
    assert batch.labels.tolist() == [1, 0]
    assert batch.tags.tolist() == [[0, 0, 1, 2], [0, 3, -100, -100]]
    for row, length, places in zip(batch.tokens, batch.lengths.tolist(), batch.places.tolist(), strict=True):
        assert places[0] == 0
        assert not row[length:].any()
    seen = [index for some in data.train_dataloader() for index in some.indices.tolist()]
    assert sorted(seen) == list(range(len(ROWS)))
    largest, times = data.largest_batch()
    assert largest.tokens.numel() >= batch.tokens.numel()
    assert times >= 1


def test_a_text_is_read_as_it_is_where_it_has_no_tags(write: Write) -> None:
    data = data_of(write(base=[{"text": text, "label": len(text) % 2} for text in TEXTS]), fields=Fields(label="label"))
    data.bind(reader())
    batch = data.dataset("train").collate_fn([0])
    assert (batch.places, batch.tags) == (None, None)
    assert data.assets()["labels"].names == ("0", "1")
    assert data.dataset("train").words(0) == [TEXTS[0]]


def test_words_keep_their_places_whatever_the_tokenizer() -> None:
    words = ["play", "\u200d", "unheard"]  # the joiner is no token of word pieces
    pieces, _ = read(SubwordTokenizer.train(TEXTS, vocab_size=60), [words, ["fly"]])
    assert pieces.places == [0, 0, 1]
    sentence = SentencePieceTokenizer.train(TEXTS, vocab_size=23)
    (reading,) = read(sentence, [["play", "golden", "ö"]])
    assert reading.tokens[: reading.places[1]] == sentence.encode("play")
    assert reading.tokens[reading.places[2] :] == sentence.encode_words(["ö"])[0]


def test_words_of_byte_pairs_have_the_space_before_them(tmp_path: Path) -> None:
    made = SubwordTokenizer.train(["play golden river"] * 9, algorithm="bpe", vocab_size=300)
    plain = json.loads(made._tokenizer.to_str())
    plain["pre_tokenizer"]["add_prefix_space"] = False  # as ModernBERT's
    (tmp_path / "tokenizer.json").write_text(json.dumps(plain))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    loaded = SubwordTokenizer.pretrained(source=str(tmp_path))
    assert loaded.encode_words(["play", "golden"]) == made.encode_words(["play", "golden"])
    loaded.save(tmp_path)
    assert SubwordTokenizer.load(tmp_path).encode_words(["play"]) == made.encode_words(["play"])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        pytest.param({1: {"tokens": None}}, r"dev\.jsonl:2: neither 'text' nor 'tokens' is there", id="no_text"),
        pytest.param({1: {"tokens": [], "slots": []}}, r"dev\.jsonl:2: 'tokens' is empty", id="empty"),
        pytest.param({1: {"tokens": None, "slots": [], "text": " "}}, r"dev\.jsonl:2: 'text' is empty", id="blank"),
        pytest.param({1: {"tokens": ["a", " ", "b"]}}, r":2: word 2 of 'tokens' is empty", id="empty_word"),
        pytest.param({1: {"tokens": "play winter now"}}, r":2: 'tokens' is not a list of strings", id="not_words"),
        pytest.param({2: {"intent": None, "intnet": "x"}}, r":3: 'intent' is None; nearest: intnet", id="no_label"),
        pytest.param({2: {"intent": "\ud83d"}}, r":3: 'intent' is .* half a character", id="half_a_character"),
        pytest.param({2: {"intent": "travle"}}, r":3: label 'travle' is not .* nearest: travel", id="label"),
        pytest.param({3: {"slots": ["O"]}}, r":4: 1 tags for 4 words", id="count"),
        pytest.param({3: {"slots": ["O", "O", "O", "I-city"]}}, r":4: tag 4 is 'I-city' after 'O'", id="bio"),
        pytest.param({3: {"slots": ["O", "O", "O", "B-town"]}}, r":4: tag 'B-town' is not among the 5", id="tag"),
        pytest.param({0: {"tokens": ["play"] * 9, "slots": ["O"] * 9}}, r":1: .* 9 tokens long, .* 8", id="long"),
    ],
)  # fmt: skip
def test_unusable_texts_are_refused_or_left_out(
    write: Write, rows: dict[int, dict[str, Any]], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    train, dev = write(), write("dev", rows=rows)
    model = reader(max_tokens=8)
    with pytest.raises(DataError, match=message) as caught:
        data_of(train, dev).bind(model)
    assert "\n" not in str(caught.value)
    lenient = data_of(train, dev, checks=Checks(on_bad="skip"))
    with caplog.at_level(logging.WARNING, "rayconvai"):
        lenient.bind(model)
    assert "left out 1 of 6 texts" in caplog.text
    assert len(lenient.dataset("dev")) == 5


def test_a_tokenizer_that_refuses_characters_names_the_line(write: Write) -> None:
    dev = write("dev", base=[{"text": "to öslo", "intent": "travel"}])
    data = data_of(write(), dev, Fields(label="intent"))
    with pytest.raises(DataError, match=r"dev\.jsonl:1: characters \['ö'\]"):
        data.bind(reader(CharTokenizer.train(TEXTS)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"fields": Fields()}, "fields has neither label nor tags", id="nothing"),
        pytest.param({"batch_size": None}, "batch_tokens and batch_size exclude each other", id="no_size"),
    ],
)
def test_settings_that_cannot_be(write: Write, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        data_of(write(), **options)


def test_one_class_is_nothing_to_learn(write: Write) -> None:
    with pytest.raises(DataError, match="all texts have the same label"):
        data_of(write(base=ROWS[:2]), fields=Fields(label="intent")).prepare()


def test_train_and_dev_are_joined(write: Write, tmp_path: Path) -> None:
    corpus = TrainAndDev(TextCorpus(train=write(), dev=write("dev", ROWS[:2])), cache_dir=tmp_path / "cache")
    assert [len(part) for part in corpus.prepare().named().values()] == [8, 2]


def test_texts_are_held_by_their_numbers(write: Write) -> None:
    """What loader workers get is small and can be pickled."""
    import pickle

    data = data_of(write())
    data.bind(reader())
    copy = pickle.loads(pickle.dumps(data.dataset("dev")))
    for mine, theirs in zip(copy.collate_fn([0, 3]), data.dataset("dev").collate_fn([0, 3]), strict=True):
        assert torch.equal(mine, theirs)
