"""Several ranks compute what one does: plain torch.distributed with gloo, whatever starts the processes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from moto.server import ThreadedMotoServer
from ranked import measure, on_ranks, train

from rayconvai.data.manifest import Manifest
from rayconvai.errors import DataError
from rayconvai.experiment.mirror import Mirror
from rayconvai.experiment.storage import find_last
from rayconvai.places import working_copy
from tests.unit.tts.tiny import TINY as TINY_GAN
from tests.unit.tts.tiny import write_hums

TOLERANCE = 1e-5
"""Relative difference of the loss at any of thirty steps; the order of additions makes a tenth of it."""
TINY = (
    "data=manifest",
    "augment=none",
    "trainer=cpu",
    "optim.lr=2e-3",
    "data.batch_seconds=null",
    "model.preprocessor.dither=0",
    "model.encoder.num_layers=1",
    "model.encoder.d_model=32",
    "model.encoder.num_heads=2",
    "model.encoder.dropout=0",
    "model.encoder.conv_kernel_size=5",
    "exp_manager.create_tensorboard_logger=false",
)
RESUMES = ("exp_manager.resume_if_exists=true", "exp_manager.resume_ignore_no_checkpoint=true")


def corpus(rows: int, dev_rows: int, directory: Path, shared_data: Path) -> tuple[str, ...]:
    """Return overrides for the first utterances of real speech: strings of digits."""
    made = []
    for split, count in (("train", rows), ("dev", dev_rows)):
        manifest = Manifest.open(shared_data / "digits_connected" / "manifest.jsonl", split="train")
        lines = [
            {"audio_filepath": str(row.audio_filepath), "duration": row.duration, "text": row.text}
            for row, _ in zip(manifest, range(count), strict=False)
        ]
        path = directory / f"{split}_{count}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        made.append(f"data.corpus.{split}={path}")
    return tuple(made)


@pytest.fixture
def speech(tmp_path: Path, shared_data: Path) -> tuple[str, ...]:
    return (*TINY, *corpus(75, 7, tmp_path, shared_data))


CASES = {
    "plain": (),
    "batch_norm": ("model.encoder.variant.conv_norm=batch", "trainer.sync_batchnorm=true"),
    "accumulated": ("trainer.accumulate_grad_batches=3",),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_ranks_learn_as_one_with_twice_the_batch(case: str, speech: tuple[str, ...], tmp_path: Path) -> None:
    """75 utterances in eights leave a step of eleven: ranks that have six and five, and gradients that are clipped."""
    overrides = (*speech, "trainer.max_epochs=6", *CASES[case])
    (one,) = on_ranks(1, train, tmp_path / "one", (*overrides, "data.batch_size=16"), tmp_path / "one" / "run")
    two, _ = on_ranks(2, train, tmp_path / "two", (*overrides, "data.batch_size=8"), tmp_path / "two" / "run")
    assert len(one["losses"]) == 30
    assert one["losses"][-1] < 0.5 * one["losses"][0]
    assert two["losses"] == pytest.approx(one["losses"], rel=TOLERANCE)
    assert two["metrics"] == pytest.approx(one["metrics"], rel=10 * TOLERANCE)


@pytest.mark.slow
def test_two_optimizers_learn_on_two_ranks_and_in_accumulated_batches_as_on_one(tmp_path: Path) -> None:
    manifest = write_hums(tmp_path, count=19)  # the last step of an epoch has three
    base = (*TINY_GAN, f"data.corpus.train={manifest}", f"data.corpus.dev={manifest}", "trainer.max_epochs=3")
    # Spectral normalisation is left out: it follows the weights at each forward pass, of which two batches have more.
    overrides = (*base, "model.adversarial_from=2", "trainer.gradient_clip_val=50", "model.discriminators.scales=0",
                 "model.stft_weight=10")  # fmt: skip
    options = {"recipe": "tts/hifigan", "most_workers": 2}
    (one,) = on_ranks(1, train, tmp_path / "one", (*overrides, "data.batch_size=8"), tmp_path / "one" / "run",
                      recipe="tts/hifigan")  # fmt: skip
    half = (*overrides, "data.batch_size=4")
    two, _ = on_ranks(2, train, tmp_path / "two", half, tmp_path / "two" / "run", **options)
    (slow,) = on_ranks(1, train, tmp_path / "slow", half, tmp_path / "slow" / "run", accumulate=2, **options)
    assert len(one["losses"]) == 9
    for other in (two, slow):
        assert other["metrics"] == pytest.approx(one["metrics"], rel=1e-3)
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-4)


@pytest.mark.slow
def test_two_ranks_read_texts_as_one(tmp_path: Path) -> None:
    """Losses of words and texts, scores of spans and classes: 163 texts in eights leave a step of three."""
    overrides = (
        *("trainer=cpu", "trainer.max_epochs=2", "exp_manager.create_tensorboard_logger=false"),
        *("data.corpus.size=203", f"data.corpus.cache_dir={tmp_path}", "data.batch_tokens=null"),
        *("model.encoder.d_model=32", "model.encoder.dropout=0", "optim.lr=3e-3"),
        *("model.intent_classifier.dropout=0", "model.slot_classifier.dropout=0"),
    )
    text = {"recipe": "nlp/intent_slot"}
    (one,) = on_ranks(1, train, tmp_path / "one", (*overrides, "data.batch_size=16"), tmp_path / "one" / "run", **text)
    two, _ = on_ranks(2, train, tmp_path / "two", (*overrides, "data.batch_size=8"), tmp_path / "two" / "run", **text)
    assert len(one["losses"]) == 22
    assert one["losses"][-1] < 0.9 * one["losses"][0]
    assert two["losses"] == pytest.approx(one["losses"], rel=TOLERANCE)
    assert two["metrics"] == pytest.approx(one["metrics"], rel=10 * TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("utterances", [2, 3, 7])
def test_metrics_are_those_of_one_rank_whatever_the_split(utterances: int, tmp_path: Path, shared_data: Path) -> None:
    overrides = (*TINY, "data.batch_size=2", "trainer.max_epochs=1", *corpus(8, utterances, tmp_path, shared_data))
    (trained,) = on_ranks(1, train, tmp_path / "run", overrides, tmp_path / "run" / "run")
    (one,) = on_ranks(1, measure, tmp_path / "one", overrides, trained["best"])
    for answer in on_ranks(2, measure, tmp_path / "two", overrides, trained["best"]):
        assert answer == pytest.approx(one, rel=1e-6)
        assert (answer["val_wer"], answer["val_cer"]) == (one["val_wer"], one["val_cer"])


def test_fewer_utterances_than_ranks_are_refused(tmp_path: Path, shared_data: Path) -> None:
    overrides = (*TINY, "data.batch_size=2", *corpus(8, 1, tmp_path, shared_data))
    with pytest.raises(DataError, match=r"dev_1.jsonl: 1 dev utterances cannot be shared by 2 processes"):
        on_ranks(2, train, tmp_path, overrides, tmp_path / "run")


@pytest.mark.slow
def test_a_run_goes_on_in_mid_epoch_with_fewer_ranks_and_then_more(speech: tuple[str, ...], tmp_path: Path) -> None:
    """One rank accumulates what two had: each step, and the mean of each epoch, are those of two that never stopped."""
    overrides = (*speech, "trainer.max_epochs=3", "data.batch_size=8", *RESUMES)
    two = {"most_workers": 2}
    whole, _ = on_ranks(2, train, tmp_path / "whole", overrides, tmp_path / "whole" / "run", **two)
    run = tmp_path / "run"
    assert len(on_ranks(2, train, tmp_path / "1", overrides, run, stop_at=1, **two)[0]["losses"]) == 2
    (one,) = on_ranks(1, train, tmp_path / "2", overrides, run, stop_at=7, accumulate=2, **two)
    assert len(one["losses"]) == 12
    resumed, _ = on_ranks(2, train, tmp_path / "3", overrides, run, **two)
    assert resumed["losses"] == pytest.approx(whole["losses"][8:], rel=TOLERANCE)
    assert resumed["metrics"] == pytest.approx(whole["metrics"], rel=10 * TOLERANCE)


def check_last(run: Path, overrides: tuple[str, ...], result: dict[str, Any], scratch: Path) -> Path:
    """Measure a run's newest checkpoint, read whole: it has the metric that the run ended with."""
    last = find_last(run / "checkpoints")
    assert last is not None
    measured, _ = on_ranks(2, measure, scratch, overrides, last)
    assert measured["val_loss"] == pytest.approx(result["metrics"]["val_loss"], rel=TOLERANCE)
    return last


