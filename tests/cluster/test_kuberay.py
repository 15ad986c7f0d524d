"""``cluster/kuberay-*.yaml`` by the schemas of KubeRay and Kubernetes, and as Ray's autoscaler reads the cluster."""

from __future__ import annotations

import copy
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import requests
import yaml
from ray.autoscaler._private.kuberay import node_provider

from rayconvai.sweep.spec import load_spec
from rayconvai.train import autoscaler

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
SCHEMA = yaml.safe_load((Path(__file__).parent / "kuberay.yaml").read_text())
KUBERNETES = "1.33"


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((CLUSTER / name).read_text())
    return found


def pods(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    return [cluster["headGroupSpec"]["template"], *(group["template"] for group in cluster["workerGroupSpecs"])]


@pytest.mark.parametrize("name", ["kuberay-cluster.yaml", "kuberay-job.yaml"])
def test_the_schemas(name: str) -> None:
    resource = read(name)
    jsonschema.validate(resource, SCHEMA)
    cluster = resource["spec"].get("rayClusterSpec", resource["spec"])
    for template in pods(cluster):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": template["spec"]}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
        assert template["spec"]["securityContext"]["runAsNonRoot"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        pytest.param("workerGroupSpecs.0.maxReplicas", "8", id="a_number_as_text"),
        pytest.param("headGroupSpec.rayStartParams", {"num-cpus": 0}, id="a_parameter_as_number"),
        pytest.param("autoscalerOptions.upscalingMode", "Fast", id="no_such_mode"),
        pytest.param("enableAutoscaling", True, id="no_such_field"),
    ],
)
def test_what_the_schema_refuses(path: str, value: Any) -> None:
    resource = copy.deepcopy(read("kuberay-cluster.yaml"))
    place = resource["spec"]
    *way, last = path.split(".")
    for step in way:
        place = place[int(step) if step.isdigit() else step]
    place[last] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(resource, SCHEMA)


def test_the_job_brings_the_same_cluster_and_a_sweep_that_can_be_read() -> None:
    job = read("kuberay-job.yaml")["spec"]
    assert job["rayClusterSpec"] == read("kuberay-cluster.yaml")["spec"]
    python, dash_m, module, file, *overrides = shlex.split(job["entrypoint"])
    assert (python, dash_m, module) == ("python", "-m", "rayconvai.sweep")
    assert file.startswith("/home/ray/")
    spec = load_spec(str(ROOT / file.removeprefix("/home/ray/")), overrides).spec
    assert (spec.storage, spec.max_retries) == ("s3://BUCKET/runs", 20)


@pytest.fixture
def head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is as one on the head of a cluster."""
    (tmp_path / "namespace").write_text("speech")
    monkeypatch.setattr(autoscaler, "_NAMESPACE", str(tmp_path / "namespace"))
    monkeypatch.setattr("ray.get_runtime_context", lambda: SimpleNamespace(gcs_address="10.0.0.1:6379"))
    monkeypatch.setenv("RAY_CLUSTER_NAME", "rayconvai-x7k2p")


@pytest.mark.usefixtures("head")
def test_what_may_come_is_read_where_the_head_is(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = read("kuberay-cluster.yaml")
    cluster["metadata"]["namespace"] = "speech"
    asked = []

    def get(client: node_provider.KubernetesHttpApiClient, path: str) -> dict[str, Any]:
        asked.append((client._namespace, path))
        return cluster

    monkeypatch.setattr(node_provider.KubernetesHttpApiClient, "get", get)
    found = autoscaler.of_config(autoscaler._reader()())
    assert asked == [("speech", "rayclusters/rayconvai-x7k2p")]
    assert found.most == {"headgroup": 0, "gpu-spot": 8}
    assert len(found.nodes()) == 8
    assert {"CPU": 7, "GPU": 1}.items() <= found.types["gpu-spot"].items()


@pytest.mark.usefixtures("head")
def test_a_head_that_may_not_ask_has_no_autoscaler(monkeypatch: pytest.MonkeyPatch) -> None:
    def get(client: node_provider.KubernetesHttpApiClient, path: str) -> dict[str, Any]:
        raise requests.HTTPError(response=SimpleNamespace(status_code=403))

    monkeypatch.setattr(node_provider.KubernetesHttpApiClient, "get", get)
    assert autoscaler._reader()() is None
