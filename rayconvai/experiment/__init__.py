"""The experiment manager: layout, checkpoints, loggers, provenance, resume, metrics record. Knows no Ray."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rayconvai.errors import CheckpointMisconfigurationError, LoggerMisconfigurationError, NotFoundError
    from rayconvai.experiment.interrupt import Interrupted
    from rayconvai.experiment.layout import RunLayout
    from rayconvai.experiment.manager import CheckpointParams, ExpManagerConfig, OptionError, close, exp_manager
    from rayconvai.experiment.record import read_metrics
    from rayconvai.experiment.storage import find_last
else:

    def __getattr__(name: str) -> Any:
        """Import a public name when it is asked for: who reads what runs left does without torch."""
        for module in _SOURCES if name in __all__ else ():
            found = import_module(f"rayconvai.{module}")
            if hasattr(found, name):
                globals()[name] = getattr(found, name)
                return globals()[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    _SOURCES = (
        "errors", "experiment.interrupt", "experiment.layout", "experiment.manager", "experiment.record",
        "experiment.storage",
    )  # fmt: skip

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
