"""The record of a run's metrics as a table, for spreadsheets."""

from __future__ import annotations

import csv
import io
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning_utilities.core.rank_zero import rank_zero_only
from typing_extensions import override

from rayconvai.experiment.layout import write_atomically
from rayconvai.experiment.record import OF_A_LINE, MetricsRecord, read_metrics


class RunCSVLogger(Logger):
    """Writes metrics.csv anew from metrics.jsonl when an epoch or validation has ended: columns may come later, and a
    run that goes on takes back what came after its checkpoint. Must come after the record."""

    def __init__(self, record: MetricsRecord) -> None:
        super().__init__()
        self._record = record

    @property
    @override
    def name(self) -> str:
        return self._record.name

    @property
    @override
    def version(self) -> str:
        return self._record.version

    @override
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if self._record.kind != "step":
            self._write()

    @override
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.yaml has them."""

    @override
    @rank_zero_only
    def finalize(self, status: str) -> None:
        self._write()

    def _write(self) -> None:
        lines = list(read_metrics(self._record.layout.metrics))
        columns = dict.fromkeys([*OF_A_LINE, *(name for line in lines for name in line)])
        table = io.StringIO()
        writer = csv.DictWriter(table, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
        write_atomically(self._record.layout.csv, table.getvalue())
