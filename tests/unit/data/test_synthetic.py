"""The embedded corpus: what it holds, that it is the same everywhere, and what a bad cache gets."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import wave
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from rayconvai.data import cache, sentences
from rayconvai.data.corpus import Splits
from rayconvai.data.espeak import Synthesizer
from rayconvai.data.synthetic import ACCENTS, VARIANTS, SyntheticCorpus
from rayconvai.errors import ConfigError, DataError, StorageError

GOLDEN = {
    ("digits", 10): "1ca91851b94377340e2b5c59595d02add54b8a46486f5b42bf2eeaa84ca6547d",
    ("sentences", 10): "7ba7c25d55161d76d65d89692fe6ea9894cb2b8b65aca0e744c37525e5a5d44f",
    ("all", 40): "f4460983a9e5474700053139f382fbcb312b1ad5b98db63614bf05c67309bb98",
    ("all", 1000): "9fe6654dd02a6abdbab24162a467550fc2c7abbb8a08d260b8d01a9e741db526",
}
same_wheel = pytest.mark.skipif(
    sys.platform != "linux" or version("espeakng-loader") != "0.2.4",
    reason="the golden values are of espeakng-loader 0.2.4 on Linux",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[SyntheticCorpus, Splits]:
    corpus = SyntheticCorpus("all", size=40, cache_dir=tmp_path_factory.mktemp("cache"))
    return corpus, corpus.prepare()


def make_elsewhere(directory: Path, size: int = 10, **environment: str) -> subprocess.Popen[str]:
    code = f"""
