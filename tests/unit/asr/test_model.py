"""A recognizer from its graph to its transcripts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger

from rayconvai.asr.conformer import ConformerEncoder
from rayconvai.asr.ctc import CTCDecoder
from rayconvai.asr.data import SpeechData
from rayconvai.asr.features import LogMel
from rayconvai.asr.models.ctc import CTCModel
from rayconvai.core.model import build_model
from rayconvai.core.sample import Sample, Sound
from rayconvai.data.audio import read_audio
from rayconvai.data.corpus import ManifestCorpus
from rayconvai.errors import ConfigError, DataError, GraphError, InfeasibleError
from rayconvai.tokenizers import CharTokenizer

from .conftest import RATE, TEXTS, tones

NODE = {
    "_target_": "rayconvai.asr.models.ctc.CTCModel",
    "preprocessor": {"_target_": "rayconvai.asr.features.LogMel", "num_mels": 40},
    "encoder": {
        "_target_": "rayconvai.asr.conformer.ConformerEncoder",
        "d_model": 16,
        "num_layers": 1,
        "num_heads": 2,
        "variant": {"position": "relative"},
    },
    "decoder": {"_target_": "rayconvai.asr.ctc.CTCDecoder"},
    "spec_augment": None,
}


class Samples(CSVLogger):
    """A logger that takes samples."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.samples: list[Sample] = []

    def log_samples(self, samples: Sequence[Sample], step: int) -> None:
        self.samples = list(samples)


def trainer(directory: Path, steps: int, **options: Any) -> Trainer:
    return Trainer(
        max_steps=steps,
        accelerator="cpu",
        default_root_dir=directory,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        **{"logger": False, "num_sanity_val_steps": 0, **options},
    )


def data_of(manifest: Path) -> SpeechData:
    return SpeechData(corpus=ManifestCorpus(train=manifest, dev=manifest, test=manifest), batch_size=2)


def test_learns_a_tiny_language(
    model: CTCModel, write_manifest: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest, logger = write_manifest(), Samples(tmp_path)
    data = data_of(manifest)
    data.prepare()
    data.bind(model)
    model.set_optimization({"name": "adamw", "lr": 4e-3}, None)
    fit = trainer(tmp_path, 120, logger=logger, check_val_every_n_epoch=30)
    with caplog.at_level(logging.INFO, "rayconvai"):
        fit.fit(model, datamodule=data)
    assert fit.callback_metrics["val_wer"] == 0
    assert fit.callback_metrics["val_cer"] == 0
    assert fit.callback_metrics["train_loss"] < 0.5
    assert {sample.texts["reference"] for sample in logger.samples} == set(TEXTS)
    assert all(sample.parts["reference"] == sample.parts["hypothesis"] for sample in logger.samples)
    assert all(sample.score == 0 and isinstance(sample.parts["audio"], Sound) for sample in logger.samples)
    assert "train.jsonl:1: reference 'abc', hypothesis 'abc'" in caplog.text
    assert fit.test(model, datamodule=data, verbose=False)[0]["test_wer"] == 0

    assert model.transcribe([manifest.parent / "train0.wav", tones("cab")], batch_size=1) == ["abc", "cab"]
    restored = CTCModel.load_assets(_saved_assets(model, tmp_path / "assets"))
    assert restored["tokenizer"].vocab == model.tokenizer.vocab


def _saved_assets(model: CTCModel, directory: Path) -> Path:
    directory.mkdir()
    model.save_assets(directory)
    return directory


def test_alone_and_in_a_batch_the_log_probabilities_are_the_same(model: CTCModel) -> None:
    model.eval()
    signals = [tones(text) for text in TEXTS]
    lengths = torch.tensor([len(signal) for signal in signals])
    together, frames = model(audio=torch.nn.utils.rnn.pad_sequence(signals, batch_first=True), audio_lengths=lengths)
    for row, signal in enumerate(signals):
        alone, _ = model(audio=signal[None], audio_lengths=lengths[row : row + 1])
        torch.testing.assert_close(together[row, : frames[row]], alone[0], atol=1e-4, rtol=0)
        assert model.frame_rate.frames(len(signal)) == frames[row]


def test_bfloat16_trains(model: CTCModel, write_manifest: Callable[..., Path], tmp_path: Path) -> None:
    data = data_of(write_manifest())
    data.bind(model)
    model.set_optimization({"name": "adamw", "lr": 1e-3}, None)
    fit = trainer(tmp_path, 3, precision="bf16-mixed")
    fit.fit(model, datamodule=data)
    assert torch.isfinite(fit.callback_metrics["train_loss"])


def test_nan_loss_names_step_rate_and_utterances(
    model: CTCModel, write_manifest: Callable[..., Path], tmp_path: Path
) -> None:
    data = data_of(write_manifest())
    data.bind(model)
    model.set_optimization({"name": "adamw", "lr": 0.125}, None)
    with torch.no_grad():
        model.decoder.project.weight.fill_(float("nan"))
    with pytest.raises(InfeasibleError, match=r"train_loss is nan at step 0 \(lr 0\.125\), utterances .*\.jsonl:\d"):
        trainer(tmp_path, 3).fit(model, datamodule=data)


def test_from_config_derives_the_sizes() -> None:
    model = build_model(NODE, tokenizer=CharTokenizer.train(["hello"]))
    assert isinstance(model, CTCModel)
    assert model.encoder.in_features == 40
    assert (model.decoder.in_features, model.decoder.num_classes) == (16, 5)


@pytest.mark.parametrize(
    ("section", "key", "message"),
    [
        pytest.param("encoder", "in_features", "in_features is derived", id="derived"),
        pytest.param("encoder", "num_layer", "nearest: .*num_layers", id="unknown"),
        pytest.param("decoder", "num_classes", "num_classes is derived", id="classes"),
    ],
)
def test_wrong_config_is_refused(section: str, key: str, message: str) -> None:
    node = {**NODE, section: {**NODE[section], key: 3}}  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match=message):
        build_model(node, tokenizer=CharTokenizer.train(["hello"]))


@pytest.mark.parametrize(
    ("mels", "classes", "message"),
    [pytest.param(80, 4, r"D:64.*D:80", id="features"), pytest.param(64, 9, "9 classes, but .* make 4", id="tokens")],
)
def test_parts_that_do_not_fit_are_found_without_a_batch(mels: int, classes: int, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        CTCModel(
            preprocessor=LogMel(num_mels=mels),
            encoder=ConformerEncoder(in_features=64, d_model=16, num_heads=2, num_layers=1),
            decoder=CTCDecoder(in_features=16, num_classes=classes),
            tokenizer=CharTokenizer("abc"),
        )


def test_transcribe_names_a_missing_file(model: CTCModel) -> None:
    with pytest.raises(DataError, match=r"nowhere\.wav"):
        model.transcribe(["nowhere.wav"])


def test_transcribe_resamples_and_keeps_the_mode(model: CTCModel, tmp_path: Path) -> None:
    from rayconvai.data.audio import write_audio

    write_audio(tmp_path / "fast.wav", tones("abc").repeat_interleave(2), 2 * RATE)
    assert len(read_audio(tmp_path / "fast.wav", sample_rate=RATE)) == len(tones("abc"))
    model.train()
    assert len(model.transcribe([tmp_path / "fast.wav"])) == 1
    assert model.training
    assert model.transcribe([]) == []
