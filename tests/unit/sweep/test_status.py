"""How a sweep looks: the command ``status``, and what is shown while it runs."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rayconvai.errors import SweepError
from rayconvai.sweep.display import Display
from rayconvai.sweep.journal import Journal, read_journal
from rayconvai.sweep.ranking import front
from rayconvai.sweep.show import time_left
from rayconvai.sweep.spec import MetricSpec
from rayconvai.sweep.state import SweepState
from rayconvai.sweep.status import main

SPEC: dict[str, Any] = {
    "name": "asr", "recipe": "asr/conformer_ctc", "metric": {"name": "val_wer", "mode": "min"},
    "budget": {"trials": 8, "epochs": 4}, "prices": {"cpu_hour": 0.5, "gpu_hour": 2.0, "currency": "EUR"},
}  # fmt: skip


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that records get: it stands still unless it is put on."""
    now = [1_764_000_000.0]
    monkeypatch.setattr("rayconvai.sweep.journal.time.time", lambda: now[0])
    return now


def begin(journal: Journal, number: int, repeats: int = 1) -> None:
    group, repeat = divmod(number, repeats)
    point = {"optim.lr": 0.001 * (group + 1), "model.width": 64}
    journal.append("point", trial=number, group=group, repeat=repeat, point=point, overrides=[], notes={})
    journal.append("attempt", trial=number, attempt=1)


def train(journal: Journal, number: int, *values: float, **more: float) -> None:
    for epoch, value in enumerate(values, start=1):
        hours = {"wall": 3600 * epoch, "cpu": 7200 * epoch, "gpu": 1800 * epoch, "memory": 2**31}
        cost = {**hours, "seen": {"audio_seconds": 36_000 * epoch}}
        metrics = {"val_wer": value, **more}
        journal.append("result", trial=number, attempt=1, epoch=epoch, metrics=metrics, cost=cost)


def write(journal: Journal, clock: list[float]) -> None:
    """Eight trials, of all kinds."""
    journal.open({}, SPEC)
    for number in range(8):
        begin(journal, number)
    train(journal, 0, 0.9, 0.5, 0.3, 0.4)
    train(journal, 1, 0.8)
    train(journal, 2, 0.7, 0.6)
    clock[0] += 3600
    journal.append("end", trial=0, status="finished", reason="", parameters=1000)
    journal.append("end", trial=1, status="stopped", reason="")
    for number in (3, 4):
        journal.append("end", trial=number, status="infeasible", reason=f"val_wer is nan at epoch {number}")
    journal.append("end", trial=5, status="failed", reason="[red]KeyError: 'x'")
    journal.append("lost", trial=6, attempt=1, reason="its process died")
    journal.append("pause", trial=7, epoch=1)


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, str]:
    """Run the command; return its lines by their labels."""
    assert main(list(arguments)) == 0
    output = capsys.readouterr().out
    return {line[:12].strip(): line[12:].strip() for line in output.splitlines()} | {"": output}


