from __future__ import annotations

import json
import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from rayconvai.data.audio import write_audio
from rayconvai.data.manifest import Manifest, Utterance, check_manifest
from rayconvai.errors import DataError

GOOD = {"audio_filepath": "a.wav", "duration": 1.5, "text": "one two"}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYCONVAI_CACHE", str(tmp_path_factory.mktemp("cache")))


def write(path: Path, *rows: dict | str | bytes) -> Path:
    lines = [row if isinstance(row, (str, bytes)) else json.dumps(row) for row in rows]
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines) + b"\n")
    return path


def test_rows_and_paths(tmp_path: Path) -> None:
    path = write(
        tmp_path / "m.jsonl",
        GOOD,
        "",
        {**GOOD, "audio_filepath": "/abs/b.flac", "offset": 2, "speaker": 7, "duration": 3, "more": [1]},
        {**GOOD, "text": "à è", "offset": None, "speaker": "s1"},
    )
    manifest = Manifest.open(path)
    assert list(manifest) == [
        Utterance(tmp_path / "a.wav", 1.5, "one two", 0.0, None, 1),
        Utterance(Path("/abs/b.flac"), 3.0, "one two", 2.0, "7", 3),
        Utterance(tmp_path / "a.wav", 1.5, "à è", 0.0, "s1", 4),
    ]
    assert list(manifest.texts()) == ["one two", "one two", "à è"]
    assert manifest.durations.tolist() == [1.5, 3.0, 1.5]
    assert manifest.hours == pytest.approx(6 / 3600)
    assert manifest[-1].line == 4
    assert manifest.where(1) == f"{path}:3"


def test_split_select_pickle(tmp_path: Path) -> None:
    rows = [{**GOOD, "text": str(i), "split": ["train", "dev"][i % 3 == 0]} for i in range(2000)]
    manifest = Manifest.open(write(tmp_path / "m.jsonl", *rows), "dev")
    assert list(manifest.texts()) == [str(i) for i in range(0, 2000, 3)]
    chosen = manifest.select(np.array([5, 2]))
    copy = pickle.loads(pickle.dumps(chosen))
    assert list(copy) == list(chosen) == [manifest[5], manifest[2]]
    assert len(pickle.dumps(manifest)) < 25 * len(manifest)


BAD = [
    pytest.param('{"audio_filepath": "a.wav", ', "not valid JSON", id="cut_json"),
    pytest.param("[1, 2]", "not one JSON object", id="array"),
    pytest.param('{"duration": 1} {"a": 2}', "not one JSON object", id="two_objects"),
    pytest.param("[" * 10_000, "not one JSON object", id="deep"),
    pytest.param(b'{"text": "\xff"}', "not UTF-8", id="not_utf8"),
    pytest.param("\ufeff" + json.dumps(GOOD), "byte-order mark", id="byte_order_mark"),
    pytest.param({"duration": 1.0, "text": "x"}, "key 'audio_filepath' is missing; add it", id="no_audio"),
    pytest.param({**GOOD, "audio_filepath": ""}, "'audio_filepath' is empty", id="empty_audio"),
    pytest.param({**GOOD, "audio_filepath": 3}, "'audio_filepath' is 3; it must be a string", id="number_audio"),
    pytest.param({"audio_filepath": "a", "text": "x"}, "key 'duration' is missing", id="no_duration"),
    pytest.param(
        {"audio_filepath": "a", "durations": 1, "text": "x"}, "is missing; nearest: durations", id="misspelt_duration"
    ),
    pytest.param({**GOOD, "duration": "1.5"}, "'duration' is '1.5'; it must be a number", id="text_duration"),
    pytest.param({**GOOD, "duration": True}, "'duration' is True; it must be a number", id="bool_duration"),
    pytest.param({**GOOD, "duration": 0}, "'duration' is 0; it must be more than 0", id="zero_duration"),
    pytest.param({**GOOD, "duration": -1.0}, "'duration' is -1.0; it must be more than 0", id="negative_duration"),
    pytest.param({**GOOD, "duration": float("nan")}, "'duration' is nan", id="nan_duration"),
    pytest.param({**GOOD, "duration": float("inf")}, "'duration' is inf", id="infinite_duration"),
    pytest.param({**GOOD, "duration": 10**400}, "'duration' is 1", id="huge_duration"),
    pytest.param({**GOOD, "offset": -0.5}, "'offset' is -0.5; it must be 0 or more", id="negative_offset"),
    pytest.param({**GOOD, "offset": "0"}, "'offset' is '0'; it must be a number", id="text_offset"),
    pytest.param({"audio_filepath": "a", "duration": 1}, "key 'text' is missing", id="no_text"),
    pytest.param({**GOOD, "text": 5}, "'text' is 5; it must be a string", id="number_text"),
]


