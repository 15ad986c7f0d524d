"""Loggers are made once before a sweep, so that their faults are not met by every trial."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rayconvai.errors import ConfigError, RayconvaiError
from rayconvai.experiment.identity import LoggerIds
from rayconvai.experiment.layout import RunLayout
from rayconvai.experiment.loggers import RunTensorBoardLogger, RunWandbLogger, has_wandb_key, import_wandb
from rayconvai.experiment.mlflow_logger import RunMLflowLogger
from rayconvai.experiment.options import ExpManagerConfig

log = logging.getLogger(__name__)

_SERVER_SECONDS = 5
"""How long W&B's server is waited for."""
_REFUSED = re.compile(r"invalid|must have|\b40[13]\b")


def try_loggers(config: ExpManagerConfig) -> None:
    """Make the loggers that a run asks for once, in a directory that is gone afterwards; W&B's without its server.

    Raises:
        ConfigError: one cannot be made, or the server refuses the key. (One that cannot be reached is no fault: runs
            are then kept offline.)
    """
    wandb_kwargs = {**(config.wandb_logger_kwargs or {}), "offline": True}
    makers: dict[str, Callable[[Path], Any]] = {}
    if config.create_tensorboard_logger:
        makers["tensorboard"] = lambda path: RunTensorBoardLogger(path, config.summary_writer_kwargs or {})
    if config.create_wandb_logger:
        _check_key(config.wandb_logger_kwargs or {})
        makers["wandb"] = lambda path: RunWandbLogger(path, wandb_kwargs, config.name or "rayconvai")
    if config.create_mlflow_logger:
        makers["mlflow"] = lambda path: _local_mlflow(RunLayout(path), config)
    for name, make in makers.items():
        try:
            with tempfile.TemporaryDirectory() as directory, _quiet():
                logger = make(Path(directory))
                logger.log_metrics({"rehearsal": 0.0}, 0)
                logger.finalize("success")
                if hasattr(logger, "close"):
                    logger.close()
        except RayconvaiError:
            raise
        except Exception as error:  # loggers check their arguments each in a way of its own
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise ConfigError(f"exp_manager.create_{name}_logger: it cannot be made: {reason}") from error


def _local_mlflow(layout: RunLayout, config: ExpManagerConfig) -> RunMLflowLogger:
    kwargs = {**(config.mlflow_logger_kwargs or {}), "tracking_uri": f"file:{layout.root}", "run_id": None}
    return RunMLflowLogger(layout, kwargs, config.name or "rayconvai", LoggerIds(layout))


def _check_key(kwargs: Mapping[str, Any]) -> None:
    modes = (kwargs.get("mode"), os.environ.get("WANDB_MODE"))
    if kwargs.get("offline") or {"offline", "dryrun", "disabled"} & set(modes) or not has_wandb_key():
        return
    wandb = import_wandb()
    with _quiet():
        try:
            wandb.Api(timeout=_SERVER_SECONDS)
        except (wandb.Error, ValueError, OSError) as error:
            message = " ".join(str(error).split())
            if _REFUSED.search(message):
                raise ConfigError(
                    f"exp_manager.create_wandb_logger: W&B refuses the key: {message[:200]}; correct WANDB_API_KEY, or "
                    "set exp_manager.wandb_logger_kwargs.offline=true"
                ) from error
            log.warning("W&B cannot be had now (%s); runs that do not find it either are kept offline", message[:200])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep W&B from writing to the terminal."""
    before = os.environ.get("WANDB_SILENT")
    os.environ["WANDB_SILENT"] = "true"
    try:
        yield
    finally:
        del os.environ["WANDB_SILENT"]
        if before is not None:
            os.environ["WANDB_SILENT"] = before
