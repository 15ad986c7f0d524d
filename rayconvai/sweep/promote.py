"""The end of a sweep: its best trial's best checkpoint is measured on unheard data and becomes an artefact."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from rayconvai.errors import CheckpointError, SweepError
from rayconvai.experiment.layout import RunLayout
from rayconvai.sweep.journal import SweepState, TrialRecord
from rayconvai.sweep.spec import MetricSpec
from rayconvai.train.finish import finish
from rayconvai.train.runtime import Runtime


@dataclass(frozen=True)
class Promoted:
    trial: TrialRecord
    artefact: Path
    metrics: dict[str, float]
    """On the test split."""


def promote(directory: Path, state: SweepState, metric: MetricSpec) -> Promoted:
    """Test the sweep's best trial and write it as ``best/``.

    Raises:
        SweepError: no trial has a value of the metric.
        CheckpointError: the best trial left no checkpoint.
        StorageError: the artefact cannot be written.
    """
    trial = next(iter(state.ranked(metric.name, metric.mode)), None)
    if trial is None or trial.status in ("infeasible", "failed") or trial.best(metric.name, metric.mode) is None:
        raise SweepError(f"no trial of the sweep in {directory} has a {metric.name}; there is nothing to promote")
    run_dir = directory / "trials" / trial.name
    config = OmegaConf.load(RunLayout(run_dir).config)
    assert isinstance(config, DictConfig)
    checkpoint = best_checkpoint(run_dir, trial, metric)
    artefact = directory / "best"
    metrics = finish(config, run_dir, checkpoint, artefact, Runtime(progress=False, devices=1))
    return Promoted(trial, artefact, metrics)


def best_checkpoint(run_dir: Path, trial: TrialRecord, metric: MetricSpec) -> Path:
    """Return the checkpoint of the best epoch that still has one.

    Raises:
        CheckpointError: there is none.
    """
    sign = 1 if metric.mode == "min" else -1
    # Names count epochs from 0, reports from 1.
    by_epoch = {
        int(match[1]) + 1: file
        for file in sorted(RunLayout(run_dir).checkpoints.glob("*.ckpt"), reverse=True)
        if (match := re.search(r"epoch=(\d+)", file.name))
    }
    values = {epoch: trial.history[epoch].get(metric.name) for epoch in by_epoch if epoch in trial.history}
    usable = {epoch: sign * value for epoch, value in values.items() if value is not None}
    if not usable:
        raise CheckpointError(f"{trial.name} has no checkpoint in {RunLayout(run_dir).checkpoints}")
    return by_epoch[min(usable, key=lambda epoch: usable[epoch])]
