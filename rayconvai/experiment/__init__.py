"""The experiment manager: layout, checkpoints, loggers, provenance, resume, metrics record. Knows no Ray."""

from rayconvai.experiment.manager import CheckpointParams, ExpManagerConfig, OptionError

__all__ = ["CheckpointParams", "ExpManagerConfig", "OptionError"]
