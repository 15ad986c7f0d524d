"""A sweep's metrics as one long table, held by columns: a million rows are some tens of megabytes."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rayconvai.errors import StorageError
from rayconvai.experiment.layout import RunLayout
from rayconvai.places import is_address, open_address, words
from rayconvai.sweep.journal import iter_records
from rayconvai.sweep.state import trial_name

KINDS = ("epoch", "step", "validation", "test")
_KEYS = ("kind", "step", "epoch", "time")
_NO_STEP = -1


class _Rows:
    """Rows that are added one by one."""

    def __init__(self) -> None:
        self.trials: dict[str, int] = {}
        self.metrics: dict[str, int] = {}
        self.codes: dict[tuple[str, ...], array[int]] = {}
        self.trial, self.metric = array("i"), array("i")
        self.kind, self.epoch, self.step = array("b"), array("i"), array("q")
        self.time, self.value = array("d"), array("d")

    def add(self, trial: str, line: tuple[int, int, int, float], metrics: Mapping[str, Any]) -> None:
        """Add the metrics of a line: its kind's number, epoch, step and time."""
        kind, epoch, step, time = line
        names, count = tuple(metrics), len(metrics)
        if names not in self.codes:  # most lines have the metrics of one before
            self.codes[names] = array("i", (self.metrics.setdefault(name, len(self.metrics)) for name in names))
        self.metric.extend(self.codes[names])
        self.value.extend([math.nan if value is None else value for value in metrics.values()])
        self.trial.extend([self.trials.setdefault(trial, len(self.trials))] * count)
        self.kind.extend([kind] * count)
        self.epoch.extend([epoch] * count)
        self.step.extend([step] * count)
        self.time.extend([time] * count)

    def frame(self) -> pd.DataFrame:
        steps = np.array(self.step)
        return pd.DataFrame(
            {
                "trial": _category(self.trial, self.trials),
                "kind": _category(self.kind, KINDS),
                "epoch": np.array(self.epoch, dtype=np.int32),
                "step": pd.arrays.IntegerArray(steps, steps == _NO_STEP),
                "time": pd.to_datetime(np.array(self.time), unit="s", utc=True),
                "metric": _category(self.metric, self.metrics),
                "value": np.array(self.value),
            }
        )


def _category(codes: array[int], names: Iterable[str]) -> Any:
    categories = pd.CategoricalDtype(pd.Index(list(names), dtype="object"))
    return pd.Categorical.from_codes(np.array(codes, dtype=np.int32), dtype=categories)


@dataclass(frozen=True)
class Told:
    """What a journal says beside the state of its sweep."""

    epochs: pd.DataFrame
    attempts: pd.DataFrame


def told(place: str) -> Told:
    """Go through a journal once.

    Raises:
        SweepError: it is damaged; with the line.
        StorageError: it cannot be read.
    """
    rows, attempts = _Rows(), _Attempts()
    for record in iter_records(place):
        if record["kind"] == "result":
            line = (0, record["epoch"], record.get("step", _NO_STEP), record["time"])
            rows.add(trial_name(record["trial"]), line, record["metrics"])
        attempts.take(record)
    return Told(rows.frame(), attempts.frame())


class _Attempts:
    """From where to where each attempt went."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.open: dict[int, dict[str, Any]] = {}
        self.nodes: dict[int, str | None] = {}
        """Trial -> where it was last heard of from: only a change stands in the journal."""
        self.time = 0.0

    def take(self, record: Mapping[str, Any]) -> None:
        kind, number = record["kind"], record.get("trial", -1)
        if kind == "sweep":  # what the driver before had at work ended with it, at the latest
            self._end_all("killed")
        self.time = record["time"]
        if kind == "close":
            self._end_all("interrupted")
        elif kind == "attempt":
            self._end(number, "killed")
            row = {"trial": trial_name(number), "attempt": record["attempt"], "began": self.time, "node": None}
            self.open[number] = row
        elif kind == "result" and number in self.open:
            self.nodes[number] = record.get("node", self.nodes.get(number))
            self.open[number]["node"] = self.nodes[number]
        elif kind in ("pause", "lost", "end"):
            self._end(number, {"pause": "paused", "lost": "lost"}.get(kind) or record["status"])

    def _end(self, number: int, how: str) -> None:
        row = self.open.pop(number, None)
        if row is not None:
            self.rows.append({**row, "ended": self.time, "how": how})

    def _end_all(self, how: str) -> None:
        for number in list(self.open):
            self._end(number, how)

    def frame(self) -> pd.DataFrame:
        self._end_all("running")  # or its driver was killed: the last that was heard
        columns = ["trial", "attempt", "began", "ended", "node", "how"]
        frame = pd.DataFrame(self.rows, columns=columns)
        for name in ("began", "ended"):
            frame[name] = pd.to_datetime(frame[name].astype(float), unit="s", utc=True)
        return frame.sort_values("began", ignore_index=True)


def whole(place: str, epochs: pd.DataFrame, trials: Sequence[str]) -> pd.DataFrame:
    """Return ``epochs`` and, of the trials whose records are there, steps and validations too.

    Raises:
        StorageError: they cannot be read.
    """
    rows = _Rows()
    for trial, text in _records(place, trials):
        for line in _lines(text):
            kind = line.get("kind")
            if kind in KINDS[1:]:
                metrics = {name: value for name, value in line.items() if name not in _KEYS}
                rows.add(trial, (KINDS.index(kind), line["epoch"], line["step"], line["time"]), metrics)
    if not rows.trials:
        return epochs
    joined = pd.concat([epochs, rows.frame()], ignore_index=True)
    return joined.astype({"trial": "category", "metric": "category"})


def _records(place: str, trials: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    paths = {trial: f"trials/{trial}/{RunLayout(Path()).metrics.name}" for trial in trials}
    if not is_address(place):
        for trial, path in paths.items():
            file = Path(place, path)
            if file.is_file():
                try:
                    yield trial, file.read_bytes()
                except OSError as error:
                    raise StorageError(f"{file} cannot be read: {error.strerror}") from error
        return
    fs, root = open_address(place)
    keys = {f"{root}/{path}": trial for trial, path in paths.items()}
    try:
        found = fs.cat(list(keys), on_error="return") if keys else {}  # all at once
    except Exception as error:
        raise StorageError(f"{place} cannot be read: {words(error)}") from error
    for key, text in found.items():
        if isinstance(text, bytes):
            yield keys[key], text
        elif not isinstance(text, FileNotFoundError):
            raise StorageError(f"{place} cannot be read: {words(text)}")


def _lines(text: bytes) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        try:
            found = json.loads(line)
        except ValueError:  # torn by a kill
            continue
        if isinstance(found, dict):
            yield found
