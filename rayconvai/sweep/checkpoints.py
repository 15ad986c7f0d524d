"""The checkpoints that a trial left, and how good each is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rayconvai.errors import CheckpointError
from rayconvai.experiment.layout import RunLayout
from rayconvai.experiment.record import read_metrics
from rayconvai.experiment.storage import SUFFIX, AtomicCheckpointIO, is_sound, read_stamps, steps_taken
from rayconvai.experiment.takeover import TAKEN
from rayconvai.sweep.spec import MetricSpec
from rayconvai.sweep.state import TrialRecord
from rayconvai.train.until import epochs_done


@dataclass(frozen=True)
class Left:
    """A checkpoint of an epoch whose metric is known."""

    path: Path
    epoch: int
    value: float
    """Of the metric."""


def best_first(run_dir: Path, trial: TrialRecord, metric: MetricSpec) -> list[Left]:
    """Return the trial's own sound checkpoints, one an epoch, the best first."""
    # The last epoch of a trial that was interrupted stands in its own record alone.
    lines = read_metrics(RunLayout(run_dir).metrics)
    recorded = {line["epoch"]: line.get(metric.name) for line in lines if line["kind"] == "epoch"}
    found: dict[int, Left] = {}
    paths = RunLayout(run_dir).checkpoints.glob(f"[!.]*{SUFFIX}")
    # Of several of an epoch, that of its end is taken; and rather one that was ranked than the newest.
    for path in sorted(paths, key=lambda path: (not _is_newest(path), steps_taken(path))):
        epoch = _epoch(path) if is_sound(path) and not path.name.startswith(TAKEN) else None
        if epoch is None:
            continue
        reported = trial.value_at(metric.name, epoch)
        value = recorded.get(epoch) if reported is None else reported
        if value is not None:
            found[epoch] = Left(path, epoch, value)
    sign = 1 if metric.mode == "min" else -1
    return sorted(found.values(), key=lambda left: (sign * left.value, left.epoch))


def _epoch(path: Path) -> int | None:
    """Return the epoch, counted from 1, that a checkpoint belongs to; None for one that belongs to none."""
    stamps = read_stamps(path)
    if stamps and not _is_newest(path):
        return stamps[0].epoch + 1
    epochs, whole = epochs_done(path)
    return epochs if whole else None


def _is_newest(path: Path) -> bool:
    return path.stem.endswith("last")


def best_checkpoint(run_dir: Path, trial: TrialRecord, metric: MetricSpec) -> Left:
    """Return the best that there is; where that of the best epoch went, the next.

    Raises:
        CheckpointError: there is none.
    """
    left = best_first(run_dir, trial, metric)
    if not left:
        raise CheckpointError(
            f"{trial.name} has no sound checkpoint left in {RunLayout(run_dir).checkpoints}; "
            f"python -m rayconvai replay {run_dir.parent.parent} {trial.name} trains it anew"
        )
    return left[0]


def average(paths: Sequence[Path]) -> dict[str, Tensor]:
    """Return the mean of the weights in several checkpoints; what counts (integers) is the first one's.

    Source: Izmailov et al. 2018 (arXiv 1803.05407), with checkpoints of one run in the place of cycles.
    """
    total: dict[str, Tensor] = {}
    first: Mapping[str, Any] = {}
    for path in paths:
        weights = AtomicCheckpointIO().load_checkpoint(path)["state_dict"]
        first = first or weights
        for name, value in weights.items():
            if torch.is_floating_point(value):
                total[name] = total.get(name, torch.zeros((), dtype=torch.float64)) + value.double() / len(paths)
    return {name: total[name].to(value.dtype) if name in total else value for name, value in first.items()}
