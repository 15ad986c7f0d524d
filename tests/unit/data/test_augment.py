from __future__ import annotations

import json
import math
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rayconvai.core import NeuralTypeComparisonResult
from rayconvai.data.audio import write_audio
from rayconvai.data.augment import Augment, BackgroundNoise, Gain, Shift, Speed, Step, WhiteNoise
from rayconvai.errors import ConfigError, DataError

RATE = 16_000


@pytest.fixture
def noises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A short noise at another rate, and a long one."""
    monkeypatch.setenv("RAYCONVAI_CACHE", str(tmp_path / "cache"))
    random = torch.Generator().manual_seed(0)
    write_audio(tmp_path / "short.wav", 0.2 * torch.randn(2000, generator=random), 8000)
    write_audio(tmp_path / "long.wav", 0.2 * torch.randn(80_000, generator=random), RATE)
    rows = [{"audio_filepath": "short.wav", "duration": 0.25}, {"audio_filepath": "long.wav", "duration": 5}]
    (tmp_path / "noise.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path / "noise.jsonl"


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def speech(samples: int = RATE) -> Tensor:
    return 0.3 * torch.sin(torch.arange(samples) * 0.07)


def snr_db(audio: Tensor, mixed: Tensor) -> float:
    return 10 * math.log10(float(audio.double().square().mean() / (mixed - audio).double().square().mean()))


def every_step(noises: Path) -> list[Step]:
    return [
        Speed([0.9, 1.1]),
        Gain(-10, -5),
        WhiteNoise(5, 20),
        BackgroundNoise(noises, 0, 20),
        Shift(10, 50),
        Augment([Gain(-3, -1), WhiteNoise(5, 20)]),
    ]


def test_every_step_is_repeatable_typed_and_leaves_its_input(noises: Path) -> None:
    for step in every_step(noises):
        audio = speech()
        first = step(audio, RATE, generator(1))
        assert torch.equal(first, pickle.loads(pickle.dumps(step))(audio, RATE, generator(1)))
        assert not torch.equal(first, audio)
        assert torch.equal(audio, speech())
        assert first.dtype == torch.float32
        assert step.output_types["audio"].compare(step.input_types["audio"]) == NeuralTypeComparisonResult.SAME


def test_silence_stays_finite(noises: Path) -> None:
    for step in every_step(noises):
        assert torch.isfinite(step(torch.zeros(RATE), RATE, generator())).all()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["white", "background"])
@pytest.mark.parametrize("wanted", [-5.0, 0.0, 17.5])
def test_signal_to_noise_ratio_is_what_was_asked(wanted: float, kind: str, seed: int, noises: Path) -> None:
    step = WhiteNoise(wanted, wanted) if kind == "white" else BackgroundNoise(noises, wanted, wanted)
    assert snr_db(speech(), step(speech(), RATE, generator(seed))) == pytest.approx(wanted, abs=0.01)


def test_ranges_are_used_whole() -> None:
    step, random = WhiteNoise(0, 20), generator()
    ratios = [snr_db(speech(), step(speech(), RATE, random)) for _ in range(200)]
    assert 0 <= min(ratios) < 1
    assert 19 < max(ratios) <= 20


def test_speed() -> None:
    audio = speech()
    assert Speed([1.0])(audio, RATE, generator()) is audio
    for factor in (0.9, 1.1, 1.25):
        faster = Speed([factor])(audio, RATE, generator())
        assert len(faster) == math.ceil(RATE / factor)
        expected = 0.3 * torch.sin(torch.arange(len(faster)) * 0.07 * factor)
        assert float((faster - expected)[500:-500].abs().max()) < 0.01


def test_gain() -> None:
    assert torch.allclose(Gain(6.0206, 6.0206)(speech(), RATE, generator()), 2 * speech(), rtol=1e-5)


def test_shift() -> None:
    audio = speech()
    later, earlier = Shift(10, 10)(audio, RATE, generator()), Shift(-10, -10)(audio, RATE, generator())
    assert torch.equal(later, torch.cat([torch.zeros(160), audio[:-160]]))
    assert torch.equal(earlier, torch.cat([audio[160:], torch.zeros(160)]))
    assert Shift(2000, 2000)(audio, RATE, generator()) is audio


def test_prob() -> None:
    step, random = Gain(-6, -6, prob=0.3), generator()
    changed = sum(not torch.equal(step(speech(50), RATE, random), speech(50)) for _ in range(1000))
    assert 250 < changed < 350
    assert Gain(-6, -6, prob=0.0)(audio := speech(), RATE, generator()) is audio


def test_noise_part_varies(noises: Path) -> None:
    step = BackgroundNoise(noises, 10, 10)
    assert len({float(step(speech(), RATE, generator(seed))[100]) for seed in range(20)}) > 5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lambda: Gain(3, -3), "min_db is 3, max_db is -3", id="range"),
        pytest.param(lambda: WhiteNoise(prob=1.5), "prob is 1.5", id="prob"),
        pytest.param(lambda: Speed([]), "give one or more", id="no_factors"),
        pytest.param(lambda: Speed([0.0]), "from 0.1 to 10", id="zero_speed"),
        pytest.param(lambda: Shift(float("nan")), "min_ms is nan", id="nan"),
    ],
)
def test_settings_that_cannot_be(make, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_noises_are_checked_when_the_step_is_made(noises: Path) -> None:
    with pytest.raises(DataError, match="manifest not found"):
        BackgroundNoise(noises.with_name("other.jsonl"))
    (noises.parent / "long.wav").unlink()
    with pytest.raises(DataError, match=r"noise.jsonl:2: .*long.wav: sound file not found"):
        BackgroundNoise(noises)
