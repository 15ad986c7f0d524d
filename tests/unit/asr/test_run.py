"""One run of a recognizer, from config to artefact to text; and what each bad input gets."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Callback, Trainer
from omegaconf import DictConfig
from safetensors.torch import load_file, save_file

from rayconvai.asr.models.ctc import CTCModel
from rayconvai.commands.transcribe import main as transcribe
from rayconvai.config.compose import compose
from rayconvai.core.artefact import card_digest, sha256
from rayconvai.core.model import Model
from rayconvai.data.audio import read_audio, write_audio
from rayconvai.errors import (
    ArtefactError,
    CheckpointError,
    ConfigError,
    DataError,
    InfeasibleError,
    RayconvaiError,
    StorageError,
)
from rayconvai.experiment.interrupt import Interrupted
from rayconvai.experiment.samples import read_samples
from rayconvai.train.__main__ import main
from rayconvai.train.finish import finish, train
from rayconvai.train.fit import FitResult, evaluate, fit
from rayconvai.train.runtime import Runtime
from tests.unit.asr.conftest import TEXTS

WriteManifest = Callable[..., Path]
SMALL = (
    "data=manifest",
    "augment=none",
    "trainer=cpu",
    "trainer.max_epochs=60",
    "optim.lr=5e-3",
    "model.preprocessor.sample_rate=8000",
    "model.preprocessor.num_mels=20",
    "model.preprocessor.n_fft=256",
    "model.preprocessor.win_length=200",
    "model.preprocessor.hop_length=80",
    "model.encoder.num_layers=1",
    "model.encoder.d_model=32",
    "model.encoder.num_heads=2",
    "model.encoder.conv_kernel_size=5",
    "exp_manager.create_tensorboard_logger=false",
)


def small(manifest: Path, *overrides: str, dev: Path | None = None) -> DictConfig:
    corpus = (f"data.corpus.train={manifest}", f"data.corpus.dev={dev or manifest}")
    return compose("asr/conformer_ctc", [*SMALL, *corpus, *overrides])


def run(config: DictConfig, run_dir: Path) -> FitResult:
    return fit(config, Runtime(run_dir=run_dir, progress=False))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[FitResult, Path, list[Path]]:
    """A run on four utterances, its artefact, and the sounds."""
    from tests.unit.asr.conftest import RATE, tones

    root = tmp_path_factory.mktemp("trained")
    sounds = [root / f"{text}.wav" for text in TEXTS]
    rows = []
    for text, sound in zip(TEXTS, sounds, strict=True):
        write_audio(sound, tones(text), RATE)
        rows.append({"audio_filepath": sound.name, "duration": len(tones(text)) / RATE, "text": text})
    (root / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = run(small(root / "train.jsonl"), root / "run")
    assert result.best_checkpoint is not None
    finish(result.config, result.run_dir, result.best_checkpoint, root / "artefact", Runtime(progress=False))
    return result, root / "artefact", sounds


def test_a_run_learns_and_its_artefact_transcribes(
    trained: tuple[FitResult, Path, list[Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    result, artefact, sounds = trained
    assert result.metrics.keys() == {"train_loss", "val_loss", "val_wer", "val_cer"}
    assert result.metrics["val_wer"] == 0.0
    assert transcribe([str(artefact), *map(str, sounds)]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{s}\t{t}" for s, t in zip(sounds, TEXTS, strict=True)]
    card = json.loads((artefact / "card.json").read_text())
    assert card["metrics"]["val_wer"] == 0.0
    assert card["data"]["train"]["utterances"] == len(TEXTS)
    assert card["provenance"]["seed"] == result.config.seed


def test_sounds_of_any_kind_are_transcribed_up_to_a_bad_one(
    trained: tuple[FitResult, Path, list[Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, artefact, sounds = trained
    rate = 44_100
    audio = read_audio(sounds[0], sample_rate=rate)
    same = [tmp_path / f"stereo.{kind}" for kind in ("wav", "flac", "ogg", "mp3")]
    odd = {tmp_path / "10ms.wav": audio[: rate // 100], tmp_path / "silent.wav": torch.zeros(rate)}
    for path, sound in {**dict.fromkeys(same, torch.stack([audio, audio / 2])), **odd}.items():
        write_audio(path, sound, rate)
    (tmp_path / "bad.wav").touch()
    with pytest.raises(DataError, match=r"bad.wav: zero-length"):
        transcribe([str(artefact), *map(str, [*same, *odd, tmp_path / "bad.wav"])])
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert lines[: len(same)] == [[str(path), TEXTS[0]] for path in same]
    assert [path for path, _ in lines[len(same) :]] == list(map(str, odd))


def test_a_checkpoint_of_another_model_is_refused(
    trained: tuple[FitResult, Path, list[Path]], write_manifest: WriteManifest, tmp_path: Path
) -> None:
    checkpoint = trained[0].best_checkpoint
    other = small(
        write_manifest(),
        "model.encoder.num_layers=2",
        "model.encoder.conv_kernel_size=7",
        f"exp_manager.resume_from_checkpoint='{checkpoint}'",
    )
    message = (
        rf"{re.escape(str(checkpoint))} is of another model: encoder\S+ is \[32, 1, 5\] in it and \[32, 1, 7\] here; "
        r"not in it: encoder\.layers\.1\.\S+, encoder\.layers\.1\.\S+ and \d+ more\. Give"
    )
    with pytest.raises(CheckpointError, match=message) as raised:
        run(other, tmp_path / "run")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    with pytest.raises(CheckpointError, match="is of another model"):
        evaluate(other, checkpoint, "dev")


def test_a_directory_belongs_to_one_run(write_manifest: WriteManifest, tmp_path: Path) -> None:
    place = [f"exp_manager.explicit_log_dir={tmp_path / 'run'}", "exp_manager.resume_if_exists=true"]
    place.append("exp_manager.resume_ignore_no_checkpoint=true")
    manifest = write_manifest()

    def train(*overrides: str) -> FitResult:
        return fit(small(manifest, *place, *overrides), Runtime(progress=False))

    train("trainer.max_epochs=1")
    changed = train("trainer.max_epochs=2", "exp_manager.checkpoint_callback_params.save_top_k=1", "optim.lr=1e-4")
    assert changed.config.trainer.max_epochs == 2
    before = (tmp_path / "run" / "config.yaml").read_text()
    manifest = write_manifest("other")
    with pytest.raises(ConfigError, match=r"run belongs to another run: data\.corpus\.train is .*train\.jsonl there"):
        train("trainer.max_epochs=3")
    assert (tmp_path / "run" / "config.yaml").read_text() == before


def test_the_saved_config_makes_the_same_run(write_manifest: WriteManifest, tmp_path: Path) -> None:
    first = run(small(write_manifest(), "augment=all", "trainer.max_epochs=2"), tmp_path / "first")
    again = compose("config", [], [first.run_dir])
    assert again == first.config
    assert run(again, tmp_path / "again").metrics == first.metrics


def test_a_rerun_has_the_same_numbers_with_workers_and_augmentation_too(
    write_manifest: WriteManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = (
        "augment=all",
        "data.num_workers=2",
        "data.batch_seconds=null",
        "data.batch_size=2",
        "model.encoder.dropout=0.2",
        "artefact=false",
    )
    first = run(
        small(write_manifest(), *settings, "trainer.max_epochs=3", "trainer.log_every_n_steps=1"), tmp_path / "1"
    )
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(sys, "argv", ["train", "--rerun", str(first.run_dir), f"exp_manager.exp_dir={tmp_path}"])
    main()
    assert f"same numbers as {first.run_dir} (epochs: 3, recorded steps: 6)\n" in capsys.readouterr().out


def test_nothing_of_the_data_is_kept_where_that_is_not_wanted(write_manifest: WriteManifest, tmp_path: Path) -> None:
    board = "exp_manager.create_tensorboard_logger=true"
    texts = [text * 4 for text in TEXTS]  # too long for a digest to hold one by chance
    config = small(write_manifest(texts=texts), "samples=false", "trainer.max_epochs=1", board)
    runtime = Runtime(run_dir=tmp_path / "run", progress=False)
    assert train(config, runtime, Runtime(progress=False)).artefact == tmp_path / "run" / "artefact"
    written = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert not [path for path in written if path.suffix == ".flac" or "samples" in path.parts]
    told = {path.name for path in written if any(text.encode() in path.read_bytes() for text in texts)}
    assert told <= {"tokenizer.json"}, "which learns pieces of the training texts"


def test_an_artefact_holds_no_pickle_and_restores_the_same_weights(
    trained: tuple[FitResult, Path, list[Path]], tmp_path: Path
) -> None:
    _, artefact, _ = trained
    kinds = {".json", ".jsonl", ".yaml", ".safetensors", ".flac"}
    assert {path.suffix for path in artefact.rglob("*") if path.is_file()} <= kinds
    samples = read_samples(artefact / "samples")
    assert [sample.score for sample in samples] == sorted((sample.score for sample in samples), reverse=True)
    assert all(Path(sample.parts["audio"].path).is_relative_to(artefact) for sample in samples)
    model = Model.restore_from(artefact)
    assert isinstance(model, CTCModel)
    again = CTCModel.restore_from(model.save_to(tmp_path / "again"))
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])


def test_an_artefact_that_does_not_fit_on_the_disk_is_not_there_at_all(
    trained: tuple[FitResult, Path, list[Path]], tmp_path: Path
) -> None:
    model = Model.restore_from(trained[1])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # bytes of a file
    try:
        with pytest.raises(StorageError, match="File too large") as caught:
            model.save_to(tmp_path / "artefact")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def damage_weights(root: Path) -> None:
    weights = load_file(root / "model.safetensors")
    save_file({name: weight + 1 for name, weight in weights.items()}, root / "model.safetensors")


def add_file(root: Path) -> None:
    (root / "assets" / "extra.py").write_text("print('hello')")


def drop_file(root: Path) -> None:
    (root / "model.safetensors").unlink()


def climb_out(root: Path) -> None:
    secret = root.parent / "secret"
    secret.write_text("x")
    edit_card(root, lambda card: card["files"].update({"../secret": "0"}))


def link_out(root: Path) -> None:
    outside = root.parent / "outside"
    shutil.move(root / "assets", outside)
    (root / "assets").symlink_to(outside)


def link_a_directory(root: Path) -> None:
    (root / "more").symlink_to(root.parent)


def flip_a_letter_of_the_card(root: Path) -> None:
    text = (root / "card.json").read_text()
    (root / "card.json").write_text(text.replace('"name": "c', '"name": "d', 1))


def many_from_few(root: Path) -> None:
    lines = ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 60))]
    write_config(root, "\n".join(lines))


def nest_deeply(root: Path) -> None:
    (root / "card.json").write_text("[" * 100_000)


def pipe_for_a_card(root: Path) -> None:
    (root / "card.json").unlink()
    os.mkfifo(root / "card.json")


def pickle_for_weights(root: Path) -> None:
    torch.save({"weight": torch.zeros(1)}, root / "model.safetensors")
    seal(root, "model.safetensors")


def truncate_card(root: Path) -> None:
    text = (root / "card.json").read_text()
    (root / "card.json").write_text(text[: len(text) // 2])


def newer_format(root: Path) -> None:
    edit_card(root, lambda card: card.update(format=99))


def name_class(target: str) -> Callable[[Path], None]:
    def tamper(root: Path) -> None:
        config = yaml.safe_load((root / "config.yaml").read_text())
        config["preprocessor"]["_target_"] = target
        write_config(root, yaml.safe_dump(config))

    return tamper


def write_config(root: Path, text: str) -> None:
    (root / "config.yaml").write_text(text)
    seal(root, "config.yaml")


def seal(root: Path, name: str) -> None:
    """Let the card agree with a file, as whoever tampers on purpose would."""
    edit_card(root, lambda card: card["files"].update({name: sha256(root / name)}))


def edit_card(root: Path, change: Callable[[dict], object]) -> None:
    card = json.loads((root / "card.json").read_text())
    change(card)
    card.pop("sha256")
    (root / "card.json").write_text(json.dumps({**card, "sha256": card_digest(card)}))


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        pytest.param(damage_weights, "model.safetensors was changed or damaged", id="changed_weights"),
        pytest.param(add_file, "assets/extra.py is not in the card", id="file_added"),
        pytest.param(drop_file, "model.safetensors is missing", id="file_missing"),
        pytest.param(climb_out, "outside the artefact", id="path_climbs_out"),
        pytest.param(link_out, "outside the artefact", id="link_leads_out"),
        pytest.param(truncate_card, "cannot be read", id="torn_card"),
        pytest.param(link_a_directory, "more is not in the card", id="directory_linked"),
        pytest.param(flip_a_letter_of_the_card, "card.json was changed or damaged", id="changed_card"),
        pytest.param(nest_deeply, "card.json cannot be read", id="nested_card"),
        pytest.param(pipe_for_a_card, "is not an artefact", id="pipe"),
        pytest.param(many_from_few, "is not a resolved model config", id="aliases"),
        pytest.param(pickle_for_weights, "does not fit the config: Error while deserializing", id="pickle"),
        pytest.param(newer_format, "format 99", id="newer_format"),
        pytest.param(name_class("os.system"), "outside the allowed packages", id="class_outside_allow_list"),
        pytest.param(name_class("torch.load"), "is a function", id="function"),
        pytest.param(name_class("torch.Generator"), "is not a torch module", id="not_a_module"),
        pytest.param(shutil.rmtree, "is not an artefact", id="nothing_there"),
    ],
)
def test_a_bad_artefact_is_refused(
    trained: tuple[FitResult, Path, list[Path]], tmp_path: Path, tamper: Callable[[Path], None], message: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(trained[1], copy)
    tamper(copy)
    with pytest.raises(ArtefactError, match=message) as caught:
        Model.restore_from(copy)
    assert "\n" not in str(caught.value)


def row(**fields: object) -> Callable[[WriteManifest, Path], Path]:
    return lambda write, folder: write(rows={2: fields})


def silent(write: WriteManifest, folder: Path) -> Path:
    manifest = write()
    write_audio(folder / "train2.wav", torch.zeros(8000), 8000)
    return manifest


def empty_sound(write: WriteManifest, folder: Path) -> Path:
    manifest = write()
    write_audio(folder / "train2.wav", torch.zeros(0), 8000)
    return manifest


def unreadable(write: WriteManifest, folder: Path) -> Path:
    manifest = write()
    (folder / "train2.wav").write_bytes(b"not a sound")
    return manifest


def truncated(write: WriteManifest, folder: Path) -> Path:
    manifest = write()
    sound = folder / "train2.wav"
    sound.write_bytes(sound.read_bytes()[:3000])
    return manifest


def not_a_number(write: WriteManifest, folder: Path) -> Path:
    manifest = write()
    write_audio(folder / "train2.wav", torch.full((10_400,), torch.nan), 8000, subtype="FLOAT")
    return manifest


def pipe(write: WriteManifest, folder: Path) -> Path:
    manifest = write()
    (folder / "train2.wav").unlink()
    os.mkfifo(folder / "train2.wav")
    return manifest


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(row(audio_filepath="no.wav"), r"train.jsonl:3: .*no.wav", id="missing_sound"),
        pytest.param(unreadable, r"train.jsonl:3: .*train2.wav", id="unreadable_sound"),
        pytest.param(empty_sound, r"train.jsonl:3: ", id="zero_length"),
        pytest.param(silent, r"train.jsonl:3: ", id="all_silent"),
        pytest.param(truncated, r"train.jsonl:3: .*ends at 0.18 s, but the line declares 1.30 s", id="truncated"),
        pytest.param(not_a_number, r"train.jsonl:3: .*NaN", id="not_a_number"),
        pytest.param(pipe, r"train.jsonl:3: .*is not a file", id="pipe"),
        pytest.param(row(offset=99), r"train.jsonl:3: .*ends at 1.30 s", id="offset_past_the_end"),
        pytest.param(row(text="abc" * 100), r"train.jsonl:3: the text needs 300 frames", id="text_too_long"),
        pytest.param(row(text=""), r"train.jsonl:3: text is empty", id="no_text"),
        pytest.param(row(text="a\ud800b"), r"train.jsonl:3: 'text' is .*lone surrogate", id="half_a_character"),
        pytest.param(row(duration=-1), r"train.jsonl:3: .*duration", id="negative_duration"),
        pytest.param(row(text=5), r"train.jsonl:3: .*text", id="text_is_a_number"),
        pytest.param(lambda write, folder: folder / "none.jsonl", r"none.jsonl", id="missing_manifest"),
    ],
)
def test_bad_data_is_refused_before_training(
    write_manifest: WriteManifest, tmp_path: Path, make: Callable[[WriteManifest, Path], Path], message: str
) -> None:
    manifest = make(write_manifest, tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        run(small(manifest), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        pytest.param("model.encoder.num_layers=-1", r"model.encoder.num_layers is -1", id="layers"),
        pytest.param("model.preprocessor.num_mels=0", r"model.preprocessor.num_mels is 0", id="mels"),
        pytest.param("data.batch_seconds=0", r"data.batch_seconds is 0", id="batch"),
        pytest.param("data.num_workers=-1", r"data.num_workers is -1", id="workers"),
        pytest.param("trainer.devices=0", r"trainer: .*devices=0", id="devices"),
        pytest.param("trainer.strategy=dpd", r"trainer: .*strategy='dpd'", id="strategy"),
        pytest.param("trainer.max_time=soon", r"trainer: .*'soon'", id="max_time"),
        pytest.param(
            "exp_manager.checkpoint_callback_params.monitor=val_were",
            r"not logged.*; nearest: val_wer",
            id="monitor",
        ),
        pytest.param("exp_manager.checkpoint_callback_params.monitor=test_wer", r"not logged", id="monitor_of_tests"),
    ],
)
def test_a_config_that_cannot_work_is_refused_before_training(
    write_manifest: WriteManifest, tmp_path: Path, override: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        run(small(write_manifest(), override), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_model_that_memory_cannot_hold_is_one_line(write_manifest: WriteManifest, tmp_path: Path) -> None:
    with pytest.raises(InfeasibleError, match=r"^out of memory: .*; lower data.batch_seconds") as caught:
        run(small(write_manifest(), f"model.encoder.d_model={2**40}"), tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_a_validation_beyond_the_epoch_is_refused_before_the_first_step(
    write_manifest: WriteManifest, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"trainer: .*val_check_interval.* \(1000\)") as caught:
        run(small(write_manifest(), "trainer.val_check_interval=1000"), tmp_path / "run")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_a_run_in_another_precision(write_manifest: WriteManifest, tmp_path: Path, precision: str) -> None:
    overrides = (f"trainer.precision={precision}", "trainer.max_epochs=1", "trainer.limit_val_batches=0")
    assert run(small(write_manifest(), *overrides), tmp_path / "run").metrics["train_loss"] > 0


def test_text_outside_the_tokenizer_and_an_empty_dev_set(write_manifest: WriteManifest, tmp_path: Path) -> None:
    train = write_manifest()
    dev = write_manifest("dev", rows={1: {"text": "aZb"}})
    with pytest.raises(DataError, match=r"dev.jsonl:2: .*'Z'"):
        run(small(train, dev=dev), tmp_path / "run")
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(DataError, match=r"empty.jsonl"):
        run(small(train, dev=empty), tmp_path / "run")


def test_bad_utterances_are_left_out_with_a_count(
    write_manifest: WriteManifest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = row(audio_filepath="no.wav")(write_manifest, tmp_path)
    overrides = ("data.checks.on_bad=skip", "trainer.max_epochs=1")
    result = run(small(manifest, *overrides), tmp_path / "run")
    assert json.loads((result.run_dir / "provenance.json").read_text())["data"]["train"]["utterances"] == 3
    assert "left out 1 of 4" in caplog.text


@pytest.mark.slow
def test_two_processes_make_one_run_and_measure_as_one_does(write_manifest: WriteManifest, tmp_path: Path) -> None:
    manifest = write_manifest(texts=(*TEXTS, "a", "bb", "c"))  # seven cannot be halved
    overrides = ("trainer.max_epochs=2", "trainer.devices=2", "trainer.strategy=ddp", "data.batch_seconds=2.5")
    corpus = (f"data.corpus.train={manifest}", f"data.corpus.dev={manifest}", f"exp_manager.exp_dir={tmp_path}")
    done = subprocess.run(
        [sys.executable, "-m", "rayconvai.train", "--config-name", "asr/conformer_ctc", *SMALL, *corpus, *overrides],
        cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("artefact: ") == 1
    [run_dir] = (tmp_path / "conformer_ctc").iterdir()
    card = json.loads((run_dir / "artefact" / "card.json").read_text())
    alone = Runtime(progress=False, devices=1, strategy="auto")
    _, metrics = evaluate(compose("config", [], [run_dir]), run_dir / "checkpoints" / card["checkpoint"], "dev", alone)
    assert 0 < metrics["val_cer"] < 1
    assert (card["metrics"]["val_wer"], card["metrics"]["val_cer"]) == (metrics["val_wer"], metrics["val_cer"])
    assert card["metrics"]["val_loss"] == pytest.approx(metrics["val_loss"], rel=1e-5)


class CtrlC(Callback):
    """Sends this process a SIGINT at a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, *_: object) -> None:
        if trainer.global_step == self.step:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("step", [1, 5])
