"""The experiment manager: layout, checkpoints, loggers, provenance, resume, metrics record. Knows no Ray."""

from rayconvai.errors import CheckpointMisconfigurationError, LoggerMisconfigurationError, NotFoundError
from rayconvai.experiment.interrupt import Interrupted
from rayconvai.experiment.layout import RunLayout
from rayconvai.experiment.manager import CheckpointParams, ExpManagerConfig, OptionError, close, exp_manager
from rayconvai.experiment.record import read_metrics
from rayconvai.experiment.storage import find_last

__all__ = [
    "CheckpointMisconfigurationError",
    "CheckpointParams",
    "ExpManagerConfig",
    "Interrupted",
    "LoggerMisconfigurationError",
    "NotFoundError",
    "OptionError",
    "RunLayout",
    "close",
    "exp_manager",
    "find_last",
    "read_metrics",
]
