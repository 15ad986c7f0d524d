from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import soundfile
import torch
from torch import Tensor

from rayconvai.data.audio import is_silent, read_audio, read_utterance, resample, write_audio
from rayconvai.data.manifest import Manifest
from rayconvai.errors import DataError, StorageError

RATE = 16_000


def tone(seconds: float = 1.0, rate: int = RATE, hertz: float = 440.0) -> Tensor:
    return 0.5 * torch.sin(2 * math.pi * hertz * torch.arange(int(seconds * rate)) / rate)


@pytest.mark.parametrize(
    ("name", "subtype", "tolerance"),
    [
        pytest.param("a.wav", None, 1e-4, id="wav_16_bit"),
        pytest.param("a.wav", "FLOAT", 0.0, id="wav_float"),
        pytest.param("a.wav", "PCM_24", 1e-6, id="wav_24_bit"),
        pytest.param("a.flac", None, 1e-4, id="flac"),
        pytest.param("a.ogg", None, 0.05, id="ogg_vorbis"),
        pytest.param("a.opus", None, 0.05, id="opus"),
        pytest.param("a.ogg", "OPUS", 0.05, id="ogg_opus"),
        pytest.param("a.mp3", None, 0.05, id="mp3"),
    ],
)
def test_formats(name: str, subtype: str | None, tolerance: float, tmp_path: Path) -> None:
    write_audio(tmp_path / name, tone(), RATE, subtype=subtype)
    audio = read_audio(tmp_path / name, sample_rate=RATE)
    assert audio.dtype == torch.float32
    assert abs(len(audio) - RATE) <= 0.1 * RATE
    middle = slice(4000, 12_000)
    assert float((audio[middle] - tone()[middle]).abs().max()) <= tolerance
    part = read_audio(tmp_path / name, sample_rate=RATE, offset=0.25, duration=0.5)
    assert len(part) == RATE // 2
    assert float((part - audio[4000:12_000]).abs().max()) <= tolerance


def test_channels_are_averaged(tmp_path: Path) -> None:
    write_audio(tmp_path / "s.wav", torch.stack([tone(), torch.zeros(RATE)]), RATE)
    assert torch.allclose(read_audio(tmp_path / "s.wav", sample_rate=RATE), tone() / 2, atol=1e-4)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 44_101, 48_000])
def test_resampled_tone_is_the_tone(rate: int, tmp_path: Path) -> None:
    write_audio(tmp_path / "r.wav", tone(rate=rate), rate, subtype="FLOAT")
    audio = read_audio(tmp_path / "r.wav", sample_rate=RATE)
    assert len(audio) == RATE
    middle = slice(1000, 15_000)
    assert float((audio[middle] - tone()[middle]).abs().max()) < 5e-3


def test_resample_is_of_any_shape_and_identity_at_the_same_rate() -> None:
    stereo = torch.stack([tone(), tone(hertz=880)])
    assert resample(stereo, RATE, RATE) is stereo
    assert resample(stereo, RATE, 8000).shape == (2, 8000)


def test_errors(tmp_path: Path) -> None:
    write_audio(tmp_path / "ok.wav", tone(), RATE)
    write_audio(tmp_path / "none.wav", torch.zeros(0), RATE)
    write_audio(tmp_path / "nan.wav", torch.tensor([0.0, float("nan")]), RATE, subtype="FLOAT")
    (tmp_path / "zero.flac").touch()
    (tmp_path / "text.mp3").write_text("no sound at all")
    for name, options, message in [
        ("missing.wav", {}, "sound file not found"),
        ("none.wav", {}, "zero-length"),
        ("zero.flac", {}, "zero-length"),
        ("text.mp3", {}, "cannot be read as sound"),
        ("a\0b.wav", {}, "cannot be read as sound|not found"),
        ("nan.wav", {}, "NaN"),
        ("ok.wav", {"offset": 1.0}, "offset 1 s is past its end"),
        ("ok.wav", {"duration": 1.2}, "ends at 1.00 s, but 1.20 s were asked for"),
        ("ok.wav", {"offset": 0.5, "duration": 0.7}, "ends at 1.00 s, but 1.20 s"),
    ]:
        with pytest.raises(DataError, match=message) as caught:
            read_audio(tmp_path / name, sample_rate=RATE, **options)
        assert str(caught.value).startswith(str(tmp_path / name))
        assert "\n" not in str(caught.value)


def test_rounded_durations_are_no_error(tmp_path: Path) -> None:
    write_audio(tmp_path / "ok.wav", tone(), RATE)
    assert len(read_audio(tmp_path / "ok.wav", sample_rate=RATE, duration=1.05)) == RATE


@pytest.mark.parametrize("name", ["a.xyz", "a", "a.opus"])
def test_write_refuses_what_a_format_does_not_have(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be written as"):
        write_audio(tmp_path / name, tone(rate=44_100), 44_100)
    assert not (tmp_path / name).exists()


def test_write_errors_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be written"):
        write_audio(tmp_path / "file" / "a.wav", tone(), RATE)


def test_silent_utterance_is_reported_with_its_line(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "s.wav", torch.zeros(RATE).numpy(), RATE)
    row = {"audio_filepath": "s.wav", "duration": 1.0, "text": "x"}
    (tmp_path / "m.jsonl").write_text(json.dumps(row) + "\n" + json.dumps({**row, "audio_filepath": "gone.wav"}))
    manifest = Manifest.open(tmp_path / "m.jsonl")
    with pytest.raises(DataError, match=r"m.jsonl:1: .*s.wav: all-silent"):
        read_utterance(manifest, 0, sample_rate=RATE)
    with pytest.raises(DataError, match=r"m.jsonl:2: .*gone.wav: sound file not found"):
        read_utterance(manifest, 1, sample_rate=RATE)
    assert not is_silent(tone() * 1e-3)


def test_real_speech(shared_data: Path) -> None:
    manifest = Manifest.open(shared_data / "so762" / "manifest.jsonl", "dev")
    for index in (0, 100, 200):
        audio = read_utterance(manifest, index, sample_rate=RATE)
        assert len(audio) / RATE == pytest.approx(manifest[index].duration, abs=0.1)
