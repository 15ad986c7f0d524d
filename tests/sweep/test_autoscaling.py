"""A sweep on a cluster that grows as it is asked to: Ray's autoscaler, whose nodes are processes of this machine."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
from harness import kill, plain_environment, processes_of
from ray._common.network_utils import find_free_port
from sweep_cli import HERE, run

from rayconvai.sweep.journal import read_journal

PATIENCE = 240.0
"""Seconds."""


def config(address: str) -> dict[str, Any]:
    """What ``ray up`` would leave on a head without CPUs, to which two nodes of one CPU may come."""
    small = {"object_store_memory": 80 * 2**20}
    return {
        "cluster_name": "grows",
        "max_workers": 2,
        "upscaling_speed": 10.0,
        "idle_timeout_minutes": 5,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": address,
            "launch_multiple": True,
            "use_node_id_as_ip": True,  # all are this machine
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "auth": {},
        "docker": {},
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "spot": {"resources": {"CPU": 1, **small}, "node_config": {}, "min_workers": 0, "max_workers": 2},
        },
        "file_mounts": {},
        "cluster_synced_files": [],
        "initialization_commands": [],
        **{f"{kind}setup_commands": [] for kind in ("", "head_", "worker_")},
        **{f"{kind}_start_ray_commands": [] for kind in ("head", "worker")},
    }


@dataclass
class Cluster:
    address: str
    session: int

    def nodes(self) -> int:
        return len(processes_of(self.session, r"/raylet/raylet "))


@pytest.fixture(scope="module")
def growing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    root, temporary = tmp_path_factory.mktemp("growing"), tempfile.mkdtemp(prefix="ray")
    address = f"{ray.util.get_node_ip_address()}:{find_free_port()}"
    (root / "config.json").write_text(json.dumps(config(address)))
    environment = plain_environment(root, HERE) | {
        "RAY_AUTH_MODE": "disabled",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        "RAY_agent_register_timeout_ms": "240000",  # of a busy machine
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    }
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--include-dashboard=false"),
        *(f"--port={address.partition(':')[2]}", "--num-cpus=0"),
        *(f"--object-store-memory={80 * 2**20}", f"--temp-dir={temporary}"),
        *("--min-worker-port=0", "--max-worker-port=0", f"--autoscaling-config={root / 'config.json'}"),
    ]
    with (root / "output.txt").open("wb") as output:
        head = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    try:
        until = time.monotonic() + PATIENCE
        while "Ray runtime started" not in (root / "output.txt").read_text():
            assert head.poll() is None, (root / "output.txt").read_text()
            assert time.monotonic() < until, (root / "output.txt").read_text()
            time.sleep(0.1)
        yield Cluster(address, head.pid)
    finally:
        head.send_signal(signal.SIGTERM)
        head.wait()
        while kill(processes_of(head.pid)):
            time.sleep(0.1)
        shutil.rmtree(temporary, ignore_errors=True)


def test_a_sweep_makes_the_cluster_grow(tmp_path: Path, growing: Cluster) -> None:
    assert growing.nodes() == 1
    two = ["space.model.breaks=grid(no)", "scheduler={name: none}", "resources.concurrent=null"]
    status, output = run(tmp_path, *two, RAY_ADDRESS=growing.address, RAY_AUTH_MODE="disabled")
    assert status == 0, output
    trials = read_journal(tmp_path / "demo").trials.values()
    assert [(trial.status, trial.attempts) for trial in trials] == [("finished", 1), ("finished", 1)]
    # One may have done the work of both before the other was there, but each trial had asked for one.
    until = time.monotonic() + PATIENCE
    while growing.nodes() < 3 and time.monotonic() < until:
        time.sleep(0.1)
    assert growing.nodes() == 3


def test_what_no_node_will_ever_have_is_refused_at_once(tmp_path: Path, growing: Cluster) -> None:
    status, output = run(tmp_path, "resources.gpus=1", RAY_ADDRESS=growing.address, RAY_AUTH_MODE="disabled")
    assert status == 2, output
    refused = (
        "resources.gpus is 1, but no node of the cluster, or of a type that its autoscaler may add (spot), has any"
    )
    assert refused in output
    assert not (tmp_path / "demo" / "trials").exists()
