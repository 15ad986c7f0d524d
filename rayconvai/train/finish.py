"""The end of a run: its best checkpoint is measured on the test split and becomes an artefact."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
from omegaconf import DictConfig

from rayconvai.core.model import Model
from rayconvai.experiment.layout import RunLayout
from rayconvai.experiment.mirror import Mirror, address_of, lasting, publish
from rayconvai.experiment.samples import write_samples
from rayconvai.train.fit import evaluate, fit, process_rank
from rayconvai.train.runtime import Runtime


@dataclass(frozen=True)
class Outcome:
    """What a run has come to."""

    run_dir: Path
    metrics: dict[str, float]
    artefact: Path | None
    """None where none was asked for."""


def train(config: DictConfig, runtime: Runtime, measuring: Runtime | None) -> Outcome:
    """Fit the model of a run, then measure its best checkpoint and make it an artefact, if the config says so.

    Args:
        config: of the run.
        runtime: where it runs.
        measuring: where it is measured; None: it is not.
    """
    result = fit(config, runtime)
    if measuring is None or not config.artefact or result.best_checkpoint is None:
        return Outcome(result.run_dir, result.metrics, None)
    if address_of(result.run_dir) is not None and dist.is_available() and dist.is_initialized():
        dist.barrier()
        if process_rank():
            Mirror(lasting(result.run_dir)).pull(whole=False)  # what the first worker wrote, maybe elsewhere
    artefact = result.run_dir / "artefact"
    measured = finish(config, result.run_dir, result.best_checkpoint, artefact, measuring)
    return Outcome(result.run_dir, {**result.metrics, **measured}, artefact)


def finish(config: DictConfig, run_dir: Path, checkpoint: Path, artefact: Path, runtime: Runtime) -> dict[str, float]:
    """Measure ``checkpoint``, write it as ``artefact`` with its card, and return what was measured.

    Of several processes all measure, each its share, and one writes. A corpus without a test split is measured on dev,
    and the metrics are called so.

    Raises:
        CheckpointError: the checkpoint is damaged.
        StorageError: the artefact cannot be written.
    """
    model, metrics = evaluate(config, checkpoint, reported_split(run_dir), runtime)
    if not process_rank():
        content = {**card(config, run_dir, model), "metrics": metrics, "checkpoint": checkpoint.name}
        model.save_to(artefact, content, extras=samples_of(model, reported_split(run_dir)))
        publish(artefact)
    return metrics


def reported_split(run_dir: Path) -> str:
    """Return what a run's result is measured on: ``test``, or ``dev`` where the corpus has no test split."""
    return "test" if "test" in _provenance(run_dir)["data"] else "dev"


def card(config: DictConfig, run_dir: Path, model: Model) -> dict[str, Any]:
    """Return what the card of a run's artefact says of the run."""
    provenance = _provenance(run_dir)
    return {
        "name": config.name,
        "model": type(model).__name__,
        "parameters": model.num_weights,
        **model.report(),
        "data": provenance.pop("data"),
        "provenance": provenance,
    }


def samples_of(model: Model, split: str) -> Callable[[Path], None] | None:
    """Return what writes, into an artefact, the samples that a model kept when it was measured, with their sounds; None
    where it kept none."""
    samples = model.kept_samples.get({"dev": "val"}.get(split, split))
    if not samples:
        return None
    return lambda artefact: write_samples(artefact / "samples", split, samples, copy_sounds=True)


def _provenance(run_dir: Path) -> dict[str, Any]:
    provenance: dict[str, Any] = json.loads(RunLayout(run_dir).provenance.read_text(encoding="utf-8"))
    return provenance
