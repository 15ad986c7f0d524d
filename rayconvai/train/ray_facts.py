"""What a run's provenance keeps of Ray: the cluster, and where in it the run's workers were."""

from __future__ import annotations

from typing import Any

import ray
import torch.distributed as dist


def ray_facts() -> dict[str, Any]:
    """Return what is known of Ray in this process; nothing where Ray is not at work.

    Where workers train together, all must call this: each says where it is. Only the first one's answer is whole.
    """
    if not ray.is_initialized():
        return {}
    context = ray.get_runtime_context()
    address = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    here = {"node": context.get_node_id(), "address": address}
    workers = [here]
    if dist.is_available() and dist.is_initialized():
        workers = [{}] * dist.get_world_size()
        dist.all_gather_object(workers, here)
    return {
        "version": ray.__version__,
        "address": context.gcs_address,
        "job": context.get_job_id(),
        "nodes": [
            {"node": node["NodeID"], "address": node["NodeManagerAddress"], "resources": node["Resources"]}
            for node in ray.nodes()  # type: ignore[no-untyped-call]
            if node["Alive"]
        ],
        "workers": workers,
    }
