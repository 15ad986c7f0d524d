"""How a trial ended, and why."""

from __future__ import annotations

import re

from rayconvai.errors import (
    ClusterError,
    ConfigError,
    InfeasibleError,
    NeuralTypeError,
    RayconvaiError,
    StorageError,
    WorkersDiedError,
)
from rayconvai.experiment.interrupt import Interrupted


def judge(error: BaseException) -> tuple[str, str]:
    """Tell a point that cannot work (infeasible) from a fault of code or data (failed) or machine (lost), with the
    reason."""
    message = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, Interrupted):
        return "interrupted", ""
    if isinstance(error, StorageError):
        return "interrupted", message  # no fault of the point: the sweep stops, and can go on
    if isinstance(error, (InfeasibleError, ConfigError, NeuralTypeError)):
        return "infeasible", message
    if isinstance(error, (WorkersDiedError, ClusterError)):
        return "lost", message
    if isinstance(error, RayconvaiError):
        return "failed", message
    if re.search(r"DataLoader worker .*(exited unexpectedly|killed by signal)", message):
        return "lost", message[:300]  # not for want of memory: the loader would have said so
    return "failed", f"{type(error).__name__}: {message[:300]} (the trace is in the trial's error.txt)"
