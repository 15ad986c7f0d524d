"""What becomes of a sweep: longer, warmer, another one, hung, hopeless, over."""

from __future__ import annotations

from pathlib import Path

import pytest
from sweep_cli import epochs_written, run

from rayconvai.sweep.journal import iter_records, read_journal

pytestmark = pytest.mark.slow

RANDOM = (
    "space={model.floor: 'uniform(0, 0.5)', model.width: 'choice(4, 8)'}",
    "search={name: optuna, seed: 3}",
    "scheduler={name: none}",
)


def test_longer_and_then_another_one(tmp_path: Path) -> None:
    status, output = run(tmp_path, *RANDOM, "budget={trials: 2, epochs: 2}")
    assert status == 0, output
    first = {n: (trial.point, trial.curve("val_loss")) for n, trial in read_journal(tmp_path / "demo").trials.items()}

    status, output = run(tmp_path, *RANDOM, "budget={trials: 3, epochs: 3}")
    assert status == 0, output
    state = read_journal(tmp_path / "demo")
    assert sorted(epochs_written(tmp_path)) == [(trial, epoch) for trial in range(3) for epoch in (1, 2, 3)]
    for number, (point, curve) in first.items():
        assert state.trials[number].point == point
        assert curve.items() <= state.trials[number].curve("val_loss").items()
    assert all(trial.status == "finished" for trial in state.trials.values())

    wider = ["space={model.floor: 'uniform(0, 0.3)', model.width: 'choice(4, 8)'}", *RANDOM[1:], "budget={trials: 1}"]
    status, output = run(tmp_path, *wider)
    assert status == 2
    assert "holds another sweep of this name: space." in output
    assert "--fork" in output
    status, output = run(tmp_path, *wider, "--fork")
    assert status == 0, output
    inside = [n for n, trial in sorted(state.trials.items()) if trial.point["model.floor"] <= 0.3]
    assert f"warm start: {len(inside)} results of {tmp_path / 'demo'}" in output
    forked = read_journal(tmp_path / "demo-2")
    assert [known.trial for known in forked.warm] == inside
    assert forked.trials[0].status == "finished"


def test_a_trial_that_hangs_is_started_again(tmp_path: Path) -> None:
    hang = ["space={model.breaks: hang}", "search={name: grid}", "scheduler={name: none}", "timeout=6"]
    status, output = run(tmp_path, *hang)
    assert status == 0, output
    trial = read_journal(tmp_path / "demo").trials[0]
    assert (trial.status, trial.attempts, trial.epoch) == ("finished", 2, 4)
    (lost,) = [record for record in iter_records(tmp_path / "demo") if record["kind"] == "lost"]
    assert lost["reason"] == "no report in 6 s (stacks in hang.txt)"
    assert "_break" in (tmp_path / "demo" / "trials" / "t0000" / "hang.txt").read_text()


def test_gives_up_when_all_fail_for_one_reason_and_tries_again_when_told(tmp_path: Path) -> None:
    broken = [
        "space={model.breaks: code, model.floor: 'grid(0.0, 0.1, 0.2, 0.3)'}",
        "scheduler={name: none}",
        "give_up_after=2",
    ]
    status, output = run(tmp_path, *broken)
    assert status == 2
    assert output.splitlines()[-1].startswith("error: none of 2 trials gave a result; t0000: ZeroDivisionError: a bug")
    assert read_journal(tmp_path / "demo").closed == "failed"
    status, output = run(tmp_path, *broken, "give_up_after=3")
    assert status == 2
    assert {n: trial.attempts for n, trial in read_journal(tmp_path / "demo").trials.items()} == {0: 2, 1: 2, 2: 1}


def test_ends_when_the_target_is_reached(tmp_path: Path) -> None:
    target = ["space={model.floor: 'grid(0.5, 0.0, 0.4)'}", "scheduler={name: none}"]
    status, output = run(tmp_path, *target, "budget.target=0.6")
    assert status == 0, output
    assert "stopped by budget.target" in output
    state = read_journal(tmp_path / "demo")
    assert len(state.trials) == 2
    assert (state.closed, state.trials[1].epoch) == ("budget.target", 2)
    status, output = run(tmp_path, *target, "budget.target=0.6")
    assert (status, "is finished (budget.target)" in output) == (0, True), output
    status, output = run(tmp_path, *target)
    assert status == 0, output
    assert sorted(epochs_written(tmp_path)) == [(trial, epoch) for trial in range(3) for epoch in (1, 2, 3, 4)]
