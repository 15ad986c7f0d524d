"""The end of a run: its best checkpoint is measured on the test split and becomes an artefact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from rayconvai.core.model import Model
from rayconvai.experiment.layout import RunLayout
from rayconvai.train.fit import evaluate, process_rank
from rayconvai.train.runtime import Runtime


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
        model.save_to(artefact, {**card(config, run_dir, model), "metrics": metrics, "checkpoint": checkpoint.name})
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
        "data": provenance.pop("data"),
        "provenance": provenance,
    }


def _provenance(run_dir: Path) -> dict[str, Any]:
    provenance: dict[str, Any] = json.loads(RunLayout(run_dir).provenance.read_text(encoding="utf-8"))
    return provenance
