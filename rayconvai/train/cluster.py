"""The Ray cluster of a command: the one that RAY_ADDRESS names, else a local one of its own."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import grpc
import ray
from ray._private.grpc_utils import init_grpc_channel
from ray._private.services import canonicalize_bootstrap_address_or_die
from ray.core.generated.gcs_service_pb2 import CheckAliveRequest  # type: ignore[attr-defined]
from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub
from ray.exceptions import AuthenticationError, RayError
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

from rayconvai.config.run import ResourcesConfig
from rayconvai.errors import ClusterError, nearest
from rayconvai.places import in_ray_job
from rayconvai.train.address import address, is_local
from rayconvai.train.autoscaler import HEAD, Autoscaler, find_autoscaler

# Tune and Train are used for their engines alone: no output, loggers, snapshots or directories of their own.
_ENVIRONMENT = {
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_OVERRIDE_JOB_RUNTIME_ENV": "1",  # a job may name the same variables as _worker_environment
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # so long goes by before a death is seen, and at the end of a run
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "60",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}
_OWN = "RAYCONVAI_OWN_RAY"
"""Says so to all processes of a local cluster, where RAY_ADDRESS says nothing."""
_LOCAL_ENVIRONMENT = {
    _OWN: "1",
    # With authentication on, Ray would leave a token in the home directory that switches it on for good.
    "RAY_AUTH_MODE": "disabled",
    # Ray would give its workers what other processes leave.
    "RAY_worker_niceness": "0",
    # A local Ray that has died does not come back: nobody is to wait a minute for it.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "10",
    # Nobody takes this machine away with a notice; it would be a process more.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}
_ANSWER_SECONDS = 15.0
_LOCAL_OBJECT_STORE = 128 * 2**20  # bytes; only settings and metrics pass through it


@contextmanager
def ray_cluster() -> Iterator[str]:
    """Join the Ray cluster that RAY_ADDRESS names, or start a local one; leave it, or end it, afterwards.

    Yields:
        The address of the cluster's dashboard; empty where there is none, as in a local one.

    Raises:
        ClusterError: the cluster cannot be joined, or does not start.
    """
    environment = _ENVIRONMENT | (_LOCAL_ENVIRONMENT if is_local() else {})
    before = {name: os.environ.get(name) for name in environment}
    ours = not ray.is_initialized()
    try:
        for name, value in environment.items():
            os.environ.setdefault(name, value)
        for name in ("ray.tune", "ray.train"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        yield _join() if ours else ""
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
            raise ClusterError(f"Ray does not start on this machine: {reason}; the same command tries again") from error
        return ""
    _knock()
    try:
        return ray.init(runtime_env={"env_vars": _worker_environment()}, **quiet).dashboard_url or ""
    except (ConnectionError, AuthenticationError, RuntimeError) as error:  # such as another version of Ray or Python
        reason = " ".join(str(error).split()).partition(". ")[0]
        raise ClusterError(f"cannot join the Ray cluster at RAY_ADDRESS={address()}: {reason}") from error


def _knock() -> None:
    """Find out whether the head answers, and takes our token; ``ray.init`` would try for minutes, and not say why.

    Raises:
        ClusterError: it does not.
    """
    there = f"the Ray cluster at RAY_ADDRESS={address()}"
    fix = "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's"
    try:
        channel = init_grpc_channel(canonicalize_bootstrap_address_or_die(address()))
        # There is no public way to ask that knows an end.
        stub: Any = NodeInfoGcsServiceStub(channel)  # type: ignore[no-untyped-call]
        stub.CheckAlive(CheckAliveRequest(), timeout=_ANSWER_SECONDS)
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.UNAUTHENTICATED:
            said = " ".join(str(error.details()).split())
            raise ClusterError(f"{there} does not answer as a head does: {said[:200]}") from error
        with_token = os.environ.get("RAY_AUTH_MODE", "").lower() == "token"
        raise ClusterError(f"{there} {'refuses the token' if with_token else 'asks for a token'}; {fix}") from error
    except ConnectionError as error:  # none, or several, for `auto`
        raise ClusterError(f"RAY_ADDRESS={address()}: {str(error).partition('. ')[0]}; name HEAD:PORT") from error
    except (AuthenticationError, RuntimeError) as error:
        raise ClusterError(f"{there} cannot be asked: {str(error).partition('. ')[0]}; {fix}") from error


def _worker_environment() -> dict[str, str]:
    """Return what of this process's environment its workers need on the nodes of a cluster."""
    ours = {name: value for name, value in os.environ.items() if name.startswith("RAYCONVAI_")}
    if "PYTHONPATH" in os.environ and not in_ray_job():  # a job brings its own
        places = [os.path.abspath(place) for place in os.environ["PYTHONPATH"].split(os.pathsep) if place]
        ours["PYTHONPATH"] = os.pathsep.join(places)
    return {**_ENVIRONMENT, **ours}


