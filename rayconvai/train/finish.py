"""The end of a single run: its best checkpoint is measured on the test split and becomes an artefact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from rayconvai.experiment.layout import RunLayout
from rayconvai.train.fit import evaluate
from rayconvai.train.runtime import Runtime


def finish(config: DictConfig, run_dir: Path, checkpoint: Path, artefact: Path, runtime: Runtime) -> dict[str, float]:
    """Test ``checkpoint``, write it as ``artefact`` with its card, and return the test metrics.

    Raises:
        CheckpointError: the checkpoint is damaged.
        StorageError: the artefact cannot be written.
    """
    model, metrics = evaluate(config, checkpoint, "test", runtime)
    provenance: dict[str, Any] = json.loads(RunLayout(run_dir).provenance.read_text(encoding="utf-8"))
    card = {
        "name": config.name,
        "model": type(model).__name__,
        "parameters": model.num_weights,
        "metrics": metrics,
        "checkpoint": checkpoint.name,
        "data": provenance.pop("data"),
        "provenance": provenance,
    }
    model.save_to(artefact, card)
    return metrics