from rayconvai.data.synthetic import SyntheticCorpus
print(SyntheticCorpus("all", size={size}, cache_dir={str(directory)!r}).fingerprint()["sha256"])
"""
    environment = {**os.environ, **environment}
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)


def test_splits_share_neither_voice_nor_text(made: tuple[SyntheticCorpus, Splits]) -> None:
    _, splits = made
    assert splits.test is not None
    parts = [list(splits.train), list(splits.dev), list(splits.test)]
    assert [len(part) for part in parts] == [32, 4, 4]
    for what in (lambda row: row.text, lambda row: row.speaker.split("+")[1]):
        seen = [{what(row) for row in part} for part in parts]
        assert len(set.union(*seen)) == sum(map(len, seen))
    assert all(set(row.text) <= set("abcdefghijklmnopqrstuvwxyz ") for part in parts for row in part)
    assert any(row.text.split()[0] in sentences.DIGITS for row in parts[0])
    assert any("the" in row.text.split() for row in parts[0])


def test_one_voice_speaks_all_splits(tmp_path: Path) -> None:
    splits = SyntheticCorpus("sentences", size=10, cache_dir=tmp_path, voice="en-us+f4").prepare()
    assert splits.test is not None
    assert {row.speaker for part in (splits.train, splits.dev, splits.test) for row in part} == {"en-us+f4"}
    with pytest.raises(DataError, match=r"eSpeak has no voice 'en-us\+nobody'"):
        SyntheticCorpus("sentences", size=10, cache_dir=tmp_path, voice="en-us+nobody").prepare()


def test_sound_is_what_the_manifest_says(made: tuple[SyntheticCorpus, Splits]) -> None:
    for row in made[1].train:
        with wave.open(str(row.audio_filepath)) as file:
            assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16_000, 1, 2)
            assert file.getnframes() / 16_000 == pytest.approx(row.duration, abs=1e-4)
        assert 0.5 < row.duration < 5


@same_wheel
@pytest.mark.parametrize(("kind", "size"), [("digits", 10), ("sentences", 10), ("all", 40)])
def test_bytes_are_golden(kind: sentences.Kind, size: int, tmp_path: Path) -> None:
    found = SyntheticCorpus(kind, size=size, cache_dir=tmp_path).fingerprint()
    assert found["sha256"] == GOLDEN[kind, size]
    assert found["espeakng_loader"] == version("espeakng-loader")


@same_wheel
@pytest.mark.slow
def test_default_corpus_is_golden(tmp_path: Path) -> None:
    assert SyntheticCorpus(cache_dir=tmp_path).fingerprint()["sha256"] == GOLDEN["all", 1000]


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's switches")
def test_same_bytes_with_dirty_memory_and_another_libm(tmp_path: Path) -> None:
    here = SyntheticCorpus("all", size=10, cache_dir=tmp_path / "here").fingerprint()
    switches = {"MALLOC_PERTURB_": "91", "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA,-AVX2_Usable,-FMA_Usable"}
    there, _ = make_elsewhere(tmp_path / "there", **switches).communicate()
    assert there.strip() == here["sha256"]


def test_utterance_depends_on_nothing_before_it() -> None:
    voices = [f"{accent}+{variant}" for accent in ACCENTS[:2] for split in VARIANTS.values() for variant in split]
    with Synthesizer() as synthesizer:
        once = {voice: synthesizer.speak("nine", voice, rate=190, pitch=40).tobytes() for voice in voices}
        again = {voice: synthesizer.speak("nine", voice, rate=190, pitch=40).tobytes() for voice in reversed(voices)}
    assert once == again
    assert len(set(once.values())) == len(voices)


def test_larger_corpus_holds_the_smaller(made: tuple[SyntheticCorpus, Splits], tmp_path: Path) -> None:
    few = SyntheticCorpus("all", size=10, cache_dir=tmp_path).prepare().train
    for row, same in zip(few, islice(made[1].train, len(few)), strict=True):
        assert (row.text, row.speaker) == (same.text, same.speaker)
        assert row.audio_filepath.read_bytes() == same.audio_filepath.read_bytes()


def test_seeds_differ(made: tuple[SyntheticCorpus, Splits], tmp_path: Path) -> None:
    other = SyntheticCorpus("all", size=10, seed=1, cache_dir=tmp_path).prepare()
    assert not {row.text for row in other.train} & {row.text for row in made[1].train}


def test_two_processes_at_once_make_one_corpus(tmp_path: Path) -> None:
    makers = [make_elsewhere(tmp_path) for _ in range(2)]
    digests = {maker.communicate()[0] for maker in makers}
    assert len(digests) == 1
    assert "" not in digests
    found = [path.name for path in (tmp_path / "synthetic").iterdir() if not path.name.endswith(".lock")]
    assert found == [SyntheticCorpus("all", size=10, cache_dir=tmp_path).directory.name]


def damage_by_loss(corpus: Path) -> None:
    next(corpus.glob("audio/*")).unlink()


def damage_by_cut(corpus: Path) -> None:
    os.truncate(corpus / "train.jsonl", 100)


def damage_marker(corpus: Path) -> None:
    (corpus / cache.MARKER).write_text("{")


@pytest.mark.parametrize("damage", [damage_by_loss, damage_by_cut, damage_marker])
def test_damaged_cache_is_made_again(damage: Any, tmp_path: Path) -> None:
    corpus = SyntheticCorpus("digits", size=10, cache_dir=tmp_path)
    first = corpus.fingerprint()
    kept = corpus.directory.stat().st_ino
    assert corpus.fingerprint() == first
    assert corpus.directory.stat().st_ino == kept
    damage(corpus.directory)
    assert corpus.fingerprint() == first
    assert len(corpus.prepare().train) == 8
    assert len(list(corpus.directory.glob("audio/*"))) == 10


def test_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    def fill(directory: Path) -> dict[str, Any]:
        (directory / "half").write_text("made")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StorageError, match=rf"{tmp_path}: cannot write the cache: No space left.*RAYCONVAI_CACHE"):
        cache.make_once(tmp_path / "corpus", fill)
    assert [path.name for path in tmp_path.iterdir()] == [".corpus.lock"]


def test_unwritable_cache_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RAYCONVAI_CACHE", str(tmp_path / "file"))
    with pytest.raises(StorageError, match=rf"{tmp_path}/file/synthetic: cannot write the cache: Not a directory; "):
        SyntheticCorpus("digits", size=10).prepare()


def test_without_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(ConfigError, match=r"pip install 'rayconvai\[demo\]'"):
        SyntheticCorpus("digits", size=10, cache_dir=tmp_path).prepare()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"kind": "digit"}, "kind is 'digit'.*nearest: digits", id="kind"),
        pytest.param({"size": 9}, "size is 9; it takes at least 10", id="too_small"),
        pytest.param({"kind": "sentences", "size": 90_000}, r"only \d+ texts for train, not 72000", id="too_large"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        SyntheticCorpus(**options, cache_dir=tmp_path).prepare()


@pytest.mark.parametrize("voice", ["en-us+nobody", "xx+m1"])
def test_no_such_voice(voice: str) -> None:
    with Synthesizer() as synthesizer, pytest.raises(DataError, match="eSpeak has no voice"):
        synthesizer.speak("one", voice)
