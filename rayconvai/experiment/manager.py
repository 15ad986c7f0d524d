"""The experiment manager: one directory for a run, its loggers, checkpoints and resuming."""

from __future__ import annotations

from rayconvai.experiment.options import CheckpointParams, ExpManagerConfig, OptionError

__all__ = ["CheckpointParams", "ExpManagerConfig", "OptionError"]
