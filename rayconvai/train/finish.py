"""The end of a run: its best checkpoint is measured on the test split and becomes an artefact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

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
    provenance: dict[str, Any] = json.loads(RunLayout(run_dir).provenance.read_text(encoding="utf-8"))
    model, metrics = evaluate(config, checkpoint, "test" if "test" in provenance["data"] else "dev", runtime)
    if process_rank():
        return metrics
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
