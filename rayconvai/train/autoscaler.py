"""What the autoscaler of a Ray cluster may add to it: the node types of its config.

Ray tells drivers nothing of it, so that it is read where the autoscaler reads it: of ``ray up`` from the file that the
head was started with, of KubeRay from the RayCluster; platforms that run Ray may report it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rayconvai.errors import ClusterError

HEAD = "node:__internal_head__"
"""The resource that Ray gives to the head of a cluster, and to no other node."""
_MANY = 1000
"""Nodes of a type that has no limit."""
_NAMESPACE = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
"""Where Kubernetes tells a pod its own."""


@dataclass(frozen=True)
class Autoscaler:
    """What may come."""

    types: dict[str, dict[str, float]]
    """Name of a node type -> what each of its nodes has."""
    most: dict[str, int]
    """Name of a node type -> so many nodes at most."""
    total: int
    """So many nodes at most of all types."""

    def nodes(self) -> list[dict[str, float]]:
        """Return the resources of each node that may come; not all of them at once if they are more than ``total``."""
        return [resources for name, resources in self.types.items() for _ in range(self.most[name])]


def find_autoscaler(head: str) -> Autoscaler | None:
    """Ask the cluster that this process has joined what its autoscaler may add; None: it has none.

    Args:
        head: the id of the head's node.

    Raises:
        ClusterError: its config is there, but cannot be read.
    """
    # A function of its own, by value: the head may have no rayconvai.
    task = ray.remote(_reader()).options(
        num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(head, soft=False)
    )
    try:
        config = _reported() or ray.get(task.remote())
    except RayError as error:
        said = str(error).strip().splitlines()[-1]
        raise ClusterError(f"the config of the cluster's autoscaler cannot be read on its head: {said}") from error
    return of_config(config) if config else None


def of_config(config: dict[str, Any]) -> Autoscaler:
    """Read what may come from the config of an autoscaler, as Ray's launcher and KubeRay make it.

    What a config does not say of the resources of a type, as it may not of machines by address, its nodes have not.
    """
    total = min(config["max_workers"], _MANY)
    types: dict[str, dict[str, Any]] = config["available_node_types"]
    unsaid = {name: 0 if name == config["head_node_type"] else total for name in types}
    most = {name: min(about.get("max_workers", unsaid[name]), total) for name, about in types.items()}
    return Autoscaler({name: dict(types[name]["resources"]) for name in types if most[name]}, most, total)


def _reader() -> Any:
    namespace = _NAMESPACE

    def read() -> Any:
        import os
        from pathlib import Path

        import ray
        import requests
        import yaml

        gcs_address = ray.get_runtime_context().gcs_address

        for process in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = process.read_bytes().decode(errors="replace").split("\0")
            except OSError:  # it has ended
                continue
            said = dict(word[2:].split("=", 1) for word in words if word.startswith("--") and "=" in word)
            if said.get("gcs-address") == gcs_address and "autoscaling-config" in said:
                return yaml.safe_load(Path(said["autoscaling-config"]).expanduser().read_text())
        if "RAY_CLUSTER_NAME" in os.environ and Path(namespace).exists():
            from ray.autoscaler._private.kuberay import autoscaling_config, node_provider

            client = node_provider.KubernetesHttpApiClient(Path(namespace).read_text())
            try:
                cluster = client.get(f"rayclusters/{os.environ['RAY_CLUSTER_NAME']}")
            except requests.HTTPError as error:
                denied = error.response is not None and error.response.status_code == 403
                if denied:  # KubeRay lets a head read it that has an autoscaler
                    return None
                raise
            if cluster["spec"].get("enableInTreeAutoscaling"):
                return autoscaling_config._derive_autoscaling_config_from_ray_cr(cluster)
        return None

    return read


def _reported() -> dict[str, Any] | None:
    from ray._private.state import state  # Train asks it too; there is no public way

    said = state.get_cluster_config()
    if said is None or not said.node_group_configs:
        return None
    groups = {
        group.name: {"resources": group.resources, "max_workers": group.max_count if group.max_count >= 0 else _MANY}
        for group in said.node_group_configs
    }
    return {"available_node_types": groups, "head_node_type": None, "max_workers": _MANY}
