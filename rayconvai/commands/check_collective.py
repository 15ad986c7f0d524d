"""The doctor on the network between nodes: ranks on all of them add a tensor up, by NCCL or gloo."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

from rayconvai.commands.check_machine import program_environment
from rayconvai.commands.finding import Finding, ok

SECONDS = 90.0
"""torch is imported in it, and the ranks wait for one another."""


def free_port() -> int:
    """Return a port of this node's that nobody listens at."""
    with socket.create_server(("", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def reduce(rank: int, world: int, address: str, port: int, gpu: str) -> tuple[float, str]:
    """Be a rank; return the bandwidth in bytes a second, or what went wrong, which is empty otherwise."""
    command = [sys.executable, "-m", "rayconvai.commands.collective", *map(str, (rank, world, address, port)), gpu]
    try:
        done = subprocess.run(
            command, env=program_environment(), capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return 0, f"no end within {SECONDS:g} s"
    with suppress(ValueError, IndexError):
        return float(json.loads(done.stdout.splitlines()[-1])), ""
    return 0, (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1][:300]


def ranks(gpus: Mapping[str, int]) -> list[tuple[str, str]]:
    """Return the node and the GPU of each rank: all GPUs where every node has some, else one process a node, or two."""
    if all(gpus.values()):
        found = [(node, str(gpu)) for node, count in gpus.items() for gpu in range(count)]
        if len(found) > 1:
            return found
    return [(node, "") for node in gpus] * (2 if len(gpus) == 1 else 1)


def judge(places: Sequence[tuple[str, str]], answers: Sequence[tuple[float, str]], address: str) -> Iterator[Finding]:
    """Say whether the ranks came together, and how fast they are."""
    kind = "NCCL" if places[0][1] else "gloo"
    nodes = len({node for node, _ in places})
    where = f"{len(places)} ranks on {nodes} node{'s' * (nodes > 1)}"
    problems = [(node, problem) for (node, _), (_, problem) in zip(places, answers, strict=True) if problem]
    if problems:
        node, problem = problems[0]
        interface = f"{kind.upper()}_SOCKET_IFNAME"
        yield Finding(
            "all-reduce", "error", f"{kind}, {where}: {problem}",
            f"let the nodes reach each other at all ports (here: {address}), and set {interface} on every node to the "
            "network interface between them",
            node if nodes > 1 else "",
        )  # fmt: skip
    else:
        slowest = min(bandwidth for bandwidth, _ in answers)
        yield ok("all-reduce", f"{kind}, {where}: {slowest / 1e9:.2f} GB/s")
