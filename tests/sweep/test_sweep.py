"""Whole sweeps through the command line, on a real local Ray: what they leave behind, and that nothing loses it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rayconvai.sweep.journal import SweepState, read_journal

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
SWEEP = """\
name: demo
recipe: tiny/tiny
config_dirs: [{configs}]
space:
  model.floor: grid(0.0, 0.5)
  model.breaks: grid(no, 'nan', memory, code, process)
metric: {{name: val_loss, mode: min}}
search: {{name: grid}}
scheduler: {{name: asha, grace: 1, reduction: 2}}
resources: {{cpus: 1, concurrent: 1}}
storage: {storage}
"""


@contextmanager
def started(directory: Path, *overrides: str) -> Iterator[subprocess.Popen[str]]:
    """Run the command with a home of its own; whatever happens, it does not outlive the block."""
    file = directory / "demo.yaml"
    file.write_text(SWEEP.format(configs=HERE / "configs", storage=directory))
    (directory / "home").mkdir(exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "TUNE_"))}
    environment |= {"PYTHONPATH": str(HERE), "HOME": str(directory / "home"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "rayconvai.sweep", str(file), *overrides]
    process = subprocess.Popen(
        command, cwd=directory, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def run(directory: Path, *overrides: str) -> tuple[int, str]:
    with started(directory, *overrides) as process:
        output, _ = process.communicate()
    return process.returncode, output


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if text in line:
            return
    raise AssertionError(f"no line with {text!r} in:\n{''.join(seen)}")


def epochs_written(directory: Path) -> list[tuple[int, int]]:
    records = [
        json.loads(line)
        for segment in sorted((directory / "demo" / "journal").glob("*.jsonl"))
        for line in segment.read_text().splitlines()
    ]
    return [(record["trial"], record["epoch"]) for record in records if record["kind"] == "result"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, SweepState]:
    directory = tmp_path_factory.mktemp("sweep")
    status, output = run(directory)
    assert status == 0, output
    return directory, output, read_journal(directory / "demo")


def test_a_dry_run_checks_every_point_and_starts_nothing(tmp_path: Path) -> None:
    status, output = run(tmp_path, "--dry-run", "space.model.breaks=grid(no)")
    assert status == 0, output
    assert "2 trials; 5 points composed and checked" in output
    assert not (tmp_path / "demo").exists()
    status, output = run(tmp_path, "--dry-run", "space.model.floors=grid(1)")
    assert status == 2
    assert "'model.floors' does not exist in recipe tiny/tiny; nearest: model.floor" in output


def test_each_trial_ends_as_it_must(finished: tuple[Path, str, SweepState]) -> None:
    directory, output, state = finished
    ends = {(trial.point["model.breaks"], trial.point["model.floor"]): trial for trial in state.trials.values()}
    assert {key: (trial.status, trial.epoch, trial.attempts) for key, trial in ends.items()} == {
        ("no", 0.0): ("finished", 4, 1),
        ("nan", 0.0): ("infeasible", 0, 1),
        ("memory", 0.0): ("infeasible", 1, 1),
        ("code", 0.0): ("failed", 1, 1),
        ("process", 0.0): ("finished", 4, 2),
        ("no", 0.5): ("stopped", 1, 1),
        ("nan", 0.5): ("infeasible", 0, 1),
        ("memory", 0.5): ("stopped", 1, 1),
        ("code", 0.5): ("stopped", 1, 1),
        ("process", 0.5): ("stopped", 1, 1),
    }, output
    assert ends["nan", 0.0].reason == "val_loss is nan at epoch 1"
    assert ends["memory", 0.0].reason.startswith("out of memory")
    assert "ZeroDivisionError: a bug" in ends["code", 0.0].reason
    assert "ZeroDivisionError" in (directory / "demo" / "trials" / ends["code", 0.0].name / "error.txt").read_text()
    written = epochs_written(directory)
    assert len(written) == len(set(written))
    assert state.closed == "done"


def test_what_it_leaves_behind(finished: tuple[Path, str, SweepState]) -> None:
    directory, output, _ = finished
    sweep = directory / "demo"
    assert sorted(path.name for path in sweep.iterdir()) == ["best", "journal", "plan.json", "sweep.yaml", "trials"]
    assert len(list((sweep / "trials").iterdir())) == 10
    for trial in (sweep / "trials").iterdir():
        assert {"config.yaml", "overrides.yaml", "provenance.json", "metrics.jsonl"} <= {
            p.name for p in trial.iterdir()
        }
    card = json.loads((sweep / "best" / "card.json").read_text())
    assert card["metrics"] == {"test_loss": 0.0}
    table = [line.split()[0] for line in output.splitlines() if line[:2] == "t0"]
    assert table[0] == "t0000"
    assert len(table) == 10
    assert "python -m rayconvai transcribe demo/best" in output
    assert not (directory / "home" / ".ray").exists()  # no token that would switch authentication on for good


def test_finished_is_finished(finished: tuple[Path, str, SweepState]) -> None:
    directory, _, state = finished
    status, output = run(directory)
    assert (status, "is finished" in output) == (0, True), output
    assert read_journal(directory / "demo").trials == state.trials


def test_another_sweep_of_the_same_name_is_refused(finished: tuple[Path, str, SweepState]) -> None:
    directory, _, _ = finished
    status, output = run(directory, "metric.mode=max")
    assert status == 2
    assert "holds another sweep of this name: metric was" in output


def test_killed_and_interrupted_and_taken_up_again(tmp_path: Path) -> None:
    slow = ["space.model.breaks=grid(no)", "overrides=[model.pause=0.3]", "scheduler.name=none"]
    with started(tmp_path, *slow) as process:
        wait_for(process, "t0000 is under way")
        process.send_signal(signal.SIGKILL)
    with started(tmp_path, *slow) as process:
        wait_for(process, "t0001 is under way")
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate()
    assert (process.returncode, "interrupted" in output) == (130, True), output
    assert read_journal(tmp_path / "demo").closed == "interrupted"
    status, output = run(tmp_path, *slow)
    assert status == 0, output
    state = read_journal(tmp_path / "demo")
    assert sorted(epochs_written(tmp_path)) == [(trial, epoch) for trial in (0, 1) for epoch in (1, 2, 3, 4)]
    assert [trial.status for trial in state.trials.values()] == ["finished", "finished"]
    assert [trial.attempts for trial in state.trials.values()] == [2, 2]