@pytest.mark.slow
def test_fsdp2_learns_as_ddp_and_goes_on_at_another_number_of_ranks(speech: tuple[str, ...], tmp_path: Path) -> None:
    overrides = (*speech, "trainer.max_epochs=3", "data.batch_size=8", *RESUMES)
    sharded, two = {"strategy": "fsdp2"}, {"most_workers": 2}
    whole, _ = on_ranks(2, train, tmp_path / "ddp", overrides, tmp_path / "ddp" / "run", **two)
    run = tmp_path / "run"
    stopped, _ = on_ranks(2, train, tmp_path / "1", overrides, run, stop_at=6, **sharded, **two)
    assert stopped["losses"] == pytest.approx(whole["losses"][:7], rel=TOLERANCE)
    [last] = run.glob("checkpoints/*-last.ckpt")
    assert len(list(last.glob("*.distcp"))) == 2
    shutil.copytree(run, tmp_path / "copy")
    again, _ = on_ranks(2, train, tmp_path / "2", overrides, run, **sharded, **two)
    assert again["losses"] == pytest.approx(whole["losses"][7:], rel=TOLERANCE)
    (one,) = on_ranks(1, train, tmp_path / "3", overrides, tmp_path / "copy", accumulate=2, **sharded, **two)
    for result in (again, one):
        assert result["metrics"] == pytest.approx(whole["metrics"], rel=10 * TOLERANCE)
    last = check_last(run, overrides, again, tmp_path / "4")
    shard = next(last.glob("__1_*"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    assert find_last(run / "checkpoints") != last
    assert not last.exists()


@pytest.mark.slow
def test_fsdp2_keeps_the_average_that_ddp_keeps_over_restarts(speech: tuple[str, ...], tmp_path: Path) -> None:
    average = ("exp_manager.ema.enable=true", "exp_manager.ema.decay=0.9")
    overrides = (*speech, "trainer.max_epochs=3", "data.batch_size=8", *average, *CASES["batch_norm"], *RESUMES)
    sharded, two = {"strategy": "fsdp2"}, {"most_workers": 2}
    whole, _ = on_ranks(2, train, tmp_path / "ddp", overrides, tmp_path / "ddp" / "run", **two)
    run = tmp_path / "run"
    on_ranks(2, train, tmp_path / "1", overrides, run, stop_at=6, **sharded, **two)
    again, _ = on_ranks(2, train, tmp_path / "2", overrides, run, **sharded, **two)
    on_ranks(2, train, tmp_path / "3", overrides, tmp_path / "mixed", stop_at=6, **two)
    mixed, _ = on_ranks(2, train, tmp_path / "4", overrides, tmp_path / "mixed", **sharded, **two)
    for result in (again, mixed):
        assert result["metrics"] == pytest.approx(whole["metrics"], rel=10 * TOLERANCE)
    check_last(run, overrides, again, tmp_path / "5")


@pytest.mark.slow
def test_fsdp2_in_a_bucket_on_nodes_that_share_nothing(
    s3: ThreadedMotoServer, speech: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYCONVAI_CACHE", str(tmp_path / "cache"))
    overrides = (*speech, "trainer.max_epochs=3", "data.batch_size=8", *RESUMES)
    options = {"strategy": "fsdp2", "most_workers": 2}
    whole, _ = on_ranks(2, train, tmp_path / "whole", overrides, tmp_path / "whole" / "run", **options)
    run = "s3://speech/runs/x"
    caches = [tmp_path / "node_0", tmp_path / "node_1"]
    on_ranks(2, train, tmp_path / "1", overrides, run, stop_at=6, caches=caches, **options)
    for cache in caches:
        shutil.rmtree(cache / "buckets")  # other machines
    again, _ = on_ranks(2, train, tmp_path / "2", overrides, run, caches=caches, **options)
    assert again["metrics"] == pytest.approx(whole["metrics"], rel=10 * TOLERANCE)
    Mirror(run).pull()
    last = check_last(working_copy(run), overrides, again, tmp_path / "3")
    assert {path.name for path in last.iterdir()} == {".metadata", "meta.pt", "__0_0.distcp", "__1_0.distcp"}
    shutil.rmtree(caches[1] / "buckets")
    more = (*overrides, "trainer.max_epochs=4", f"exp_manager.resume_from_checkpoint='{run}/checkpoints/{last.name}'")
    longer, _ = on_ranks(2, train, tmp_path / "4", more, "s3://speech/runs/y", caches=caches, **options)
    assert len(longer["losses"]) == 5
