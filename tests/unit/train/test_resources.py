"""Workers that cannot be: said in one line, before any is started."""

from __future__ import annotations

import re
from typing import Any

import pytest
from omegaconf import OmegaConf

from rayconvai.config.compose import compose
from rayconvai.config.run import ResourcesConfig
from rayconvai.errors import ClusterError, ConfigError
from rayconvai.sweep.cluster import concurrency
from rayconvai.train.autoscaler import of_config
from rayconvai.train.cluster import check_room
from rayconvai.train.fit import make_trainer
from rayconvai.train.runtime import Runtime

TWO = "resources.workers=2"
CPUS = [{"CPU": 2.0}, {"CPU": 2.0}]
GPUS = [{"CPU": 8.0}, *[{"CPU": 16.0, "GPU": 4.0, "accelerator_type:A100": 1.0}] * 2]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        pytest.param(["resources.workers=two"], "workers is two; it must be a number, or {min: 2, max: 8}", id="text"),
        pytest.param(["resources.workers={min: 2}"], "it must be a number, or {min: 2, max: 8}", id="no_max"),
        pytest.param(["resources.workers={min: 3, max: 2}"], "1 or more, max no less than min", id="max_below_min"),
        pytest.param([TWO, "resources.cpus=0"], "cpus is 0, and a worker has nothing else either", id="nothing"),
        pytest.param(["resources.workers=0"], "workers is 0; it must be 1 or more", id="none"),
        pytest.param([TWO, "resources.gpus=0.5"], "2 workers need a whole number of GPUs each", id="shared_gpu"),
        pytest.param([TWO, "trainer.devices=2"], "resources.workers=2 says how many train; leave it out", id="devices"),
        pytest.param([TWO, "trainer.num_nodes=2"], "trainer.num_nodes is 2, but resources.workers=2", id="nodes"),
        pytest.param([TWO, "trainer=gpu"], "trainer.accelerator is gpu, but resources.workers=2 have no", id="no_gpus"),
        pytest.param([TWO, "resources.gpus=1", "trainer=cpu"], "is cpu, but resources.gpus is 1", id="cpu_and_gpus"),
        pytest.param([TWO, "trainer.precision=16-mixed"], "which CPUs lack; take bf16-mixed", id="precision"),
        pytest.param(["resources.placement=spread"], "it must be one of PACK, SPREAD, STRICT_PACK", id="placement"),
        pytest.param(["resources.accelerator_type=A100"], "but gpus is 0; set resources.gpus=1", id="type_of_no_gpu"),
        pytest.param(["+resources.custom.GPU=1"], "say it in resources.gpus", id="custom_gpu"),
        pytest.param(["resources.retries=-1"], "retries is -1; it must be 0 or more", id="retries"),
        pytest.param(["resources.global_batch=grow"], "it must be one of keep, scale", id="global_batch"),
    ],
)
def test_a_config_that_cannot_be(overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)) as error:
        compose("asr/conformer_ctc", overrides)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("nodes", "asked", "words"),
    [
        pytest.param(CPUS, {"workers": 4}, "", id="fits"),
        pytest.param(CPUS, {"workers": {"min": 2, "max": 9}}, "", id="the_fewest_fit"),
        pytest.param(GPUS, {"workers": 8, "gpus": 1, "accelerator_type": "A100"}, "", id="gpus_fit"),
        pytest.param(CPUS, {"workers": 5}, "4 do (it has 2 nodes with 4 CPUs and 0 GPUs)", id="too_many"),
        pytest.param(
            CPUS, {"workers": {"min": 5, "max": 6}}, "5 workers at least (1 CPU each)", id="too_many_at_least"
        ),
        pytest.param(CPUS, {"gpus": 1}, "resources.gpus is 1, but no node of the cluster has any", id="gpu"),
        pytest.param(CPUS, {"cpus": 3}, "resources.cpus is 3, but no node of the cluster has more than 2", id="cpus"),
        pytest.param(CPUS, {"custom": {"disk": 1.0}}, "resources.custom.disk is 1, but no node", id="custom"),
        pytest.param(
            GPUS,
            {"gpus": 1, "accelerator_type": "A10"},
            "accelerator_type is A10, but the cluster has nodes with A100; nearest: A100",
            id="accelerator",
        ),
        pytest.param(CPUS, {"workers": 3, "placement": "STRICT_SPREAD"}, "on a node each of the cluster", id="spread"),
        pytest.param(CPUS, {"workers": 3, "placement": "STRICT_PACK"}, "on one node of the cluster, 2 do", id="pack"),
    ],
)
def test_room(monkeypatch: pytest.MonkeyPatch, nodes: list[Any], asked: dict[str, Any], words: str) -> None:
    monkeypatch.setattr("ray.nodes", lambda: [{"Alive": True, "Resources": node} for node in nodes])
    resources = ResourcesConfig(**{"workers": 2, **asked})
    if not words:
        check_room(resources)
        return
    with pytest.raises(ClusterError, match=re.escape(words)) as error:
        check_room(resources)
    assert "\n" not in str(error.value)


HEAD = {"CPU": 0.0, "node:__internal_head__": 1.0}
LAUNCHED = {
    "head_node_type": "head",
    "max_workers": 5,
    "available_node_types": {
        "head": {"resources": {"CPU": 0}, "max_workers": 0},
        "cpu": {"resources": {"CPU": 8}, "max_workers": 4},
        "gpu": {"resources": {"CPU": 8, "GPU": 2, "accelerator_type:A10G": 1}, "max_workers": 3},
        "spare": {"resources": {"CPU": 64}},
    },
}
"""The config of an autoscaler, as its head has it."""


@pytest.mark.parametrize(
    ("asked", "trials", "words"),
    [
        pytest.param({"gpus": 1}, 6, "", id="all_of_one_type"),
        pytest.param({"gpus": 1, "accelerator_type": "A10G"}, 6, "", id="accelerator"),
        pytest.param({"cpus": 32}, 10, "", id="no_more_nodes_than_all_types_may_have"),
        pytest.param({"workers": 4, "gpus": 1}, 1, "", id="workers"),
        pytest.param(
            {"gpus": 4}, 0, "resources.gpus is 4, but no node of the cluster, or of a type that its", id="gpus"
        ),
        pytest.param({"custom": {"disk": 1.0}}, 0, "autoscaler may add (cpu, gpu, spare), has any", id="custom"),
        pytest.param({"gpus": 1, "accelerator_type": "H100"}, 0, "the cluster has nodes with A10G", id="no_such_type"),
        pytest.param(
            {"workers": 7, "gpus": 1},
            0,
            "6 do (it has 6 nodes with 40 CPUs and 6 GPUs, with all that its",
            id="workers_many",
        ),
    ],
)
def test_room_that_an_autoscaler_makes(
    monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], trials: int, words: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    monkeypatch.setattr("rayconvai.train.cluster.find_autoscaler", lambda head: of_config(LAUNCHED))
    monkeypatch.setattr("ray.nodes", lambda: [{"Alive": True, "NodeID": "0", "Resources": HEAD}])
    resources = ResourcesConfig(**asked)
    if not words:
        check_room(resources)
        assert concurrency(resources, None) == trials
        return
    with pytest.raises(ClusterError, match=re.escape(words)) as error:
        check_room(resources)
    assert "\n" not in str(error.value)


def test_a_precision_that_the_device_lacks() -> None:
    config = OmegaConf.create({"trainer": {"accelerator": "cpu", "precision": "16-mixed"}})
    with pytest.raises(ConfigError, match="16-mixed, which CPUs lack"):
        make_trainer(config, Runtime(progress=False))
