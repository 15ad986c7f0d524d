"""What a trial's weights went through, and the same once more: equal to the last digit."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rayconvai.errors import ConfigError, SweepError
from rayconvai.sweep.journal import read_journal
from rayconvai.sweep.replay import Segment, lineage, main
from rayconvai.sweep.spec import BudgetSpec
from rayconvai.sweep.state import SweepState
from rayconvai.train.__main__ import main as train

ByHand = Callable[..., Any]


def state_of(*records: dict[str, Any]) -> SweepState:
    state = SweepState()
    state.apply({"kind": "sweep", "time": 0, "identity": {}, "spec": {"metric": {"name": "val_loss", "mode": "min"}}})
    for record in records:
        state.apply({"time": 0, **record})
    return state


def test_a_history_follows_the_donors_back_to_the_start() -> None:
    def exploit(trial: int, epoch: int, donor: int) -> dict[str, Any]:
        changed = {"point": {"from": donor}, "overrides": [f"from={donor}"]}
        return {"kind": "exploit", "trial": trial, "epoch": epoch, "donor": donor, **changed}

    points = [
        {"kind": "point", "trial": n, "group": n, "repeat": 0, "point": {"own": n}, "overrides": [f"own={n}"]}
        for n in range(3)
    ]
    # 1 takes over from 2, then 0 from 1, then 1 from 0; 1 takes over once more, but only at the last epoch.
    exploits = [exploit(1, 2, 2), exploit(0, 4, 1), exploit(1, 6, 0), exploit(1, 8, 2)]
    state = state_of(*points, *exploits)
    assert lineage(state, state.trials[1], 8) == [
        Segment(1, 2, 2, {"own": 2}, ["own=2"]),
        Segment(3, 4, 1, {"from": 2}, ["from=2"]),
        Segment(5, 6, 0, {"from": 1}, ["from=1"]),
        Segment(7, 8, 1, {"from": 0}, ["from=0"]),
    ]
    assert lineage(state, state.trials[2], 8) == [Segment(1, 8, 2, {"own": 2}, ["own=2"])]
    assert lineage(state, state.trials[1], 9)[-1] == Segment(9, 9, 1, {"from": 2}, ["from=2"])


@pytest.fixture(scope="module")
def population(tmp_path_factory: pytest.TempPathFactory, sweep_by_hand: ByHand) -> Path:
    """Two trials: at epoch 2 the first takes over from the second, at 4 the second from the first."""
    sweep = sweep_by_hand(tmp_path_factory.mktemp("pbt"), budget=BudgetSpec(epochs=6))
    for number, rate in enumerate((0.001, 0.02)):
        sweep.point(number, {"optim.lr": rate})
        sweep.attempt(number, until=2)
    sweep.exploit(0, 1, {"optim.lr": 0.05})
    sweep.journal.append("release", trial=1)
    for number in (0, 1):
        sweep.attempt(number, until=4)
    sweep.exploit(1, 0, {"optim.lr": 0.1})
    sweep.journal.append("release", trial=0)
    for number in (0, 1):
        sweep.attempt(number)
    sweep.journal.close()
    return Path(sweep.directory)


@pytest.mark.parametrize(
    ("trial", "epochs"),
    [
        pytest.param("t0000", {"1 to 2": "t0001", "3 to 6": "t0000"}, id="one_takeover"),
        pytest.param("1", {"1 to 2": "t0001", "3 to 4": "t0000", "5 to 6": "t0001"}, id="two"),
    ],
)
def test_a_schedule_trained_anew_gives_the_recorded_metrics(
    population: Path, tmp_path: Path, trial: str, epochs: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(population), trial, "--into", str(tmp_path / "anew")]) == 0
    output = capsys.readouterr().out
    assert {line[:6]: line.split()[3] for line in output.splitlines()[1 : 1 + len(epochs)]} == epochs
    assert "6 of 6 epochs have the recorded metrics, to the last digit" in output
    schedule = json.loads((tmp_path / "anew" / "schedule.json").read_text())
    assert len(schedule) == len(epochs)


def test_every_takeover_changed_what_came_after(population: Path) -> None:
    state = read_journal(population)
    curves = [trial.curve("val_loss") for trial in state.trials.values()]
    assert curves[0][3] != curves[1][3]
    assert curves[0][5] != curves[1][5]
    # From the same weights, the larger rate comes further.
    assert curves[1][5] < curves[0][5]


def test_an_interrupted_replay_goes_on_and_another_history_is_refused(
    population: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = shutil.copytree(population, tmp_path / "demo")
    assert main([str(sweep)]) == 0
    again = tmp_path / "demo" / "replays" / "t0001"
    before = (again / "metrics.jsonl").read_bytes()
    assert main([str(sweep), "t0001"]) == 0
    assert (again / "metrics.jsonl").read_bytes() == before
    assert capsys.readouterr().out.count("6 of 6 epochs") == 2
    with pytest.raises(SweepError, match="holds the replay of another history"):
        main([str(sweep), "t0000", "--into", str(again)])
    with pytest.raises(SweepError, match="holds something else than a replay"):
        main([str(sweep), "--into", str(sweep)])
    with pytest.raises(SweepError, match=r"has no trial t0007; it has t0000 to t0001"):
        main([str(sweep), "t0007"])


@pytest.fixture
def rerun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """``python -m rayconvai.train --rerun``, in this process."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.chdir(tmp_path)

    def run(run_dir: Path) -> None:
        monkeypatch.setattr(sys, "argv", ["train", "--rerun", str(run_dir), "artefact=false"])
        train()

    return run


def test_a_trial_that_paused_is_rerun_with_the_same_numbers(
    tmp_path: Path, sweep_by_hand: ByHand, rerun: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = sweep_by_hand(tmp_path)
    sweep.point(0, {"optim.lr": 0.05})
    sweep.attempt(0, until=2)
    sweep.attempt(0)
    sweep.journal.close()
    trial = sweep.settings.run_dir(0)
    rerun(trial)
    assert f"same numbers as {trial} (epochs: 4" in capsys.readouterr().out


@pytest.mark.parametrize("trial", ["t0000", "t0001"])
def test_a_trial_that_took_over_is_replayed_not_rerun(
    population: Path, trial: str, rerun: Callable[[Path], None]
) -> None:
    with pytest.raises(ConfigError, match=f"anew: python -m rayconvai replay {population} {trial}"):
        rerun(population / "trials" / trial)


def test_what_does_not_agree_is_named(
    tmp_path: Path, sweep_by_hand: ByHand, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = sweep_by_hand(tmp_path)
    sweep.run([0.05])
    (segment,) = (sweep.directory / "journal").glob("*.jsonl")
    lines = segment.read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if '"epoch": 3' in line)
    record = json.loads(lines[at])
    record["metrics"]["val_loss"] += 1
    segment.write_text("\n".join([*lines[:at], json.dumps(record), *lines[at + 1 :]]) + "\n")
    assert main([str(sweep.directory)]) == 0
    assert "3 of 4 epochs have the recorded metrics, to the last digit; first val_loss of epoch 3 differs" in (
        capsys.readouterr().out
    )