def nodes() -> list[dict[str, Any]]:
    """Return the nodes that are there."""
    found: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node for node in found if node["Alive"]]


def reach(needs: Mapping[str, float]) -> tuple[list[dict[str, float]], Autoscaler | None]:
    """Return the resources of each node that is there or, where an autoscaler adds nodes, that there may be at once.

    Args:
        needs: of a process. Where the autoscaler may not add all that it knows, it adds those that hold the most.

    Raises:
        ClusterError: there is an autoscaler, and what it may add cannot be read.
    """
    alive = nodes()
    there = [node["Resources"] for node in alive]
    heads = [node for node in alive if HEAD in node["Resources"]]
    # Asking takes a process on the head.
    autoscaler = None if _OWN in os.environ or not heads else find_autoscaler(heads[0]["NodeID"])
    if autoscaler is None:
        return there, None
    to_come = sorted(autoscaler.nodes(), key=lambda node: room(node, needs), reverse=True)[: autoscaler.total]
    # Nodes that are there are of its types, or else somebody has added them, who may have added more than it may.
    grown = [*(node["Resources"] for node in heads), *to_come]
    return max(grown, there, key=lambda some: sum(room(node, needs) for node in some)), autoscaler


def room(node: Mapping[str, float], needs: Mapping[str, float]) -> int:
    """Count how many processes with these needs fit on a node with these resources."""
    return min(math.floor(node.get(kind, 0) / need + 1e-9) for kind, need in needs.items() if need)


def groups_of_job() -> list[str]:
    """Return the ids of the placement groups that Train has made in this job: those without a name."""
    job = ray.get_runtime_context().get_job_id()
    return [group for group, about in placement_group_table().items() if group.endswith(job) and not about["name"]]


def remove_groups(groups: Iterable[str]) -> None:
    """Give back what workers had, by the ids of their placement groups."""
    for group in groups:
        with suppress(RayError):
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(group))))


def check_room(resources: ResourcesConfig) -> None:
    """Check that the cluster can hold the workers of a run, were it empty.

    Raises:
        ClusterError: it cannot; with what it has, and the key to change.
    """
    least, needs = resources.least, resources.of_a_worker()
    there, autoscaler = reach(needs)
    rooms = [room(node, needs) for node in there]
    for kind, need in needs.items():
        if need and not any(room(node, {kind: need}) for node in there):
            raise ClusterError(_lacking(resources, kind, there, autoscaler))
    held = {"STRICT_PACK": max(rooms, default=0), "STRICT_SPREAD": sum(map(bool, rooms))}.get(
        resources.placement, sum(rooms)
    )
    if held >= least:
        return
    wanted = f"{least} workers" + ("" if isinstance(resources.workers, int) else " at least")
    each = ", ".join(f"{need:g} {kind}" for kind, need in needs.items() if need >= 0.01)
    has = f"{len(there)} node{'s' * (len(there) != 1)} with {_total(there, 'CPU')} CPUs and {_total(there, 'GPU')} GPUs"
    has += ", with all that its autoscaler may add" if autoscaler else ""
    if sum(rooms) >= least:
        how = "one node" if resources.placement == "STRICT_PACK" else "a node each"
        raise ClusterError(
            f"resources.placement is {resources.placement}, but {wanted} ({each} each) do not fit on {how} of the "
            f"cluster, {held} do (it has {has}); PACK or SPREAD lets them"
        )
    raise ClusterError(
        f"resources.workers: {wanted} ({each} each) do not fit on the cluster, {held} do (it has {has}); lower "
        "resources.workers or what each takes"
    )


_TYPE = "accelerator_type:"


def _lacking(
    resources: ResourcesConfig, kind: str, there: list[dict[str, float]], autoscaler: Autoscaler | None
) -> str:
    """Say of what no node has enough for a worker."""
    most = max((node.get(kind, 0) for node in there), default=0)
    if kind.startswith(_TYPE):
        types = sorted({name.removeprefix(_TYPE) for node in there for name in node if name.startswith(_TYPE)})
        wanted = str(resources.accelerator_type)
        has = f"nodes with {', '.join(types)}" if types else "no accelerators"
        return f"resources.accelerator_type is {wanted}, but the cluster has {has}{nearest(wanted, types)}"
    key = {"CPU": "resources.cpus", "GPU": "resources.gpus"}.get(kind, f"resources.custom.{kind}")
    need = resources.of_a_worker()[kind]
    nodes_of = "no node of the cluster"
    if autoscaler:
        nodes_of += f", or of a type that its autoscaler may add ({', '.join(sorted(autoscaler.types)) or 'none'}),"
    return f"{key} is {need:g}, but {nodes_of} has {f'more than {most:g}' if most else 'any'}"


def _total(there: list[dict[str, float]], kind: str) -> str:
    return f"{sum(node.get(kind, 0) for node in there):g}"
