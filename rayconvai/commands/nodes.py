"""Where the doctor looks: this machine, or the nodes of the Ray cluster that this process has joined."""

from __future__ import annotations

import importlib
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
from ray.exceptions import RayTaskError
from ray.util import get_node_ip_address
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rayconvai.commands.finding import Finding, error, on_thread
from rayconvai.errors import RayconvaiError
from rayconvai.train.cluster import nodes as alive

T = TypeVar("T")
_INSTALL = (
    "install rayconvai there, or send the checkout along: ray job submit --working-dir . -- python -m rayconvai doctor"
)


@dataclass(frozen=True)
class Node:
    """A machine that can be asked to do something."""

    name: str
    """In reports; empty for this machine alone."""
    address: str
    resources: Mapping[str, float]
    """What Ray hands out there; empty without Ray."""
    id: str = ""
    """Ray's."""

    def start(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        """Let a function of ours be called there; nothing but plain values may go there and come back."""
        if not self.id:
            return on_thread(function, *arguments)
        module, name = function.__module__, function.__qualname__

        # By name: a node that has no rayconvai could not even unpickle the function.
        def call() -> Any:
            return getattr(importlib.import_module(module), name)(*arguments)

        there = NodeAffinitySchedulingStrategy(self.id, soft=False)
        task: Any = ray.remote(call).options(num_cpus=0, scheduling_strategy=there, max_retries=0).remote()
        future: Future[T] = task.future()
        return future


def here() -> Node:
    """Return this machine."""
    return Node("", get_node_ip_address(), {})  # type: ignore[no-untyped-call]


def there() -> list[Node]:
    """Return the nodes of the cluster; those that share an address are told apart by their ids."""
    found = alive()
    shared = Counter(node["NodeManagerAddress"] for node in found)
    named = {
        node["NodeID"]: address + (f" ({node['NodeID'][:6]})" if shared[address] > 1 else "")
        for node in found
        if (address := node["NodeManagerAddress"])
    }
    return [
        Node(named[node["NodeID"]], node["NodeManagerAddress"], node["Resources"], node["NodeID"]) for node in found
    ]


def gather(
    check: str, seconds: float, calls: Sequence[tuple[Node, Sequence[Any]]], function: Callable[..., T]
) -> list[T | Finding]:
    """Call a function in several places at once; where none answers in time, or one raises, that is a finding.

    Args:
        check: what it belongs to.
        seconds: so long they have together.
        calls: where, and with which arguments.
        function: what is called.
    """
    started = [node.start(function, *arguments) for node, arguments in calls]
    done, _ = wait(started, seconds)
    return [
        _outcome(check, seconds, node, future if future in done else None)
        for (node, _), future in zip(calls, started, strict=True)
    ]


def skews(nodes: Iterable[Node], seconds: float) -> dict[str, float]:
    """Return by how many seconds, at least, each node's clock is ahead of this one's; of those that answer."""
    found = {}
    for node in nodes:
        sent = time.time()
        answer = gather("clock", seconds, [(node, ())], clock)[0]
        received = time.time()
        if not isinstance(answer, Finding):
            # Somewhere between the two it was read.
            least, most = answer - received, answer - sent
            found[node.name] = least if least > 0 else min(most, 0.0)
    return found


def ray_directory() -> str:
    """Return where Ray keeps its sessions on this machine, or would."""
    if not ray.is_initialized():
        return os.environ.get("RAY_TMPDIR") or os.path.join(tempfile.gettempdir(), "ray")
    node: Any = ray._private.worker._global_node  # there is no public way
    return str(node.get_temp_dir_path())


def clock() -> float:
    """Return what this machine's clock says."""
    return time.time()


def _outcome(check: str, seconds: float, node: Node, future: Future[Any] | None) -> Any:
    if future is None:
        found = error(
            check, f"no answer within {seconds:g} s", "see what keeps the node: ray status, its logs, its load"
        )
    else:
        problem = future.exception()
        if problem is None:
            return future.result()
        if isinstance(problem, RayTaskError):
            problem = problem.cause
        if isinstance(problem, RayconvaiError):
            found = error(check, str(problem), "")
        elif isinstance(problem, ModuleNotFoundError):
            found = error(check, f"{problem} there", _INSTALL)
        else:
            said = (str(problem).strip().splitlines() or [""])[-1][:300]
            found = error(check, f"{type(problem).__name__}: {said}", "")
    return Finding(found.check, found.level, found.text, found.fix, node.name)
