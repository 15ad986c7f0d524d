"""Attempts at a trial, without Tune: where they pause and go on, what they report, what they cost."""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rayconvai.errors import CheckpointError
from rayconvai.experiment import find_last, read_metrics
from rayconvai.experiment.storage import AtomicCheckpointIO
from rayconvai.experiment.takeover import take_over
from rayconvai.sweep.cost import Meter
from rayconvai.sweep.hang import hang_reason
from rayconvai.sweep.trial import Attempt, TrialSettings, run_trial

TESTS = Path(__file__).parents[2] / "sweep"
Report = dict[str, Any]


@pytest.fixture
def speech(tmp_path: Path) -> Callable[..., TrialSettings]:
    """A small recognizer of tones, as test_run trains it: shuffled, augmented, with dropout and a schedule."""
    from rayconvai.data.audio import write_audio
    from tests.unit.asr.conftest import RATE, TEXTS, tones
    from tests.unit.asr.test_run import SMALL

    rows = []
    for text in TEXTS:
        write_audio(tmp_path / f"{text}.wav", tones(text), RATE)
        rows.append({"audio_filepath": f"{text}.wav", "duration": len(tones(text)) / RATE, "text": text})
    manifest = tmp_path / "all.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = (f"data.corpus.train={manifest}", f"data.corpus.dev={manifest}", "data.batch_seconds=2", "augment=all")
    short = ("trainer.max_epochs=4", "trainer.log_every_n_steps=1", "optim.lr=1e-3")

    def make(name: str, *overrides: str) -> TrialSettings:
        return settings(tmp_path / name, "asr/conformer_ctc", "val_loss", *SMALL, *corpus, *short, *overrides)

    return make


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrialSettings:
    monkeypatch.syspath_prepend(str(TESTS))
    return settings(tmp_path, "tiny/tiny", "val_loss", configs=TESTS / "configs")


def settings(directory: Path, recipe: str, metric: str, *overrides: str, configs: Path | None = None) -> TrialSettings:
    shared = ("exp_manager.resume_if_exists=true", "exp_manager.resume_ignore_no_checkpoint=true")
    return TrialSettings(
        recipe=recipe,
        config_dirs=() if configs is None else (str(configs),),
        overrides=(*shared, *overrides),
        place=str(directory),
        sweep="demo",
        metric=metric,
        cpus=1,
        gpus=0,
        working_dir=None,
    )


def attempt(
    settings: TrialSettings,
    *overrides: str,
    number: int = 0,
    until: int | None = None,
    go_on: Callable[[int], bool] = bool,
) -> tuple[list[Report], Report]:
    """Run an attempt; return what it reported of its epochs, and its last report."""
    reports: list[Report] = []

    def hand_over(report: Report) -> bool:
        reports.append(report)
        return go_on(report["epoch"])

    last = run_trial(settings, Attempt(number, overrides, until), hand_over)
    return reports, last


def test_an_attempt_pauses_after_its_epoch_and_another_goes_on(tiny: TrialSettings) -> None:
    reports, last = attempt(tiny, until=2)
    assert [(report["epoch"], report["val_loss"]) for report in reports] == [(1, 1.0), (2, 0.5)]
    assert (last["done"], last["end"], last["reason"], last["parameters"]) == (True, "paused", "", 8)
    reports, last = attempt(tiny, until=4)
    assert [report["epoch"] for report in reports] == [2, 3, 4]  # what the checkpoint has is said again
    assert last["end"] == "finished"
    reports, last = attempt(tiny, until=4)
    assert ([report["epoch"] for report in reports], last["end"]) == ([4], "finished")


def test_an_epoch_that_nobody_was_told_of_is_reported_by_the_next_attempt(tiny: TrialSettings) -> None:
    attempt(tiny, go_on=lambda epoch: epoch < 2)  # told to stop: the epoch is in the checkpoint
    reports, _ = attempt(tiny, go_on=lambda epoch: False)
    assert [report["epoch"] for report in reports] == [2]  # and the answer to it is heard


