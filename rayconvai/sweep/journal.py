"""The journal of a sweep: the append-only record that is the truth about it.

``<sweep>/journal/NNNN.jsonl``, one segment for each start of the driver, which alone writes; one JSON object a line,
synced to disk before the driver goes on. A line that is torn (the last of a segment: the driver was killed while it
wrote) is left out. Every record has ``kind`` and ``time`` (seconds since 1970). Format 1:

========  =====================================================================================================
kind      fields
========  =====================================================================================================
sweep     ``version``, ``identity`` (all that makes two sweeps the same: recipe, overrides, space, metric, search,
          scheduler), ``spec`` (the whole file as it was read), ``command``. First record of each segment.
point     ``trial`` (number), ``point`` (space key -> value), ``overrides`` (the point as Hydra overrides)
attempt   ``trial``, ``attempt`` (from 1): a process begins to work on the trial
result    ``trial``, ``attempt``, ``epoch`` (from 1), ``metrics`` (name -> number or null), ``seconds`` (since
          the attempt began). One per trial and epoch: what an attempt repeats of an earlier one is left out.
lost      ``trial``, ``attempt``, ``reason``: the process or its machine died; the trial will be tried again
end       ``trial``, ``status`` (finished, stopped: by the scheduler or the budget, infeasible, failed), ``reason``
close     ``reason``: why the driver went (done, interrupted, failed, budget.hours)
========  =====================================================================================================
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from typing_extensions import Self

from rayconvai.errors import StorageError, SweepError
from rayconvai.sweep.domains import Point

VERSION = 1
Status = Literal["waiting", "running", "finished", "stopped", "infeasible", "failed"]
ENDED: tuple[Status, ...] = ("finished", "stopped", "infeasible", "failed")


def trial_name(number: int) -> str:
    return f"t{number:04d}"


@dataclass
class TrialRecord:
    """What the journal knows of one trial."""

    number: int
    point: Point
    overrides: list[str]
    status: Status = "waiting"
    reason: str = ""
    attempts: int = 0
    began: float | None = None
    ended: float | None = None
    history: dict[int, dict[str, float | None]] = field(default_factory=dict)
    """Epoch -> metrics."""

    @property
    def name(self) -> str:
        return trial_name(self.number)

    @property
    def epoch(self) -> int:
        """The last epoch reported; 0 before the first."""
        return max(self.history, default=0)

    def best(self, metric: str, mode: str) -> tuple[float, int] | None:
        """Return the best value of a metric and its epoch; None where it was never reported."""
        seen = [(row[metric], epoch) for epoch, row in self.history.items() if row.get(metric) is not None]
        sign = 1 if mode == "min" else -1
        return min(
            ((value, epoch) for value, epoch in seen if value is not None), default=None, key=lambda v: sign * v[0]
        )


@dataclass
class SweepState:
    """A sweep as its journal tells it: what ``apply`` made of the records so far."""

    identity: dict[str, Any] = field(default_factory=dict)
    spec: dict[str, Any] = field(default_factory=dict)
    trials: dict[int, TrialRecord] = field(default_factory=dict)
    closed: str = ""
    """Why the last driver went; empty if it was killed or is still there."""
    seconds: float = 0.0
    """How long its drivers have worked, all together."""
    _last: float = 0.0

    def apply(self, record: Mapping[str, Any]) -> None:
        kind = record["kind"]
        if kind != "sweep":
            self.seconds += record["time"] - self._last
        self._last = record["time"]
        if kind == "sweep":
            self.identity, self.spec, self.closed = record["identity"], record["spec"], ""
        elif kind == "close":
            self.closed = record["reason"]
        elif kind == "point":
            number = record["trial"]
            self.trials[number] = TrialRecord(number, record["point"], record["overrides"])
        else:
            self._apply_to_trial(self.trials[record["trial"]], record)

    @staticmethod
    def _apply_to_trial(trial: TrialRecord, record: Mapping[str, Any]) -> None:
        kind = record["kind"]
        if kind == "attempt":
            trial.status, trial.attempts = "running", record["attempt"]
            trial.began = trial.began or record["time"]
        elif kind == "result":
            trial.history[record["epoch"]] = record["metrics"]
        elif kind == "lost":
            trial.status, trial.reason = "waiting", record["reason"]
        elif kind == "end":
            trial.status, trial.reason, trial.ended = record["status"], record["reason"], record["time"]

    def ranked(self, metric: str, mode: str) -> list[TrialRecord]:
        """Return the trials best first; those without a value of the metric last."""
        sign = 1 if mode == "min" else -1

        def rank(trial: TrialRecord) -> tuple[float, int]:
            best = trial.best(metric, mode)
            return (sign * best[0] if best else math.inf, trial.number)

        # What turned out infeasible may have looked well before.
        usable = [trial for trial in self.trials.values() if trial.status not in ("infeasible", "failed")]
        rest = [trial for trial in self.trials.values() if trial.status in ("infeasible", "failed")]
        return sorted(usable, key=rank) + sorted(rest, key=lambda trial: trial.number)

    def count(self, *statuses: Status) -> int:
        return sum(trial.status in statuses for trial in self.trials.values())


class Journal:
    """The writing end. One at a time: a second driver of the same sweep is refused.

    Raises:
        SweepError: another driver is at work on this sweep.
        StorageError: the directory cannot be written.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "journal"
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._lock = (self.directory / "lock").open("a+", encoding="utf-8")
            # The kernel frees it when this process goes, however it goes.
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SweepError(
                f"another process is at work on the sweep in {directory}; wait for it or end it"
            ) from error
        except OSError as error:
            raise StorageError(f"sweep directory {directory} cannot be written: {error.strerror}") from error
        self.state = read_journal(directory)
        self.segment = self.directory / f"{len(_segments(self.directory)):04d}.jsonl"
        self._file: int | None = None

    def open(self, identity: dict[str, Any], spec: dict[str, Any]) -> None:
        """Begin this session's segment."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL
        try:
            self._file = os.open(self.segment, flags, 0o644)
        except OSError as error:
            raise StorageError(f"the journal in {self.directory} cannot be written: {error.strerror}") from error
        self.append("sweep", version=VERSION, identity=identity, spec=spec, command=sys.argv)

    def append(self, kind: str, **fields: Any) -> None:
        """Write one record, on disk before this returns.

        Raises:
            StorageError: the disk is full or gone.
        """
        assert self._file is not None, "the journal is not open"
        record = {"kind": kind, "time": round(time.time(), 3), **fields}
        line = json.dumps(record, allow_nan=False, ensure_ascii=False) + "\n"
        try:
            _write_all(self._file, line.encode())
            os.fsync(self._file)
        except OSError as error:
            raise StorageError(f"the journal in {self.directory} cannot be written: {error.strerror}") from error
        self.state.apply(record)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
        self._file = None
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _write_all(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


def finite(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """Return metrics as JSON can hold them: null for what is not finite."""
    return {name: float(value) if math.isfinite(value) else None for name, value in metrics.items()}


def read_journal(directory: Path) -> SweepState:
    """Read the state of the sweep in ``directory``; an empty state if there is none.

    Raises:
        SweepError: written by a newer version, or damaged elsewhere than at a torn end; with file and line.
    """
    state = SweepState()
    for segment in _segments(directory / "journal"):
        for number, record in _records(segment):
            try:
                if record["kind"] == "sweep" and record["version"] > VERSION:
                    raise SweepError(
                        f"{segment}:{number}: written in format {record['version']}, this rayconvai knows {VERSION}; "
                        "update rayconvai"
                    )
                state.apply(record)
            except (KeyError, TypeError) as error:
                raise SweepError(f"{segment}:{number}: not a record of a journal: {error}") from error
    return state


def _segments(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.jsonl"))


def _records(segment: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with segment.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b"\n"):
                return  # torn: the driver was killed while it wrote
            try:
                yield number, json.loads(line)
            except ValueError as error:
                raise SweepError(f"{segment}:{number}: not JSON; the journal is damaged") from error
