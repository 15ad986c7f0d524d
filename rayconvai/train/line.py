"""The line between the one who starts workers and the workers: what they tell each other, and how they died.

Ray loads this module into processes of its own, which start the sooner the less it imports.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ray.exceptions import ActorUnavailableError, RayActorError

TAKEN_AWAY = "its node was taken away"

News = tuple[str, Any]
"""``started``: the placement group of a group of workers. ``trains``: the step that it goes on from and its size.
``says``: a line for the terminal. ``died``: who, and how."""


class Line:
    """Keeps what either side has said until the other asks; an actor, so that it can be reached from every node."""

    def __init__(self) -> None:
        self._news: list[News] = []
        self._starts = self._step = 0
        self._signal: int | None = None

    def started(self, group: str) -> int:
        """Called by rank 0 of a new group of workers: return how many were there before."""
        self._news.append(("started", group))
        self._starts += 1
        return self._starts - 1

    def trains(self, step: int, workers: int, recorded: int) -> None:
        """Called by rank 0: training goes on from this step; the record of those before speaks of so many steps."""
        self._news.append(("trains", {"step": step, "workers": workers, "reached": max(self._step, recorded)}))
        self._step = step

    def at(self, step: int) -> int | None:
        """Called by rank 0 every now and then: so many steps are done; return the signal to stop for, if any."""
        self._step = step
        return self._signal

    def add(self, kind: str, what: Any) -> None:
        self._news.append((kind, what))

    def stop(self, signal: int) -> None:
        """Called by the one who started the workers."""
        self._signal = signal

    def news(self) -> list[News]:
        """Return what came since this was called last."""
        news, self._news = self._news, []
        return news


def deaths(errors: Mapping[int, BaseException]) -> dict[str, str]:
    """Say which workers died and how; those that could not go on without them are not named."""
    dead = {rank: error for rank, error in errors.items() if type(error) is not RuntimeError}
    return {f"worker {rank}": death(error) for rank, error in (dead or errors).items()}


def death(error: BaseException | None) -> str:
    """Say how a process of Ray's died."""
    error = getattr(error, "health_check_failure", error)  # Train wraps it
    if not isinstance(error, RayActorError):
        if type(error) is RuntimeError:  # a worker's own words
            lost = re.search(r"\bpeer\b|gloo|nccl", str(error), re.I)
            return "it lost its connection to the others" if lost else f"it could not go on: {str(error)[:150]}"
        return f"its process could not go on: {type(error).__name__}" if error else "its process died"
    if error.actor_init_failed:
        return f"its process could not begin: {str(error).strip().splitlines()[-1]}"
    if error.preempted:
        return TAKEN_AWAY
    if "running low on memory" in str(error):
        return "its node was running low on memory"
    gone = isinstance(error, ActorUnavailableError) or "node has died" in str(error)
    return "its node died or cannot be reached" if gone else "its process died"
