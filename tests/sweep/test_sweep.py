"""Whole sweeps through the command line, on a real local Ray: what they leave behind, and that nothing loses it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from ray.cluster_utils import Cluster
from sweep_cli import epochs_written, run, started, wait_for

from rayconvai.analysis import Sweep, plots
from rayconvai.analysis.report import write_report
from rayconvai.core.build import allow
from rayconvai.sweep.journal import iter_records, read_journal
from rayconvai.sweep.state import SweepState

pytestmark = pytest.mark.slow
NOTEBOOK = Path(__file__).parents[2] / "sweeps" / "analysis.ipynb"


def nodes_used(directory: Path) -> set[str]:
    """The Ray nodes that any attempt of any trial ran on."""
    files = (directory / "demo" / "trials").rglob("provenance.json")
    facts = [json.loads(file.read_text()).get("ray") for file in files]
    return {worker["node"] for ray in facts if ray for worker in ray["workers"]}


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster of two nodes with one CPU each, started by somebody who knows nothing of our packages."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    quiet = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    kinds = ("initial_delay_ms", "period_ms", "timeout_ms")
    watchful = {f"RAY_health_check_{kind}": "1000" for kind in kinds}  # a node that is gone is missed in seconds
    for name, value in {**quiet, **watchful, "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)
    temporary = tempfile.mkdtemp(prefix="ray")  # pytest's own are too long for sockets
    node = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    cluster = Cluster(True, head_node_args={**node, "include_dashboard": False, "temp_dir": temporary})
    try:
        cluster.add_node(**node)
        yield cluster
    finally:
        cluster.shutdown()
        shutil.rmtree(temporary, ignore_errors=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, SweepState]:
    directory = tmp_path_factory.mktemp("sweep")
    status, output = run(directory)
    assert status == 0, output
    return directory, output, read_journal(directory / "demo")


def test_a_dry_run_checks_every_point_and_starts_nothing(tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    with (
        started(good, "--dry-run", "space.model.breaks=grid(no)") as right,
        started(bad, "--dry-run", "space.model.floors=grid(1)") as wrong,
    ):
        output, _ = right.communicate()
        assert right.returncode == 0, output
        assert "2 trials; 3 points composed and checked" in output
        output, _ = wrong.communicate()
        assert wrong.returncode == 2
        assert "'model.floors' does not exist in recipe tiny/tiny; nearest: model.floor" in output
    assert not (good / "demo").exists()


def test_a_cluster_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    status, output = run(tmp_path, RAY_ADDRESS="127.0.0.1:1")
    assert status == 2
    assert output == "error: no Ray cluster answers at RAY_ADDRESS=127.0.0.1:1: Connection refused\n"


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


def test_the_notebook_and_the_report_tell_its_story(
    finished: tuple[Path, str, SweepState], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = finished[0] / "demo"
    monkeypatch.setenv("SWEEP", str(sweep))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(NOTEBOOK.parents[1]), str(Path(__file__).parent)]))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert [cell.id for cell in notebook.cells if cell.get("outputs") or cell.get("execution_count")] == []
    notebook.cells.insert(0, nbformat.v4.new_code_cell("from rayconvai.core.build import allow\nallow('tiny_recipe')"))
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    said = "\n".join(json.dumps(cell.outputs) for cell in notebook.cells if cell.cell_type == "code")
    assert "ZeroDivisionError: a bug" in said
    assert "test_loss" in said
    assert "TinyModel" in said
    report = Path(write_report(sweep, finished[0] / "report.html")).read_text(encoding="utf-8")
    assert "the best of 10 trials" in report
    assert "ZeroDivisionError: a bug" in report


def test_it_is_looked_at_without_a_cluster(finished: tuple[Path, str, SweepState]) -> None:
    directory, _, state = finished
    sweep = Sweep(directory / "demo")
    assert set(sweep.history["kind"]) == {"epoch", "step", "validation"}
    assert sweep.history["step"].notna().all()
    [died] = [
        trial for trial in state.trials.values() if trial.point == {"model.breaks": "process", "model.floor": 0.0}
    ]
    attempts = sweep.attempts[sweep.attempts["trial"] == died.name]
    assert list(attempts["how"]) == ["lost", "finished"]
    assert set(attempts["node"]) == {socket.gethostname()}
    assert {"said": "tested"} in [sample.texts for sample in sweep.samples()]
    assert {"said": "epoch 4"} in [sample.texts for sample in sweep.samples(died.name)]
    assert sweep.card["sweep"]["trial"] == sweep.best.name
    allow("tiny_recipe")
    assert sweep.load_best().num_weights == sweep.best["parameters"]
    for name, (_, plot) in plots.ALL.items():
        figure = plot(sweep)
        assert figure.data or figure.layout.annotations, name


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
    assert "artefact: demo/best" in output
    assert "transcribe" not in output  # which this model cannot
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


def test_a_full_disk_stops_the_sweep_and_costs_no_trial(tmp_path: Path) -> None:
    disk = ["space.model.breaks=grid(disk)", "space.model.floor=grid(0.0)"]
    status, output = run(tmp_path, *disk)
    assert (status, output.splitlines()[-1]) == (
        2, "error: t0000: checkpoint cannot be written: No space left on device; the same command then goes on"
    ), output  # fmt: skip
    status, output = run(tmp_path, *disk)
    assert status == 0, output
    trial = read_journal(tmp_path / "demo").trials[0]
    assert (trial.status, trial.epoch, trial.attempts) == ("finished", 4, 2)


def test_killed_and_interrupted_and_taken_up_on_a_cluster(tmp_path: Path, two_nodes: Cluster) -> None:
    slow = ["space.model.breaks=grid(no)", "overrides=[model.pause=0.3]", "scheduler={name: none}"]
    with started(tmp_path, *slow) as process:
        wait_for(process, "t0000 is under way")
        process.send_signal(signal.SIGKILL)
    slow += ["resources.concurrent=2", "storage=."]
    with started(tmp_path, *slow, RAY_ADDRESS=two_nodes.address) as process:
        wait_for(process, "t0001 is under way")
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate()
    assert (process.returncode, "interrupted" in output) == (130, True), output
    assert read_journal(tmp_path / "demo").closed == "interrupted"
    status, output = run(tmp_path, *slow, RAY_ADDRESS=two_nodes.address)
    assert status == 0, output
    assert sorted(epochs_written(tmp_path)) == [(trial, epoch) for trial in (0, 1) for epoch in (1, 2, 3, 4)]
    trials = read_journal(tmp_path / "demo").trials.values()
    assert [trial.status for trial in trials] == ["finished", "finished"]
    assert all(trial.attempts > 1 for trial in trials)
    assert {node.node_id for node in two_nodes.list_all_nodes()} <= nodes_used(tmp_path)
    assert all(node.remaining_processes_alive() for node in two_nodes.list_all_nodes())


def test_a_trial_whose_node_dies_is_finished_on_another(tmp_path: Path, two_nodes: Cluster) -> None:
    slow = ["space.model.breaks=grid(no)", "overrides=[model.pause=0.3]", "scheduler={name: none}"]
    with started(tmp_path, *slow, "resources.concurrent=2", RAY_ADDRESS=two_nodes.address) as process:
        wait_for(process, "t0001 is under way")
        (node,) = two_nodes.worker_nodes
        node.kill_raylet()
        output, _ = process.communicate()
    assert process.returncode == 0, output
    trials = read_journal(tmp_path / "demo").trials.values()
    assert [(trial.status, trial.epoch) for trial in trials] == [("finished", 4), ("finished", 4)]
    assert sorted(trial.attempts for trial in trials) == [1, 2]
    lost = [record for record in iter_records(tmp_path / "demo") if record["kind"] == "lost"]
    assert [record["reason"] for record in lost] == ["its node died or cannot be reached"]
    assert sorted(epochs_written(tmp_path)) == [(trial, epoch) for trial in (0, 1) for epoch in (1, 2, 3, 4)]
