"""FastPitch from its graph to its speech; what each bad input gets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from omegaconf import DictConfig

from rayconvai.commands.synthesize import main as synthesize
from rayconvai.config.compose import compose
from rayconvai.core.model import Model, build_model
from rayconvai.data.audio import write_audio
from rayconvai.errors import ArtefactError, ConfigError, DataError, GraphError
from rayconvai.tokenizers import CharTokenizer
from rayconvai.train.finish import finish
from rayconvai.train.fit import build_parts, fit
from rayconvai.train.runtime import Runtime
from rayconvai.tts.models.fastpitch import FastPitchModel
from tests.unit.asr.conftest import RATE, tones

TEXTS = ("abc", "cab", "bacca", "acabb")
SMALL = (
    "data=voice",
    "data.batch_size=4",
    "tokenizer=characters",
    "model.preprocessor.sample_rate=8000",
    "model.preprocessor.hop_length=128",
    "model.preprocessor.n_fft=512",
    "model.preprocessor.win_length=512",
    "model.preprocessor.fmax=4000",
    "model.preprocessor.num_mels=40",
    "model.encoder.d_model=32",
    "model.encoder.num_layers=1",
    "model.encoder.num_heads=1",
    "model.encoder.head_dim=16",
    "model.encoder.d_inner=64",
    "model.encoder.dropout=0",
    "model.adaptor.channels=32",
    "model.adaptor.dropout=0",
    "model.decoder.num_layers=1",
    "model.decoder.num_heads=1",
    "model.decoder.head_dim=16",
    "model.decoder.d_inner=64",
    "model.decoder.dropout=0",
    "model.weights.binarization_steps=50",
    "data.pitch.highest=1200",
    "optim.lr=5e-3",
    "trainer.max_epochs=200",
    "trainer.check_val_every_n_epoch=200",
    "exp_manager.create_tensorboard_logger=false",
)


def write(folder: Path, rows: dict[int, dict[str, object]] | None = None) -> Path:
    """Write the tones of some letters with their manifest; rows can be changed."""
    with (folder / "train.jsonl").open("w") as file:
        for index, text in enumerate(TEXTS):
            audio = tones(text)
            write_audio(folder / f"{text}.wav", audio, RATE)
            row = {"audio_filepath": f"{text}.wav", "duration": len(audio) / RATE, "text": text}
            file.write(json.dumps(row | (rows or {}).get(index, {})) + "\n")
    return folder / "train.jsonl"


def small(manifest: Path, *overrides: str) -> DictConfig:
    corpus = [f"data.corpus.{split}={manifest}" for split in ("train", "dev")]
    return compose("tts/fastpitch_small", [*SMALL, *corpus, *overrides])


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYCONVAI_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[FastPitchModel, dict[str, float], Path]:
    """A voice of tones: the model, its metrics and its artefact."""
    root = tmp_path_factory.mktemp("voice")
    result = fit(small(write(root)), Runtime(run_dir=root / "run", progress=False))
    assert result.best_checkpoint is not None
    finish(result.config, result.run_dir, result.best_checkpoint, root / "artefact", Runtime(progress=False))
    return Model.restore_from(root / "artefact"), result.metrics, root / "artefact"


def test_learns_which_tone_is_which_letter_without_being_told(trained: tuple[Any, dict[str, float], Path]) -> None:
    model, metrics, _ = trained
    assert metrics["val_sharpness"] > 0.6
    assert metrics["val_monotonicity"] > 0.85
    assert metrics["val_mel_loss"] < 2.0
    assert metrics["val_duration_error"] < 20.0  # of tones of 200 ms
    assert metrics["val_mcd"] > 0
    for text in ("abc", "cab"):  # from the text alone
        tokens = model.parse(text)
        with torch.inference_mode():
            mel, lengths, durations = model(tokens=tokens, token_lengths=torch.tensor([tokens.shape[1]]))
        assert mel.shape[2] == lengths.item() == durations.sum()
        ends = durations[0].cumsum(0).tolist()  # a silence comes first
        loudest = mel[0].argmax(0)
        heights = {text[i]: loudest[ends[i] : ends[i + 1]].median() for i in range(3)}
        assert heights["a"] < heights["b"] < heights["c"]


def test_pace_and_pitch_can_be_chosen(trained: tuple[Any, dict[str, float], Path]) -> None:
    model, _, _ = trained
    tokens = model.parse("abc")
    usual, slow = (model.generate_spectrogram(tokens, pace=pace) for pace in (1.0, 0.5))
    assert slow.shape[2] == pytest.approx(2 * usual.shape[2], abs=tokens.shape[1])
    assert not torch.equal(usual, model.generate_spectrogram(tokens, pitch_shift=6.0))


def test_the_artefact_speaks(
    trained: tuple[Any, dict[str, float], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, artefact = trained
    for name in ("one.wav", "two.wav"):
        assert synthesize([str(artefact), "cab", "-o", str(tmp_path / name)]) == 0
    assert "by the Griffin-Lim algorithm, as no --vocoder is given" in capsys.readouterr().out
    assert (tmp_path / "one.wav").read_bytes() == (tmp_path / "two.wav").read_bytes()
    sound, rate = soundfile.read(tmp_path / "one.wav")
    assert rate == RATE
    assert 0.5 < len(sound) / rate < 1.5
    output = ["-o", str(tmp_path / "three.wav")]
    with pytest.raises(DataError, match="'  ' has nothing to say"):
        synthesize([str(artefact), "  ", *output])
    with pytest.raises(DataError, match="'♥'"):
        synthesize([str(artefact), "a ♥ b", *output])
    with pytest.raises(ConfigError, match="--pace is 0"):
        synthesize([str(artefact), "abc", "--pace", "0", *output])
    with pytest.raises(ArtefactError, match="is no vocoder"):
        synthesize([str(artefact), "abc", "--vocoder", str(artefact), *output])


def test_an_utterance_costs_the_same_alone_and_in_a_batch(tmp_path: Path) -> None:
    model, data = build_parts(small(write(tmp_path)))
    assert isinstance(model, FastPitchModel)
    model.eval()
    dataset = data.dataset("train")  # type: ignore[attr-defined]
    together, *alone = (dataset.collate_fn(items) for items in ([dataset[0], dataset[3]], [dataset[0]], [dataset[3]]))
    steps = [model.step(**{k: v for k, v in b._asdict().items() if k != "indices"}) for b in (together, *alone)]
    for name, loss in steps[0].losses.items():
        torch.testing.assert_close(loss, (steps[1].losses[name] + steps[2].losses[name]) / 2, atol=1e-4, rtol=1e-4)


def test_the_parts_must_fit() -> None:
    node = compose("tts/fastpitch_small", list(SMALL)).model
    model = build_model(node, tokenizer=CharTokenizer("ab"))
    assert isinstance(model, FastPitchModel)
    assert (model.encoder.num_tokens, model.aligner.num_mels, model.decoder.d_model) == (2, 40, 32)
    parts = {name: getattr(model, name) for name in ("preprocessor", "encoder", "aligner", "adaptor", "decoder")}
    with pytest.raises(GraphError, match=r"encoder .* has 2 tokens, the tokenizer 3"):
        FastPitchModel(**parts, tokenizer=CharTokenizer("abc"))


def slow_file(folder: Path) -> dict[str, object]:
    write_audio(folder / "slow.wav", tones("cab")[::2], RATE // 2)
    return {"audio_filepath": "slow.wav"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"text": ""}, r"jsonl:2: text has nothing to say", id="empty"),
        pytest.param({"text": "a {b1} c"}, r"jsonl:2: .*cannot write: '1'", id="phoneme"),
        pytest.param({"text": "a♥b"}, r"jsonl:2: .*'♥'", id="sign"),
        pytest.param(
            {"text": "abc" * 60}, r"jsonl:2: the text has 182 tokens, but 0.80 s make 50 frames", id="too_long"
        ),
        pytest.param(
            slow_file, r"jsonl:2: .*slow.wav: has 4000 Hz, but the voice 8000 Hz; take a recording", id="rate"
        ),
    ],
)
def test_what_cannot_be_learnt_from_is_refused_by_its_line(
    tmp_path: Path, change: dict[str, object] | Callable[[Path], dict[str, object]], message: str
) -> None:
    manifest = write(tmp_path, {1: change(tmp_path) if callable(change) else change})
    with pytest.raises(DataError, match=message) as caught:
        build_parts(small(manifest))
    assert "\n" not in str(caught.value)
    _, data = build_parts(small(manifest, "data.checks.on_bad=skip"))
    assert len(data.dataset("train")) == 3  # type: ignore[attr-defined]


def test_a_text_of_which_most_is_not_written_is_refused(tmp_path: Path) -> None:
    manifest = write(tmp_path)
    write_audio(tmp_path / "abc.wav", tones("abc" * 6), RATE)
    manifest.write_text(
        manifest.read_text().replace('"duration": 0.8', f'"duration": {len(tones("abc" * 6)) / RATE}', 1)
    )
    with pytest.raises(DataError, match=r"jsonl:1: the text has 5 tokens, but 4.5\d s make \d+ frames: more is said"):
        build_parts(small(manifest))


def test_a_dry_run_can_follow_a_step(tmp_path: Path) -> None:
    from rayconvai.sweep.estimate import measure_step

    model, data = build_parts(small(write(tmp_path)))
    step = measure_step(model, data)
    assert step is not None
    assert step.flops > 0
