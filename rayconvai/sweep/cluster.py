"""The Ray cluster of a sweep: the one that RAY_ADDRESS names, else a local one of its own."""

from __future__ import annotations

import importlib.util
import logging
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import AuthenticationError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rayconvai.errors import SweepError
from rayconvai.sweep.address import address, in_ray_job, is_local
from rayconvai.sweep.spec import ResourcesSpec

# Tune is used for its engine alone: no output, loggers, snapshots or directories of its own.
_ENVIRONMENT = {
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_OVERRIDE_JOB_RUNTIME_ENV": "1",  # a job may name the same variables as _trial_environment
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "60",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}
_LOCAL_OBJECT_STORE = 128 * 2**20  # bytes; only settings and metrics pass through it


@contextmanager
def cluster(resources: ResourcesSpec) -> Iterator[str]:
    """Join the Ray cluster that RAY_ADDRESS names, or start a local one; leave it, or end it, afterwards.

    Yields:
        The address of the cluster's dashboard; empty where there is none, as in a local one.

    Raises:
        SweepError: the cluster cannot be joined, or no node of it can hold a trial.
    """
    environment = dict(_ENVIRONMENT)
    if is_local():
        # With authentication on, Ray would leave a token in the home directory that switches it on for good.
        environment["RAY_AUTH_MODE"] = "disabled"
        # Ray would give its workers, that is the trials, what other processes leave.
        environment["RAY_worker_niceness"] = "0"
        # A local Ray that has died does not come back: nobody is to wait a minute for it.
        environment["RAY_gcs_rpc_server_reconnect_timeout_s"] = "10"
    before = {name: os.environ.get(name) for name in environment}
    ours = not ray.is_initialized()
    try:
        for name, value in environment.items():
            os.environ.setdefault(name, value)
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
        dashboard = _join() if ours else ""
        _check_room(resources)
        yield dashboard
    finally:
        if ours:
            ray.shutdown()
        for name, old in before.items():
            if old is None:
                os.environ.pop(name, None)


def _join() -> str:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if is_local():
        try:
            ray.init(address="local", include_dashboard=False, object_store_memory=_LOCAL_OBJECT_STORE, **quiet)
        except Exception as error:  # of no one kind
            reason = " ".join(str(error).split()).partition(". ")[0]
            raise SweepError(f"Ray does not start on this machine: {reason}; the same command tries again") from error
        return ""
    try:
        return ray.init(runtime_env={"env_vars": _trial_environment()}, **quiet).dashboard_url or ""
    except (ConnectionError, AuthenticationError, RuntimeError) as error:
        reason = " ".join(str(error).split()).partition(". ")[0]
        if not isinstance(error, RuntimeError):  # else another version of Ray or Python
            reason += "; where it asks for a token: RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
        raise SweepError(f"cannot join the Ray cluster at RAY_ADDRESS={address()}: {reason}") from error


def _trial_environment() -> dict[str, str]:
    """Return what of this process's environment its trials need on the nodes of a cluster."""
    ours = {name: value for name, value in os.environ.items() if name.startswith("RAYCONVAI_")}
    if "PYTHONPATH" in os.environ and not in_ray_job():  # a job brings its own
        places = [os.path.abspath(place) for place in os.environ["PYTHONPATH"].split(os.pathsep) if place]
        ours["PYTHONPATH"] = os.pathsep.join(places)
    return {**_ENVIRONMENT, **ours}


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
    for node in _nodes():
        if _room(node["Resources"], resources):
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
    return sum(_room(node["Resources"], resources) for node in _nodes())


def _room(node: Mapping[str, float], resources: ResourcesSpec) -> int:
    needs = {"CPU": resources.cpus, "GPU": resources.gpus}
    return min(math.floor(node.get(kind, 0) / need + 1e-9) for kind, need in needs.items() if need)


def _nodes() -> list[dict[str, Any]]:
    """Return the nodes that are there."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node for node in nodes if node["Alive"]]


def _check_room(resources: ResourcesSpec) -> None:
    if not _rooms(resources):
        largest = {
            kind: max((node["Resources"].get(kind, 0) for node in _nodes()), default=0) for kind in ("CPU", "GPU")
        }
        raise SweepError(
            f"a trial asks for {resources.cpus:g} CPUs and {resources.gpus:g} GPUs, which no node of the cluster has "
            f"(at most {largest['CPU']:g} and {largest['GPU']:g}); lower resources.cpus or resources.gpus"
        )


def concurrency(resources: ResourcesSpec) -> int:
    """Return how many trials run at once."""
    rooms = _rooms(resources)
    return rooms if resources.concurrent is None else min(rooms, resources.concurrent)