@pytest.mark.parametrize("split", [None, "train"], ids=["all", "split"])
@pytest.mark.parametrize(("row", "message"), BAD)
def test_bad_line_is_named(row: dict | str | bytes, message: str, split: str | None, tmp_path: Path) -> None:
    good = {**GOOD, "split": "train"}
    bad = {**row, "split": "train"} if isinstance(row, dict) else row
    path = write(tmp_path / "m.jsonl", *[good] * 700, "", bad, good)
    with pytest.raises(DataError) as caught:
        Manifest.open(path, split)
    assert str(caught.value).startswith(f"{path}:702: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_text_may_be_missing_where_said(tmp_path: Path) -> None:
    path = write(tmp_path / "noise.jsonl", {"audio_filepath": "n.wav", "duration": 2}, {**GOOD, "text": None})
    assert [row.text for row in Manifest.open(path, require_text=False)] == ["", ""]


@pytest.mark.parametrize(
    ("rows", "split", "message"),
    [
        pytest.param(None, None, "manifest not found", id="missing"),
        pytest.param([], None, "empty manifest", id="empty"),
        pytest.param(["", "  "], None, "empty manifest", id="blank"),
        pytest.param([GOOD], "dev", "no row has a 'split'", id="no_split_field"),
        pytest.param([{**GOOD, "split": "train"}], "dev", "splits there are: train", id="no_such_split"),
    ],
)
def test_no_rows(rows: list | None, split: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    if rows is not None:
        write(path, *rows)
    with pytest.raises(DataError, match=message) as caught:
        Manifest.open(path, split)
    assert str(caught.value).startswith(f"{path}: ")


def test_change_on_disk_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "m.jsonl", GOOD, GOOD)
    manifest = Manifest.open(path)
    write(path, {**GOOD, "text": "longer than before"}, GOOD)
    with pytest.raises(DataError, match="changed since it was opened"):
        manifest[0]


def test_fingerprint_is_of_what_matters(tmp_path: Path) -> None:
    def mark(name: str, *rows: dict) -> str:
        (tmp_path / name).mkdir()
        found = Manifest.open(write(tmp_path / name / "m.jsonl", *rows)).fingerprint()
        assert found["utterances"] == len(rows)
        return found["sha256"]

    first = mark("a", GOOD, GOOD)
    assert mark("moved", GOOD, GOOD) == first
    assert mark("more_keys", {"snr": 3, **GOOD}, GOOD) == first
    for key, value in {"text": "one too", "duration": 1.6, "audio_filepath": "b.wav", "offset": 0.5}.items():
        assert mark(key, {**GOOD, key: value}, GOOD) != first


class Letters:
    def unknown(self, text: str) -> set[str]:
        return set(text) - set(" abcdefghijklmnopqrstuvwxyz")


def tone(path: Path, seconds: float, gain: float = 0.3) -> None:
    write_audio(path, gain * torch.sin(torch.arange(int(16_000 * seconds)) / 5), 16_000)


def corpus(folder: Path, bad: dict) -> Manifest:
    """Three good rows, and one between them that says ``bad``."""
    folder.mkdir(exist_ok=True)
    tone(folder / "a.wav", 1.5)
    tone(folder / "long.wav", 6.0)
    tone(folder / "silent.wav", 1.5, gain=1e-5)
    (folder / "zero.wav").write_bytes(b"")
    write_audio(folder / "no_samples.wav", torch.zeros(0), 16_000)
    (folder / "text.wav").write_text("this is no sound")
    damaged = (folder / "a.wav").read_bytes()
    (folder / "cut.wav").write_bytes(damaged[: len(damaged) // 3])
    write_audio(folder / "nan.wav", torch.full((24_000,), float("nan")), 16_000, subtype="FLOAT")
    return Manifest.open(write(folder / "m.jsonl", GOOD, GOOD, {**GOOD, **bad}, GOOD))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        pytest.param({"audio_filepath": "none.wav"}, "none.wav: sound file not found", id="missing"),
        pytest.param({"audio_filepath": "zero.wav"}, "zero.wav: zero-length sound file", id="zero_bytes"),
        pytest.param({"audio_filepath": "no_samples.wav"}, "zero-length sound file", id="no_samples"),
        pytest.param({"audio_filepath": "text.wav"}, "text.wav: cannot be read as sound", id="not_sound"),
        pytest.param({"audio_filepath": "."}, "is not a file", id="directory"),
        pytest.param({"audio_filepath": "cut.wav"}, "cut.wav: ends at 0.5", id="cut"),
        pytest.param({"audio_filepath": "silent.wav"}, "silent.wav: all-silent", id="silent"),
        pytest.param({"audio_filepath": "nan.wav"}, "holds NaN", id="nan"),
        pytest.param({"duration": 1.7}, "ends at 1.50 s, but the line declares 1.70 s", id="declared_longer"),
        pytest.param({"offset": 0.5}, "ends at 1.50 s, but the line declares 2.00 s", id="offset_past_end"),
        pytest.param({"audio_filepath": "long.wav"}, "lasts 6.00 s, but the line declares 1.50 s", id="a_part"),
        pytest.param({"text": "one 2"}, "cannot write: '2'", id="unknown_character"),
        pytest.param({"text": " "}, "text is empty", id="empty_text"),
        pytest.param({"duration": 0.05}, "lasts 0.05 s, not between 0.1 and 2 s", id="too_short"),
        pytest.param({"duration": 6.0, "audio_filepath": "long.wav"}, "not between 0.1 and 2 s", id="too_long"),
    ],
)
def test_check_refuses_or_skips(bad: dict, message: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    manifest = corpus(tmp_path, bad)
    options = {"tokenizer": Letters(), "min_duration": 0.1, "max_duration": 2.0}
    with pytest.raises(DataError) as caught:
        check_manifest(manifest, **options)
    assert str(caught.value).startswith(f"{manifest.path}:3: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    with caplog.at_level(logging.WARNING, "rayconvai"):
        assert [row.line for row in check_manifest(manifest, on_bad="skip", **options)] == [1, 2, 4]
    assert "left out 1 of 4 utterances" in caplog.text


def test_check_counts_the_others(tmp_path: Path) -> None:
    corpus(tmp_path, {})
    manifest = Manifest.open(write(tmp_path / "n.jsonl", GOOD, *[{**GOOD, "audio_filepath": "no.wav"}] * 5))
    with pytest.raises(DataError, match=r"n.jsonl:2: .*and 4 more bad lines.*data.checks.on_bad=skip"):
        check_manifest(manifest)
    with pytest.raises(DataError, match="all 5 utterances are bad"):
        check_manifest(manifest.select(range(1, 6)), on_bad="skip")


def test_check_takes_parts_of_long_files(tmp_path: Path) -> None:
    part = {"audio_filepath": "long.wav", "duration": 2.0, "offset": 0}
    assert len(check_manifest(corpus(tmp_path, part), tokenizer=Letters())) == 4


def test_check_is_remembered_until_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = corpus(tmp_path, {})
    check_manifest(manifest)
    with monkeypatch.context() as patch:
        patch.setattr("rayconvai.data.manifest.scan", None)
        check_manifest(manifest)
    tone(tmp_path / "a.wav", 1.0)
    with pytest.raises(DataError, match=r"m.jsonl:1: .*and 3 more"):
        check_manifest(manifest)


def test_unwritable_cache_only_costs_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_file").touch()
    monkeypatch.setenv("RAYCONVAI_CACHE", str(tmp_path / "a_file"))
    assert len(check_manifest(corpus(tmp_path, {}))) == 4


@pytest.mark.parametrize("name", ["digits_connected", "so762"])
def test_real_corpora_pass(name: str, shared_data: Path) -> None:
    manifest = Manifest.open(shared_data / name / "manifest.jsonl", "dev").select(range(0, 190, 10))
    assert len(check_manifest(manifest, tokenizer=Letters() if name == "digits_connected" else None)) == len(manifest)
