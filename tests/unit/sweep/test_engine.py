"""What stands between Tune and us: room for trials, and the judgement of how a trial ended."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from ray.exceptions import ActorDiedError, ActorUnavailableError, ObjectLostError, RayActorError

from rayconvai.config.run import ResourcesConfig
from rayconvai.errors import (
    ClusterError,
    ConfigError,
    DataError,
    InfeasibleError,
    StorageError,
    out_of_memory_is_infeasible,
)
from rayconvai.sweep.cluster import concurrency
from rayconvai.sweep.trial import _Run
from rayconvai.sweep.verdict import judge
from rayconvai.train.address import check_address
from rayconvai.train.line import death

NODES = [
    {"Alive": True, "Resources": {"CPU": 4.0}},
    {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 2.0}},
    {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}},
]


@pytest.mark.parametrize(
    ("resources", "most", "rooms"),
    [
        pytest.param(ResourcesConfig(cpus=1), None, 12, id="cpus"),
        pytest.param(ResourcesConfig(cpus=3), None, 3, id="a_trial_stays_on_a_node"),
        pytest.param(ResourcesConfig(cpus=1, gpus=0.5), None, 4, id="shared_gpus"),
        pytest.param(ResourcesConfig(cpus=1, gpus=0.1), None, 8, id="cpus_are_short"),
        pytest.param(ResourcesConfig(cpus=1), 2, 2, id="limited"),
        pytest.param(ResourcesConfig(workers=5), None, 2, id="workers"),
        pytest.param(ResourcesConfig(workers=3, cpus=3), None, 1, id="workers_of_two_nodes"),
        pytest.param(ResourcesConfig(workers=3, placement="STRICT_PACK"), None, 3, id="workers_on_one_node"),
        pytest.param(ResourcesConfig(workers=2, placement="STRICT_SPREAD"), None, 4, id="workers_on_two_nodes"),
    ],
)
def test_concurrency(monkeypatch: pytest.MonkeyPatch, resources: ResourcesConfig, most: int | None, rooms: int) -> None:
    monkeypatch.setattr("ray.nodes", lambda: NODES)
    assert concurrency(resources, most) == rooms


@pytest.mark.parametrize(
    ("address", "words"),
    [
        pytest.param("127.0.0.1:1", "no Ray cluster answers at RAY_ADDRESS=127.0.0.1:1: Connection refused", id="gone"),
        pytest.param("http://127.0.0.1:8265", "goes as a job: ray job submit", id="dashboard"),
        pytest.param("ray://head:10001", "goes as a job: ray job submit", id="ray_client"),
        pytest.param("head", "is not HOST:PORT of a head", id="no_port"),
    ],
)
def test_an_address_that_cannot_be_joined(monkeypatch: pytest.MonkeyPatch, address: str, words: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ClusterError, match=re.escape(words)):
        check_address()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        pytest.param(ActorDiedError(), "its process died", id="process"),
        pytest.param(ActorUnavailableError("Socket closed", None), "its node died or cannot be reached", id="node"),
        pytest.param(
            RayActorError(error_msg="boom\nValueError: no", actor_init_failed=True),
            "its process could not begin: ValueError: no",
            id="setup",
        ),
        pytest.param(RayActorError(preempted=True), "its node was taken away", id="preempted"),
        pytest.param(ObjectLostError("0", "", ""), "its process could not go on: ObjectLostError", id="other"),
    ],
)
def test_how_a_process_died(error: Exception, reason: str) -> None:
    assert death(error) == reason


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        pytest.param(torch.OutOfMemoryError("CUDA out of memory"), "infeasible", "out of memory", id="gpu_memory"),
        pytest.param(RuntimeError("DefaultCPUAllocator: can't allocate memory"), "infeasible", "memory", id="memory"),
        pytest.param(MemoryError(), "infeasible", "out of memory: no more memory", id="python_memory"),
        pytest.param(OSError(12, "Cannot allocate memory"), "infeasible", "allocate memory", id="system_memory"),
        pytest.param(
            MemoryError(
                "Caught MemoryError in DataLoader worker process 0.\nOriginal Traceback ...\nMemoryError: 3 GiB"
            ),
            "infeasible",
            "out of memory: MemoryError: 3 GiB",
            id="memory_of_a_loader_worker",
        ),
        pytest.param(InfeasibleError("val_loss is nan"), "infeasible", "val_loss is nan", id="nan"),
        pytest.param(ConfigError("no"), "infeasible", "no", id="config"),
        pytest.param(DataError("a.json:3: bad"), "failed", "a.json:3: bad", id="data"),
        pytest.param(StorageError("x.ckpt: no space"), "interrupted", "x.ckpt: no space", id="full_disk"),
        pytest.param(KeyError("x"), "failed", "KeyError", id="bug"),
        pytest.param(
            RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"),
            "lost",
            "exited",
            id="killed_loader_worker",
        ),
    ],
)
def test_judge(error: Exception, status: str, words: str) -> None:
    with pytest.raises(InfeasibleError if "memory" in words else type(error)) as caught:
        raise_in_a_run(error)
    assert judge(caught.value)[0] == status
    assert words in judge(caught.value)[1]


@out_of_memory_is_infeasible()
def raise_in_a_run(error: Exception) -> None:
    raise error


def test_a_run_stands_still_between_reports_and_ends_when_told() -> None:
    seen: list[int] = []

    def work(run: _Run) -> dict[str, Any]:
        for epoch in (1, 2, 3):
            seen.append(epoch)
            if not run.hand_over({"epoch": epoch}):
                return {"end": "told"}
        return {"end": "finished"}

    run = _Run(work)
    assert run.next_report() == {"epoch": 1}
    assert run.next_report() == {"epoch": 2}
    assert seen == [1, 2]
    run.end()
    assert seen == [1, 2]
    unasked = _Run(work)
    unasked.end()
    assert seen == [1, 2]  # nobody has asked for a report: nothing has begun
    whole = _Run(work)
    assert [whole.next_report() for _ in range(4)][-1] == {"end": "finished"}
    whole.end()
