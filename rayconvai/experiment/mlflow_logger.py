"""MLflow, which may not stop a training either."""

from __future__ import annotations

import logging
import os
from argparse import Namespace
from collections.abc import Mapping
from typing import Any, cast

from lightning.fabric.loggers.logger import _DummyExperiment, rank_zero_experiment
from lightning.pytorch.loggers import MLFlowLogger
from lightning_utilities.core.rank_zero import rank_zero_only
from typing_extensions import override

from rayconvai._optional import require
from rayconvai.errors import ConfigError
from rayconvai.experiment.identity import LoggerIds
from rayconvai.experiment.layout import RunLayout
from rayconvai.experiment.loggers import check_kwargs

log = logging.getLogger(__name__)

_SETTINGS = {
    # Its own would let a server that hangs hold up the training for many minutes.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    # Plain files need no database package, and can be copied to where the others lie.
    "MLFLOW_ALLOW_FILE_STORE": "true",
}
"""What the environment tells MLflow, unless it does already."""


class RunMLflowLogger(MLFlowLogger):
    """Lightning's logger; one MLflow run over all restarts.

    Args:
        layout: the run's.
        kwargs: arguments of Lightning's MLFlowLogger.
        experiment: where the run is put, unless ``kwargs`` have an experiment_name.
        ids: where the MLflow run's id is kept.

    Raises:
        OptionError: an argument does not exist.
        ConfigError: mlflow is not installed, or refuses the arguments.
    """

    def __init__(self, layout: RunLayout, kwargs: Mapping[str, Any], experiment: str, ids: LoggerIds) -> None:
        check_kwargs("mlflow_logger_kwargs", kwargs, MLFlowLogger)
        for variable, value in _SETTINGS.items():
            os.environ.setdefault(variable, value)
        require("mlflow", extra="mlflow")
        self._ids = ids
        self._resumed = False
        store = os.environ.get("MLFLOW_TRACKING_URI") or f"file:{layout.root / 'mlruns'}"
        named = {"experiment_name": experiment, "run_name": layout.root.name, "tracking_uri": store}
        kept = {"run_id": ids.get("mlflow")}
        given = {**named, **kept, **{key: value for key, value in kwargs.items() if value is not None}}
        try:
            super().__init__(**given)
        except Exception as error:  # its address may be wrong in many ways
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise ConfigError(f"exp_manager.create_mlflow_logger: it cannot be made: {reason}") from error

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The MlflowClient."""
        if self._initialized:
            return self._mlflow_client
        try:
            client = super().experiment
            self._resumed = self._ids.get("mlflow") == self._run_id
            if self._resumed:
                client.update_run(self._run_id, status="RUNNING")
            self._ids.put("mlflow", str(self._run_id))
        except Exception as error:  # noqa: BLE001 (a server, a network and a disk are behind it)
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            log.warning("MLflow cannot be had (%s); the training goes on without", reason)
            self._mlflow_client, self._initialized = cast(Any, _DummyExperiment()), True
        return self._mlflow_client

    @property
    @override
    def name(self) -> str:
        return self._experiment_name  # Lightning's asks the server

    @property
    @override
    def version(self) -> str:
        return ""

    @override
    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        if self.experiment and not self._resumed:  # MLflow refuses to change them
            super().log_hyperparams(params)
