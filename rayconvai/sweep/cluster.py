"""The room that the Ray cluster of a sweep has for its trials."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rayconvai.errors import SweepError
from rayconvai.sweep.spec import ResourcesSpec
from rayconvai.train.cluster import nodes, ray_cluster, room


@contextmanager
def cluster(resources: ResourcesSpec) -> Iterator[str]:
    """Join the Ray cluster that RAY_ADDRESS names, or start a local one; leave it, or end it, afterwards.

    Yields:
        The address of the cluster's dashboard; empty where there is none, as in a local one.

    Raises:
        ClusterError: the cluster cannot be joined.
        SweepError: no node of it can hold a trial.
    """
    with ray_cluster() as dashboard:
        _check_room(resources)
        yield dashboard


def check_nodes(resources: ResourcesSpec, journal: Path, settings: Mapping[str, Any]) -> None:
    """See that a trial can begin on every node of a cluster that somebody else has started.

    Args:
        resources: of a trial.
        journal: the segment that this driver writes.
        settings: the fields of the trials' TrialSettings.

    Raises:
        SweepError: a node that has no rayconvai, does not see the sweep's directory, or cannot compose the recipe.
    """
    written = journal.read_bytes()

    # Not a function of this module, which a node that has no rayconvai could not unpickle.
    def look() -> str:
        if importlib.util.find_spec("rayconvai") is None:
            return "no rayconvai; install it there, or name a directory that all nodes share in PYTHONPATH"
        try:
            from rayconvai.sweep.trial import TrialSettings, rehearse

            rehearse(TrialSettings(**settings), journal, written)
        except Exception as error:  # noqa: BLE001 (whatever it is, the user is to read it)
            return str(error) or type(error).__name__
        return ""

    asked = []
    for node in nodes():
        if room(node["Resources"], _needs(resources)):
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            task = ray.remote(look).options(num_cpus=0, scheduling_strategy=there, max_retries=0)
            asked.append((node["NodeManagerAddress"], task.remote()))
    for node_address, answer in asked:
        try:
            problem = ray.get(answer)
        except RayError as error:
            problem = str(error)
        if problem:
            raise SweepError(f"node {node_address} cannot run trials: {problem.strip().splitlines()[-1]}")


def _rooms(resources: ResourcesSpec) -> int:
    """Count the trials that the cluster's nodes can hold at once."""
    return sum(room(node["Resources"], _needs(resources)) for node in nodes())


def _needs(resources: ResourcesSpec) -> dict[str, float]:
    return {"CPU": resources.cpus, "GPU": resources.gpus}


def _check_room(resources: ResourcesSpec) -> None:
    if not _rooms(resources):
        largest = {
            kind: max((node["Resources"].get(kind, 0) for node in nodes()), default=0) for kind in ("CPU", "GPU")
        }
        raise SweepError(
            f"a trial asks for {resources.cpus:g} CPUs and {resources.gpus:g} GPUs, which no node of the cluster has "
            f"(at most {largest['CPU']:g} and {largest['GPU']:g}); lower resources.cpus or resources.gpus"
        )


def concurrency(resources: ResourcesSpec) -> int:
    """Return how many trials run at once."""
    rooms = _rooms(resources)
    return rooms if resources.concurrent is None else min(rooms, resources.concurrent)
