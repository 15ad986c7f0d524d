"""Runs with several workers on a real Ray: what they leave, and that deaths and signals leave the same."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from workers_cli import Run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SLOW = ("model.pause=0.1", "exp_manager.checkpoint_callback_params.every_n_train_steps=3", "trainer.max_epochs=6")


@pytest.fixture(scope="module")
def unkilled(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run that nothing happened to."""
    run = Run(tmp_path_factory.mktemp("unkilled"), "run", *SLOW, "model.pause=0")
    status, said = run.to_its_end()
    assert status == 0, said
    return run


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[str]:
    """The address of a cluster of two nodes with a CPU each, on this machine."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_worker_niceness", "0")  # else everything else on the machine comes first
        node = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
        cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
        try:
            cluster.add_node(**node)
            yield cluster.address
        finally:
            cluster.shutdown()


def test_two_nodes_leave_what_one_does(two_nodes: str, unkilled: Run, tmp_path: Path) -> None:
    spread = Run(
        tmp_path, "run", *SLOW, "model.pause=0", "resources.placement=STRICT_SPREAD",
        RAY_ADDRESS=two_nodes, RAY_AUTH_MODE="disabled",
    )  # fmt: skip
    status, said = spread.to_its_end()
    assert status == 0, said
    assert spread.metrics() == unkilled.metrics()
    kinds = [line["kind"] for line in spread.metrics()]
    assert (kinds.count("step"), kinds.count("epoch")) == (24, 6)
    left = {path.name for path in spread.directory.iterdir()}
    assert left == {path.name for path in unkilled.directory.iterdir()}
    assert {"artefact", "checkpoints", "config.yaml", "metrics.jsonl", "provenance.json"} <= left


@pytest.mark.parametrize(("title", "words"), [
    pytest.param("ray::RayTrainWorker", "worker", id="worker"),
    pytest.param("ray::TrainController", "Ray Train", id="controller"),
])  # fmt: skip
def test_goes_on_when_a_process_is_killed(unkilled: Run, tmp_path: Path, title: str, words: str) -> None:
    run = Run(tmp_path, "run", *SLOW)
    with run.started() as process:
        run.wait_for(process, lambda: run.steps() > 8)
        os.kill(run.processes(title)[-1], signal.SIGKILL)
        assert process.wait() == 0, run.said()
    assert "2 of 3 restarts are left" in run.said()
    assert "going on from step" in run.said()
    assert run.metrics() == unkilled.metrics(), run.said()


def test_a_run_that_was_told_to_stop_goes_on_by_the_same_command(unkilled: Run, tmp_path: Path) -> None:
    run = Run(tmp_path, "run", *SLOW)
    with run.started() as process:
        run.wait_for(process, lambda: run.steps() > 4)
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 128 + signal.SIGTERM, run.said()
    assert "interrupted; to go on: python -m rayconvai.train" in run.said()
    assert not run.processes("ray::")
    assert run.steps() < 24
    status, said = run.to_its_end()
    assert status == 0, said
    assert "going on from step" in said
    assert run.metrics() == unkilled.metrics()
