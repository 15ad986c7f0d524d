"""A user's own corpus, by path."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rayconvai.data.corpus import ManifestCorpus, TrainAndDev
from rayconvai.errors import ConfigError, DataError

ROW = {"audio_filepath": "a.wav", "duration": 1.0, "text": "one"}


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps({**ROW, **row}) + "\n" for row in rows))
    return path


def test_one_manifest_a_split(tmp_path: Path) -> None:
    train, dev = write(tmp_path / "train.jsonl", {}, {}), write(tmp_path / "dev.jsonl", {"text": "two"})
    splits = ManifestCorpus(train=str(train), dev=dev).prepare()
    assert (len(splits.train), splits.test) == (2, None)
    assert splits.dev[0].text == "two"
    assert splits.dev[0].audio_filepath == tmp_path / "a.wav"
    assert ManifestCorpus(train=train, dev=dev, test=dev).prepare().test is not None


@pytest.mark.parametrize("with_test", [True, False])
def test_one_manifest_with_a_split_field(tmp_path: Path, with_test: bool) -> None:
    rows = [{"split": "train"}, {"split": "dev", "text": "two"}, {"split": "train"}, {"split": "other"}]
    path = write(tmp_path / "all.jsonl", *rows, *([{"split": "test", "text": "three"}] if with_test else []))
    splits = ManifestCorpus(manifest=path).prepare()
    assert [row.line for row in splits.train] == [1, 3]
    assert list(splits.dev.texts()) == ["two"]
    assert (list(splits.test.texts()) if splits.test else None) == (["three"] if with_test else None)


def test_dev_joins_train(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    train = write(tmp_path / "train.jsonl", {"offset": 0.5}, {"speaker": "s"})
    dev = write(tmp_path / "elsewhere" / "dev.jsonl", {"text": "two"})
    joined = TrainAndDev(ManifestCorpus(train=train, dev=dev, test=dev), cache_dir=tmp_path / "cache").prepare()
    assert [(row.text, row.offset, row.speaker) for row in joined.train] == [
        ("one", 0.5, None), ("one", 0.0, "s"), ("two", 0.0, None)
    ]  # fmt: skip
    assert [row.audio_filepath for row in joined.train][1:] == [tmp_path / "a.wav", tmp_path / "elsewhere" / "a.wav"]
    assert (len(joined.dev), joined.test and len(joined.test)) == (1, 1)
    assert [joined.train.has_offset(row) for row in range(3)] == [True, False, False]


def test_damaged_line_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "all.jsonl", {"split": "train"}, {"split": "dev"})
    path.write_text(path.read_text() + "{\n")
    with pytest.raises(DataError, match=r"all\.jsonl:3"):
        ManifestCorpus(manifest=path).prepare()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(
            lambda d: {"train": write(d / "t", {}), "dev": d / "none.jsonl"},
            r"data\.corpus\.dev: manifest not found: /.*none\.jsonl; give",
            id="missing_file",
        ),
        pytest.param(
            lambda d: {"train": write(d / "t", {}), "dev": write(d / "d")}, "/d: the dev set is empty", id="empty_dev"
        ),
        pytest.param(lambda d: {"manifest": d / "none"}, "manifest not found: /.*none; give", id="missing_manifest"),
        pytest.param(
            lambda d: {"manifest": write(d / "all", {})},
            "/all: the train set is empty, no row has a 'split' field; give every row",
            id="no_split_field",
        ),
        pytest.param(
            lambda d: {"manifest": write(d / "all", {"split": "train"}, {"split": "valid"})},
            "/all: the dev set is empty, splits there are: train, valid; give every row",
            id="other_split_names",
        ),
    ],
)
def test_data_that_cannot_be(make: Callable[[Path], dict[str, Any]], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message) as caught:
        ManifestCorpus(**make(tmp_path)).prepare()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({}, "corpus.train is missing", id="nothing"),
        pytest.param({"train": "t"}, "corpus.dev is missing", id="no_dev"),
        pytest.param({"train": "t", "dev": "d", "manifest": "m"}, "exclude each other", id="both_forms"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ManifestCorpus(**options)
