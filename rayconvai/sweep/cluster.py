"""The room that the Ray cluster of a sweep has for its trials."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rayconvai.config.run import ResourcesConfig
from rayconvai.errors import SweepError
from rayconvai.train.cluster import check_room, nodes, ray_cluster, reach, room


@contextmanager
def cluster(resources: ResourcesConfig) -> Iterator[str]:
    """Join the Ray cluster that RAY_ADDRESS names, or start a local one; leave it, or end it, afterwards.

    Yields:
        The address of the cluster's dashboard; empty where there is none, as in a local one.

    Raises:
        ClusterError: it cannot be joined, or has no room for a trial.
    """
    with ray_cluster() as dashboard:
        check_room(resources)
        yield dashboard


def check_nodes(resources: ResourcesConfig, part: tuple[str, bytes], settings: Mapping[str, Any]) -> None:
    """See that a trial can begin on every node of a cluster that somebody else has started.

    Args:
        resources: of a trial.
        part: of the journal: where it is and what it holds.
        settings: the fields of the trials' TrialSettings.

    Raises:
        SweepError: a node that has no rayconvai, does not see the sweep's directory, or cannot compose the recipe.
    """

    # Not a function of this module, which a node that has no rayconvai could not unpickle.
    def look() -> str:
        if importlib.util.find_spec("rayconvai") is None:
            return "no rayconvai; install it there, or name a directory that all nodes share in PYTHONPATH"
        try:
            from rayconvai.sweep.trial import TrialSettings, rehearse

            rehearse(TrialSettings(**settings), *part)
        except Exception as error:  # noqa: BLE001 (whatever it is, the user is to read it)
            return str(error) or type(error).__name__
        return ""

    asked = []
    for node in nodes():
        if room(node["Resources"], resources.of_a_worker()):
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


def concurrency(resources: ResourcesConfig, most: int | None) -> int:
    """Return how many trials run at once: as many as the nodes hold, so that no trial's workers wait for another's.

    Nodes that an autoscaler may add count: trials that wait for them are what makes it add them.

    Args:
        resources: of a trial.
        most: so many at most.
    """
    needs, workers = resources.of_a_worker(), resources.most
    rooms = [room(node, needs) for node in reach(needs)[0]]
    if resources.placement == "STRICT_PACK":
        trials = sum(places // workers for places in rooms)
    elif resources.placement == "STRICT_SPREAD":
        # The largest number of trials, each of which takes one place at most of a node.
        trials = next(n for n in range(sum(rooms) // workers, -1, -1) if sum(min(r, n) for r in rooms) >= n * workers)
    else:
        trials = sum(rooms) // workers
    # None: for elastic trials with fewer workers than the most there is room, else check_room would have said so.
    return max(1, trials if most is None else min(trials, most))
