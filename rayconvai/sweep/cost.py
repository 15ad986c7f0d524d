"""What an attempt at a trial costs: time, memory, and what the training saw."""

from __future__ import annotations

import os
import re
import resource
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch


class Meter:
    """Counts from its making on; one at a time in a process, whose peaks of memory it resets.

    Args:
        gpus: how many GPUs, or which share of one, the attempt holds.
    """

    def __init__(self, gpus: float) -> None:
        self.gpus = gpus
        self._seen: dict[str, Any] = {}
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the high-water mark of resident memory
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.reset_peak_memory_stats()
        self._began, self._cpu_before = time.monotonic(), _cpu_seconds()

    def count(self, seen: Mapping[str, Any]) -> None:
        """Add what a batch held: numbers, or tensors with one element, which are not waited for."""
        for name, value in seen.items():
            number = value.detach().double() if isinstance(value, torch.Tensor) else value
            self._seen[name] = self._seen.get(name, 0) + number

    def read(self) -> dict[str, Any]:
        """Return the costs so far.

        Seconds: ``wall``, ``cpu`` (of this process and all below it, loader workers too) and ``gpu``. Peaks in bytes:
        ``memory`` (resident, of this process) and ``gpu_memory`` (what tensors took). ``seen``: name -> sum.
        """
        wall = time.monotonic() - self._began
        on_gpu = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        return {
            "wall": round(wall, 3),
            "cpu": round(max(0.0, _cpu_seconds() - self._cpu_before), 3),
            "gpu": round(wall * self.gpus, 3),
            "memory": _peak_memory(),
            "gpu_memory": torch.cuda.max_memory_allocated() if on_gpu else 0,
            "seen": {name: round(float(value), 3) for name, value in self._seen.items()},
        }


def together(costs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what processes cost that worked side by side: seconds but ``wall`` and what they saw add up."""
    most = {name: max(cost[name] for cost in costs) for name in ("wall", "memory", "gpu_memory")}
    added = {name: round(sum(cost[name] for cost in costs), 3) for name in ("cpu", "gpu")}
    names = {name for cost in costs for name in cost["seen"]}
    seen = {name: round(sum(cost["seen"].get(name, 0) for cost in costs), 3) for name in sorted(names)}
    return {**most, **added, "seen": seen}


def _cpu_seconds() -> float:
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    own = time.process_time() + ended.ru_utime + ended.ru_stime
    return own + sum((_times_of(pid) for pid in _below(os.getpid())), 0.0)


def _times_of(pid: int) -> float:
    """Return the CPU seconds of a process and of its children that have ended."""
    try:
        # The name, in parentheses, may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:  # it has gone
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def _below(pid: int) -> Iterator[int]:
    """Yield the processes that descend from one: a loader's workers are children of its fork server."""
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, children.read_text(encoding="ascii").split()):
                yield child
                yield from _below(child)


def _peak_memory() -> int:
    try:
        peak = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    except OSError:
        peak = None
    return 1024 * (int(peak[1]) if peak else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
