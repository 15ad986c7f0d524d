"""The data of a run: checks, batches, augmentation."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from rayconvai.asr.ctc import FrameRate
from rayconvai.asr.data import SpeechData
from rayconvai.asr.dataset import SpeechDataset
from rayconvai.asr.models.ctc import CTCModel
from rayconvai.data.audio import write_audio
from rayconvai.data.corpus import ManifestCorpus
from rayconvai.data.manifest import Manifest
from rayconvai.data.sampler import Draw
from rayconvai.data.speech import Checks
from rayconvai.errors import ConfigError, DataError
from rayconvai.tokenizers import CharTokenizer

from .conftest import RATE, TEXTS, tones

FRAME_RATE = FrameRate(RATE, 80, 4)


def noise(audio: Tensor, sample_rate: int, generator: torch.Generator) -> Tensor:
    return audio + torch.rand(len(audio), generator=generator)


def half(audio: Tensor, sample_rate: int, generator: torch.Generator) -> Tensor:
    return audio[: len(audio) // 20]


def dataset(manifest: Path, *augment: object) -> SpeechDataset:
    return SpeechDataset(Manifest.open(manifest), CharTokenizer.train(TEXTS), FRAME_RATE, augment, seed=3)  # type: ignore[arg-type]


def data_of(train: Path, **options: object) -> SpeechData:
    return SpeechData(corpus=ManifestCorpus(train=train, dev=train), **{"batch_size": 2, **options})  # type: ignore[arg-type]


def test_batches_are_padded_and_typed(write_manifest: Callable[..., Path]) -> None:
    speech = dataset(write_manifest())
    batch = speech.collate_fn([speech[2], speech[0]])
    assert batch.audio_lengths.tolist() == [len(tones("bacca")), len(tones("abc"))]
    assert batch.audio.shape == (2, len(tones("bacca")))
    torch.testing.assert_close(batch.audio[1, : batch.audio_lengths[1]], tones("abc"), atol=1e-3, rtol=0)
    assert batch.tokens.tolist() == [[1, 0, 2, 2, 0], [0, 1, 2, 0, 0]]
    assert batch.token_lengths.tolist() == [5, 3]
    assert batch.indices.tolist() == [2, 0]


def test_a_test_set_that_is_too_small_for_the_ranks_is_found_before_training(
    write_manifest: Callable[..., Path], model: CTCModel
) -> None:
    corpus = ManifestCorpus(train=write_manifest(), dev=write_manifest("dev"), test=write_manifest("test", ["abc"]))
    data = SpeechData(corpus=corpus, batch_size=2)
    data.bind(model)
    data.trainer = SimpleNamespace(world_size=2, global_rank=0, accumulate_grad_batches=1)  # type: ignore[assignment]
    with pytest.raises(DataError, match=r"test.jsonl: 1 test utterances cannot be shared by 2 processes"):
        data.train_dataloader()


def test_augmentation_follows_from_seed_epoch_and_index(write_manifest: Callable[..., Path]) -> None:
    speech = dataset(write_manifest(), noise)
    first, again, later = (speech[Draw.of(1, epoch)][0] for epoch in (4, 4, 5))
    assert torch.equal(first, again)
    assert not torch.equal(first, later)
    assert not torch.equal(first - tones(TEXTS[1]), speech[Draw.of(0, 4)][0][:1])


def test_augmentation_never_makes_an_utterance_too_short(write_manifest: Callable[..., Path]) -> None:
    manifest = write_manifest()
    assert len(dataset(manifest, half)[0][0]) == len(dataset(manifest)[0][0])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        pytest.param({1: {"text": "xyz"}}, r"train\.jsonl:2: .*'x'", id="characters"),
        pytest.param({2: {"text": "a" * 99}}, r"train\.jsonl:3: the text needs 197 frames", id="too_many_tokens"),
        pytest.param({3: {"audio_filepath": "gone.wav"}}, r"train\.jsonl:4: .*gone\.wav", id="missing_file"),
    ],
)
def test_unusable_utterances_are_refused_or_left_out(
    model: CTCModel,
    write_manifest: Callable[..., Path],
    caplog: pytest.LogCaptureFixture,
    rows: dict[int, dict[str, object]],
    message: str,
) -> None:
    manifest = write_manifest(rows=rows)
    with pytest.raises(DataError, match=message):
        data_of(manifest).bind(model)
    data = data_of(manifest, checks=Checks(on_bad="skip"))
    with caplog.at_level(logging.WARNING, "rayconvai"):
        data.bind(model)
    assert "left out 1 of 4" in caplog.text
    assert len(data.dataset("train")) == 3


def test_a_silent_file_names_the_manifest_line(write_manifest: Callable[..., Path], tmp_path: Path) -> None:
    speech = dataset(write_manifest())
    write_audio(tmp_path / "train1.wav", torch.zeros(len(tones(TEXTS[1]))), RATE)
    with pytest.raises(DataError, match=r"train\.jsonl:2: .*silent"):
        speech[1]


def test_loaders(model: CTCModel, write_manifest: Callable[..., Path]) -> None:
    data = data_of(write_manifest(), augment=[noise])
    data.prepare()
    assert sorted(data.texts()) == sorted(TEXTS)
    assert data.fingerprint()["train"]["utterances"] == 4
    data.bind(model)
    assert data.dataset("dev").augment == ()
    seen = [index for batch in data.train_dataloader() for index in batch.indices.tolist()]
    assert sorted(seen) == [0, 1, 2, 3]
    lengths = [batch.audio_lengths.max() for batch in data.val_dataloader()]
    assert lengths == sorted(lengths, reverse=True)
    with pytest.raises(DataError, match="no test set"):
        data.test_dataloader()


@pytest.mark.parametrize("options", [{"batch_size": None}, {"batch_seconds": 9.0}], ids=["neither", "both"])
def test_one_batch_bound_is_needed(options: dict[str, float | None], write_manifest: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match="batch_seconds and batch_size exclude each other"):
        data_of(write_manifest(), **options)


def test_unbound_data_says_so(write_manifest: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match="bind"):
        data_of(write_manifest()).train_dataloader()