def test_an_interrupted_run_ends_as_one_that_was_not(step: int, write_manifest: WriteManifest, tmp_path: Path) -> None:
    one_by_one = ("data.batch_seconds=null", "data.batch_size=1", "trainer.max_epochs=3", "augment=all")
    config = small(write_manifest(), *one_by_one)
    whole = run(config, tmp_path / "whole")
    with pytest.raises(Interrupted):
        fit(config, Runtime(run_dir=tmp_path / "run", progress=False, callbacks=[CtrlC(step)]))
    config.exp_manager.resume_if_exists = True
    assert run(config, tmp_path / "run").metrics == whole.metrics


def test_a_run_may_be_measured_in_steps_alone(write_manifest: WriteManifest, tmp_path: Path) -> None:
    steps = ("trainer.max_steps=3", "trainer.max_epochs=-1", "schedule.warmup_ratio=0.5")
    result = run(small(write_manifest(), *steps), tmp_path / "run")
    assert list(result.run_dir.glob("checkpoints/*step=3-last.ckpt"))


def test_a_loss_that_is_not_a_number_names_step_and_utterances(write_manifest: WriteManifest, tmp_path: Path) -> None:
    overrides = ("optim.lr=1e30", "trainer.gradient_clip_val=null", "schedule=constant")
    with pytest.raises(InfeasibleError, match=r"val_loss is .* step 1 \(lr .*e\+\d+\), utterances .*train.jsonl:"):
        run(small(write_manifest(), *overrides), tmp_path / "run")


def test_an_unwritable_directory_is_refused_before_training(write_manifest: WriteManifest, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="file") as caught:
        run(small(write_manifest()), tmp_path / "file" / "run")
    assert isinstance(caught.value, RayconvaiError)