def whole(settings: TrialSettings, number: int = 0) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """All lines of a run's record, and its last checkpoint."""
    run_dir = settings.run_dir(number)
    lines = [{k: v for k, v in line.items() if k != "time"} for line in read_metrics(run_dir / "metrics.jsonl")]
    newest = find_last(run_dir / "checkpoints")
    assert newest is not None
    return lines, AtomicCheckpointIO().load_checkpoint(newest)


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param((), id="epochs"),
        pytest.param(("trainer.max_epochs=-1", "trainer.max_steps=10"), id="steps"),
        pytest.param(("trainer.min_epochs=3", "trainer.check_val_every_n_epoch=2"), id="not_before_epoch_3"),
    ],
)
def test_paused_at_every_epoch_equals_never_paused(
    speech: Callable[..., TrialSettings], overrides: tuple[str, ...]
) -> None:
    unstopped, paused = speech("unstopped", *overrides), speech("paused", *overrides)
    reports, _ = attempt(unstopped)
    seen: dict[int, Any] = {}
    for until in (1, 2, 3, 4, None):
        parts, last = attempt(paused, until=until)
        seen |= {report["epoch"]: report["metrics"] for report in parts}
        nothing_new, again = attempt(paused, until=until)
        assert {report["epoch"] for report in nothing_new} <= {max(seen, default=0)}
        assert again["end"] == last["end"]
    assert last["end"] == "finished"
    assert seen == {report["epoch"]: report["metrics"] for report in reports}
    (lines, checkpoint), (same_lines, same) = whole(unstopped), whole(paused)
    assert same_lines == lines
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        torch.testing.assert_close(same[part], checkpoint[part], rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("point", "keeps_moments"),
    [
        pytest.param(("optim.lr=4e-3", "optim.weight_decay=0.1", "schedule.warmup_ratio=0.5"), True, id="values"),
        pytest.param(("optim.decay_norm_and_bias=false",), True, id="other_groups"),
        pytest.param(("optim.amsgrad=true",), False, id="needs_more_state"),
        pytest.param(("optim=muon",), False, id="another_optimizer"),
        pytest.param(("data.batch_seconds=4",), True, id="other_batches"),
    ],
)
def test_a_trial_takes_over_another_and_goes_on_under_its_own_point(
    speech: Callable[..., TrialSettings], point: tuple[str, ...], keeps_moments: bool
) -> None:
    sweep = speech("sweep")
    attempt(sweep, number=0, until=2)
    attempt(sweep, "optim.lr=1e-5", number=1, until=2)
    donor, member = sweep.run_dir(0), sweep.run_dir(1)
    with pytest.raises(CheckpointError, match="one of epoch 2, not one of the end of epoch 3"):
        take_over(donor, member, 3)
    before = sorted(path.name for path in (donor / "checkpoints").iterdir())
    taken = take_over(donor, member, 2)
    assert sorted(path.name for path in (donor / "checkpoints").iterdir()) == before
    shutil.move(donor, donor.with_name("gone"))
    assert take_over(donor, member, 2) == taken  # done once
    assert {path for path in taken.parent.iterdir() if path.suffix == ".ckpt"} == {taken, spare_of(taken)}
    taken.write_bytes(taken.read_bytes()[:-100])
    assert find_last(taken.parent) == spare_of(taken)
    shutil.move(donor.with_name("gone"), donor)
    assert take_over(donor, member, 2) == taken
    shutil.move(donor, donor.with_name("gone"))
    weights = AtomicCheckpointIO().load_checkpoint(taken)["state_dict"]
    theirs = find_last(donor.with_name("gone") / "checkpoints")
    assert theirs is not None
    torch.testing.assert_close(weights, AtomicCheckpointIO().load_checkpoint(theirs)["state_dict"], rtol=0, atol=0)

    reports, last = attempt(sweep, *point, number=1)
    assert (last["end"], [report["epoch"] for report in reports]) == ("finished", [2, 3, 4])
    attempt(sweep, *point, number=2)  # the same point from its beginning
    (lines, mine), (_, reference) = whole(sweep, 1), whole(sweep, 2)
    assert [line["epoch"] for line in lines if line["kind"] == "epoch"] == [1, 2, 3, 4]
    assert mine["optimizer_states"][0]["param_groups"] == reference["optimizer_states"][0]["param_groups"]
    if "data" not in point[0]:
        assert mine["lr_schedulers"] == reference["lr_schedulers"]
    steps = {int(state["step"]) for state in mine["optimizer_states"][0]["state"].values() if "step" in state}
    assert steps == {mine["global_step"] if keeps_moments else mine["global_step"] // 2}
    assert not taken.exists()
    tracked = next(state for key, state in mine["callbacks"].items() if key.startswith("Checkpoints"))
    assert {Path(path).parent for path in tracked["best_k_models"]} == {member / "checkpoints"}


def spare_of(taken: Path) -> Path:
    return taken.with_stem(taken.stem.removesuffix("-last"))


@pytest.mark.slow
def test_what_an_attempt_costs(speech: Callable[..., TrialSettings]) -> None:
    reports, last = attempt(speech("sweep", "augment=none", "data.num_workers=1"), until=2)
    first, cost = reports[0]["cost"], last["cost"]
    assert cost["seen"]["utterances"] == 2 * first["seen"]["utterances"] == 8
    assert cost["seen"]["audio_seconds"] == pytest.approx(2 * first["seen"]["audio_seconds"])
    assert 0 < first["wall"] <= cost["wall"]
    assert 0 < first["cpu"] <= cost["cpu"]
    assert cost["memory"] > 100 << 20
    assert (cost["gpu"], cost["gpu_memory"]) == (0, 0)


def test_the_meter_counts_what_is_below_it_and_forgets_earlier_peaks() -> None:
    block = bytearray(300 << 20)
    block[:: 1 << 12] = bytes([1]) * len(block[:: 1 << 12])
    high = Meter(0).read()["memory"]
    del block
    meter = Meter(0.5)
    code = "import os, subprocess, sys, time\nwhile time.process_time() < 0.5: pass\nprint(flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        cost = meter.read()
        child.communicate(b"\n")
    assert cost["cpu"] >= 0.4
    assert meter.read()["cpu"] >= 0.4
    assert cost["gpu"] == pytest.approx(cost["wall"] / 2, abs=1e-3)
    assert cost["memory"] < high - (200 << 20)


def test_a_process_that_hangs_ends_itself_and_leaves_its_stacks(tmp_path: Path) -> None:
    began = time.time() - 1
    code = (
        "import sys, threading\nfrom pathlib import Path\nfrom functools import partial\n"
        "from rayconvai.sweep.hang import hang_watch\nfrom rayconvai.sweep.trial import _Run\n"
        "def stuck_for_ever(run):\n    run.hand_over({})\n    threading.Event().wait()\n"
        "run = _Run(stuck_for_ever, partial(hang_watch, Path(sys.argv[1]), 0.5))\n"
        "run.next_report()\nassert not list(Path(sys.argv[1]).iterdir())\nprint('reported')\nsys.stdout.flush()\n"
        "run.end()\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (1, "reported\n"), done.stderr
    assert hang_reason(tmp_path, began) == "no report in 0.5 s (stacks in hang.txt)"
    assert "stuck_for_ever" in (tmp_path / "hang.txt").read_text()
    assert hang_reason(tmp_path, time.time() + 60) == ""  # an attempt that began later died of something else
    assert hang_reason(tmp_path / "nowhere", began) == ""


def test_two_attempts_at_a_trial_are_never_at_work_at_once(tiny: TrialSettings) -> None:
    def is_locked() -> bool:
        with (tiny.run_dir(0) / ".lock").open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    seen: list[bool] = []
    attempt(tiny, go_on=lambda _: seen.append(is_locked()) is None)
    assert seen == [True] * 4
    assert not is_locked()
