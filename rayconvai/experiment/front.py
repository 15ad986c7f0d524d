"""What stands before a run's loggers: the record's names, each value once, and no failure comes through."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

from lightning.pytorch.loggers import Logger

from rayconvai.errors import ConfigError
from rayconvai.experiment.record import MetricsRecord

log = logging.getLogger(__name__)

_CALLS = ("log_hyperparams", "log_graph", "log_samples", "save", "finalize", "after_save_checkpoint", "close")


class Front:
    """Takes the calls to a logger, whose own methods it replaces.

    A metric that is logged by step and by epoch has its plain name where it is the epoch's, as in the journal, and
    ``_step`` where it is the step's. The first call that fails is said, and is the last one made.
    """

    def __init__(self, logger: Logger, record: MetricsRecord) -> None:
        self.logger, self.record = logger, record
        self.broken = False
        self._line: tuple[Any, ...] = ()
        self._given: set[str] = set()
        for name in _CALLS:
            if hasattr(logger, name):
                setattr(logger, name, partial(self.call, name))
        setattr(logger, "log_metrics", self.log_metrics)  # noqa: B010 (a type checker sees a method there)

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Make a call, unless one has failed before."""
        if self.broken:
            return None
        try:
            return getattr(type(self.logger), name)(self.logger, *args, **kwargs)
        except ConfigError:  # an option that cannot be, found when the logger begins
            raise
        except Exception as error:  # noqa: BLE001 (loggers are others' code and services: they may raise anything)
            self.broken = True
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            log.warning("%s failed (%s); the training goes on without it", type(self.logger).__name__, reason)
            return None

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Hand on what this step, validation or epoch has not been given yet."""
        kind, epoch = self.record.kind, self.record.epoch
        if kind == "ignored":
            return
        line = (kind, epoch, None if kind == "epoch" else step)
        if line != self._line:
            self._line, self._given = line, set()
        suffix = "" if kind == "step" else "_epoch"
        named = {name.removesuffix(suffix): value for name, value in metrics.items()}
        new = {name: value for name, value in named.items() if name not in self._given}
        self._given.update(new)
        if new:
            self.call("log_metrics", new, step)