def test_what_status_says(tmp_path: Path, clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with Journal(tmp_path / "asr") as journal:
        write(journal, clock)
        lines = shown(capsys, str(tmp_path / "asr"))
    assert "/asr: asr/conformer_ctc, val_wer (min)" in lines[""]
    assert "\nat work: process " in lines[""]
    assert lines["trials"] == (
        "5 of 8 ended: 1 finished, 1 stopped, 2 infeasible, 1 failed; 1 running, 1 paused, 1 waiting"
    )
    assert lines["best"] == "val_wer 0.3 (t0000): optim.lr=0.001, model.width=64"
    assert lines["time"].startswith("1:00:00 of work, about ")
    assert lines["cost"] == (
        "7 hours of training, 14 CPU hours, 3.5 GPU hours, 14.00 EUR, 70 hours of audio seen, "
        "at most 2.0 GB of memory a trial"
    )
    assert lines["saved"] == "about 3:00:00 of training by stopping early (30% of the whole)"
    assert lines["lost"] == "1 attempt of 1 trial: the process or its machine died"
    assert lines["infeasible"] == "2: val_wer is nan at epoch 3 (t0003, t0004)"
    assert lines["failed"] == "1: [red]KeyError: 'x' (t0005)"
    assert [line.split()[:2] for line in lines[""].splitlines() if line.startswith("t0")][:2] == [
        ["t0002", "running"], ["t0000", "finished"]
    ]  # fmt: skip
    assert "[red]KeyError: 'x'" in lines["t0005  faile"]


@pytest.mark.parametrize(
    ("closing", "words"),
    [
        pytest.param("done", "the driver ended at 2025-.*: all its trials have ended", id="done"),
        pytest.param("budget.hours", "the driver ended at 2025-.*: budget.hours", id="budget"),
        pytest.param(None, "the driver was killed, it was last heard of at 2025-", id="killed"),
    ],
)
def test_why_nobody_is_at_work(
    tmp_path: Path, clock: list[float], capsys: pytest.CaptureFixture[str], closing: str | None, words: str
) -> None:
    with Journal(tmp_path) as journal:
        journal.open({}, SPEC)
        if closing:
            journal.append("close", reason=closing)
    assert re.search(f"nobody is at work; {words}", shown(capsys, str(tmp_path))[""])


def test_points_with_repeats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Journal(tmp_path) as journal:
        journal.open({}, {**SPEC, "repeats": 2})
        for number, value in enumerate((0.5, 0.4, 0.1, 0.3)):
            begin(journal, number, repeats=2)
            train(journal, number, value)
    lines = shown(capsys, str(tmp_path))
    assert "0 of 8 ended; 4 waiting" in lines[""]  # nobody is at work
    assert lines["best"].startswith("val_wer 0.2 (-1.071 to 1.471) (t0002, t0003): optim.lr=0.002")
    tables = [line.split() for line in lines[""].splitlines() if line.startswith("t0")]
    assert tables[0][:6] == ["t0002,", "t0003", "0.2000", "-1.0706", "1.4706", "2"]
    assert [row[0] for row in tables[2:]] == ["t0002", "t0003", "t0000", "t0001"]


def test_the_front_of_several_metrics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Journal(tmp_path) as journal:
        journal.open({}, {**SPEC, "more_metrics": [{"name": "speed", "mode": "max"}]})
        for number, (value, speed) in enumerate([(0.5, 9.0), (0.4, 5.0), (0.4, 6.0), (0.6, 8.0), (0.3, 1.0)]):
            begin(journal, number)
            train(journal, number, value, speed=speed)
    assert [(point.group, point.values) for point in front(read_journal(tmp_path))] == [
        (4, [0.3, 1.0]), (2, [0.4, 6.0]), (0, [0.5, 9.0])
    ]  # fmt: skip
    assert shown(capsys, str(tmp_path))["front"].split() == ["trials", "val_wer", "speed", "lr", "width"]


def test_all_trials_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Journal(tmp_path) as journal:
        journal.open({}, SPEC)
        for number in range(15):
            begin(journal, number)
            journal.append("end", trial=number, status="finished", reason="")
    some, whole = (shown(capsys, str(tmp_path), *more)[""] for more in ((), ("--trials",)))
    assert (some.count("\nt00"), whole.count("\nt00")) == (10, 15)


def test_no_sweep_is_one_line_that_names_those_there_are(tmp_path: Path) -> None:
    for name in ("asr", "tts"):
        with Journal(tmp_path / name) as journal:
            journal.open({}, SPEC)
    for wrong, hint in (("asr2", "nearest: asr"), ("x", f"sweeps in {tmp_path}: asr, tts"), ("", "asr, tts")):
        with pytest.raises(SweepError, match=rf"holds no sweep: there is no journal in .*; .*{hint}$"):
            main([str(tmp_path / wrong)])


def test_it_needs_neither_ray_nor_torch(tmp_path: Path, clock: list[float]) -> None:
    with Journal(tmp_path) as journal:
        write(journal, clock)
    code = (
        "import sys; sys.argv[1:] = ['status', sys.argv[1]]; from rayconvai.__main__ import main; main(); "
        "assert not {'torch', 'ray', 'optuna', 'lightning', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert (done.returncode, "5 of 8 ended" in done.stdout) == (0, True), done.stderr


def test_time_left_counts_what_runs_and_keeps_to_the_hours() -> None:
    state = SweepState(spec={**SPEC, "budget": {"trials": 4, "epochs": 10}})
    assert time_left(state, 4) is None
    state.apply({"kind": "point", "time": 0, "trial": 0, "point": {}, "overrides": []})
    state.seconds = 0
    state.apply({"kind": "result", "time": 60, "trial": 0, "epoch": 5, "metrics": {}, "cost": {}})
    assert time_left(state, 4) == 60 / 0.5 * 3.5
    assert time_left(state, None) is None
    state.spec["budget"]["hours"] = 0.1
    assert time_left(state, 4) == time_left(state, None) == 300


@pytest.fixture
def output() -> io.StringIO:
    return io.StringIO()


def display(state: SweepState, output: io.StringIO, *, terminal: bool) -> Display:
    console = Console(file=output, force_terminal=terminal, width=150, color_system=None)
    return Display(state, MetricSpec(name="val_wer", mode="min"), 8, console)


def test_a_log_has_a_line_for_each_event(tmp_path: Path, output: io.StringIO) -> None:
    with Journal(tmp_path) as journal, display(journal.state, output, terminal=False) as view:
        journal.open({}, SPEC)
        begin(journal, 0)
        trial = journal.state.trials[0]
        train(journal, 0, 0.5)
        view.reported(trial)
        journal.append("lost", trial=0, attempt=1, reason="its process died")
        view.lost(trial)
        journal.append("end", trial=0, status="finished", reason="")
        view.ended(trial)
    lines = output.getvalue().splitlines()
    assert [line.partition("] ")[2].partition(", about")[0] for line in lines] == [
        "t0000 is under way: optim.lr=0.001, model.width=64",
        "t0000 was lost (its process died); it will be tried again",
        "t0000 finished after epoch 1, best val_wer 0.5 (epoch 1) | 1 of 8 ended, best val_wer 0.5 (t0000)",
    ]


def test_a_terminal_has_what_status_has(tmp_path: Path, clock: list[float], output: io.StringIO) -> None:
    with Journal(tmp_path) as journal:
        write(journal, clock)
        with display(journal.state, output, terminal=True):
            pass
    assert "5 of 8 ended: 1 finished" in output.getvalue()
    assert "t0002  running" in output.getvalue()
