"""The Ray cluster of a sweep: the one that RAY_ADDRESS names, else a local one of its own."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from rayconvai.errors import SweepError
from rayconvai.sweep.spec import ResourcesSpec

# Tune is used for its engine alone: no output, loggers, snapshots or directories of its own.
_ENVIRONMENT = {
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "60",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}
_LOCAL_OBJECT_STORE = 128 * 2**20  # bytes; only settings and metrics pass through it


def is_local() -> bool:
    """Tell whether a sweep started here would start a Ray of its own."""
    return (os.environ.get("RAY_ADDRESS") or "local") == "local"


@contextmanager
def cluster(resources: ResourcesSpec) -> Iterator[None]:
    """Join the Ray cluster that RAY_ADDRESS names, or start a local one; leave it, or end it, afterwards.

    Raises:
        SweepError: the cluster cannot be joined, or no node of it can hold a trial.
    """
    local = is_local()
    environment = dict(_ENVIRONMENT)
    if local:
        # With authentication on, Ray would leave a token in the home directory that switches it on for good.
        environment["RAY_AUTH_MODE"] = "disabled"
    before = {name: os.environ.get(name) for name in environment}
    ours = not ray.is_initialized()
    try:
        for name, value in environment.items():
            os.environ.setdefault(name, value)
        logging.getLogger("ray.tune").setLevel(logging.ERROR)
        if ours:
            _join(local)
        _check_room(resources)
        yield
    finally:
        if ours:
            ray.shutdown()
        for name, old in before.items():
            if old is None:
                os.environ.pop(name, None)


def _join(local: bool) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if local:
        ray.init(address="local", include_dashboard=False, object_store_memory=_LOCAL_OBJECT_STORE, **quiet)
        return
    try:
        ray.init(runtime_env={"env_vars": dict(_ENVIRONMENT)}, **quiet)
    except (ConnectionError, RuntimeError) as error:
        address = os.environ["RAY_ADDRESS"]
        raise SweepError(f"cannot join the Ray cluster at RAY_ADDRESS={address}: {error}".splitlines()[0]) from error


def _rooms(resources: ResourcesSpec) -> int:
    """Count the trials that the cluster's nodes can hold at once."""
    needs = {"CPU": resources.cpus, "GPU": resources.gpus}
    return sum(
        min(math.floor(node.get(kind, 0) / need + 1e-9) for kind, need in needs.items() if need) for node in _nodes()
    )


def _nodes() -> list[dict[str, float]]:
    """Return the resources of each node that is there."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in nodes if node["Alive"]]


def _check_room(resources: ResourcesSpec) -> None:
    if not _rooms(resources):
        largest = {kind: max((node.get(kind, 0) for node in _nodes()), default=0) for kind in ("CPU", "GPU")}
        raise SweepError(
            f"a trial asks for {resources.cpus:g} CPUs and {resources.gpus:g} GPUs, which no node of the cluster has "
            f"(at most {largest['CPU']:g} and {largest['GPU']:g}); lower resources.cpus or resources.gpus"
        )


def concurrency(resources: ResourcesSpec) -> int:
    """Return how many trials run at once."""
    rooms = _rooms(resources)
    return rooms if resources.concurrent is None else min(rooms, resources.concurrent)
