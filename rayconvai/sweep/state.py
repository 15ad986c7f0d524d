"""What a sweep's journal says, added up: its trials, their values, what they cost, and how they rank.

A state changes by ``apply`` alone, one record at a time. Of each epoch it holds the sweep's own metrics and no others,
in arrays: ten thousand trials of a hundred epochs are a few tens of megabytes.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from rayconvai.sweep.ranking import GroupRank, rank_group
from rayconvai.sweep.spec import MetricSpec

if TYPE_CHECKING:
    from rayconvai.sweep.domains import Point  # brings Optuna, which takes a second

Status = Literal["waiting", "running", "paused", "finished", "stopped", "infeasible", "failed"]
ENDED: tuple[Status, ...] = ("finished", "stopped", "infeasible", "failed")
_NULL = math.inf  # in the arrays, a value that was not finite; a journal holds no infinity


def trial_name(number: int) -> str:
    return f"t{number:04d}"


def trial_dir(directory: str | Path, number: int) -> Path:
    """Return the run directory of a trial of the sweep in ``directory``."""
    return Path(directory) / "trials" / trial_name(number)


@dataclass(frozen=True)
class Cost:
    """What work took: seconds, the most bytes at once, and what was seen (``audio_seconds``, ``tokens``, ...)."""

    wall: float = 0
    cpu: float = 0
    gpu: float = 0
    """Seconds of whole GPUs: half of one for an hour is 1800."""
    memory: float = 0
    gpu_memory: float = 0
    seen: dict[str, float] = field(default_factory=dict)

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.wall + other.wall,
            self.cpu + other.cpu,
            self.gpu + other.gpu,
            max(self.memory, other.memory),
            max(self.gpu_memory, other.gpu_memory),
            dict(Counter(self.seen) + Counter(other.seen)) if other.seen else self.seen,
        )


@dataclass(frozen=True)
class Exploit:
    """A trial that goes on from another's checkpoint, with a point of its own from then on."""

    epoch: int
    donor: int
    point: Point
    overrides: list[str]


@dataclass(frozen=True)
class WarmPoint:
    """A result of another sweep that the searcher was told."""

    source: str
    trial: int
    point: Point
    values: dict[str, float]


@dataclass
class TrialRecord:
    """What the journal knows of one trial."""

    number: int
    group: int
    repeat: int
    point: Point
    overrides: list[str]
    notes: dict[str, Any] = field(default_factory=dict)
    """The searcher's own."""
    status: Status = "waiting"
    reason: str = ""
    attempts: int = 0
    lost: int = 0
    """How many attempts died."""
    began: float | None = None
    ended: float | None = None
    under_way: bool = False
    """It was begun, and neither paused nor ended since: should it wait, it was interrupted."""
    paused_at: int | None = None
    """The epoch, while paused."""
    released_at: int = 0
    """The epoch of its last pause that is over."""
    exploits: list[Exploit] = field(default_factory=list)
    first_point: Point = field(default_factory=dict)
    """Before any exploit."""
    first_overrides: list[str] = field(default_factory=list)
    parameters: int | None = None
    node: str = ""
    """The host that it was last heard of from; older journals do not say."""
    last: dict[str, float | None] = field(default_factory=dict)
    """All metrics of the last epoch."""
    epochs: array[int] = field(default_factory=lambda: array("I"))
    """Those reported, ascending."""
    values: dict[str, array[float]] = field(default_factory=dict)
    lowest: dict[str, tuple[float, int]] = field(default_factory=dict)
    highest: dict[str, tuple[float, int]] = field(default_factory=dict)
    spent: Cost = Cost()
    """By the attempts before this one."""
    spending: dict[str, Any] = field(default_factory=dict)
    """By this attempt, as the journal has it."""

    @property
    def name(self) -> str:
        return trial_name(self.number)

    @property
    def usable(self) -> bool:
        """False for a trial that turned out infeasible or failed: it may have looked well before."""
        return self.status not in ("infeasible", "failed")

    @property
    def epoch(self) -> int:
        """The last epoch reported; 0 before the first."""
        return self.epochs[-1] if self.epochs else 0

    @property
    def cost(self) -> Cost:
        """Of all attempts together."""
        return self.spent + Cost(**self.spending)

    def reported(self, epoch: int) -> bool:
        """Tell whether this epoch was reported."""
        return self._index(epoch) is not None

    def value_at(self, metric: str, epoch: int) -> float | None:
        """Return what was reported at exactly that epoch."""
        index = self._index(epoch)
        if index is None or metric not in self.values:
            return None
        value = self.values[metric][index]
        return None if value == _NULL else value

    def curve(self, metric: str) -> dict[int, float]:
        """Return epoch -> value, without the epochs that had none."""
        pairs = zip(self.epochs, self.values.get(metric, ()), strict=False)
        return {epoch: value for epoch, value in pairs if value != _NULL}

    def best(self, metric: str, mode: str) -> tuple[float, int] | None:
        """Return the best value of a metric and its epoch; None where it was never reported."""
        return (self.lowest if mode == "min" else self.highest).get(metric)

    def _index(self, epoch: int) -> int | None:
        index = bisect_left(self.epochs, epoch)
        return index if index < len(self.epochs) and self.epochs[index] == epoch else None

    def report(self, epoch: int, metrics: dict[str, float | None]) -> None:
        """Take in the metrics of an epoch; the first report of one counts."""
        at = len(self.epochs)
        if at and epoch <= self.epochs[-1]:
            at = bisect_left(self.epochs, epoch)
            if self.epochs[at] == epoch:
                return
        else:
            self.last = metrics
        self.epochs.insert(at, epoch)
        for name, column in self.values.items():
            value = metrics.get(name)
            if value is None:
                column.insert(at, _NULL)
                continue
            column.insert(at, value)
            if name not in self.lowest or value < self.lowest[name][0]:
                self.lowest[name] = (value, epoch)
            if name not in self.highest or value > self.highest[name][0]:
                self.highest[name] = (value, epoch)


@dataclass(frozen=True)
class Attempt:
    """One try at a trial, as it is asked of a process."""

    number: int
    """The trial's."""
    overrides: list[str]
    """Its point."""
    until: int | None = None
    """The epoch that it pauses after."""


@dataclass
class SweepState:
    """A sweep as its journal tells it."""

    identity: dict[str, Any] = field(default_factory=dict)
    spec: dict[str, Any] = field(default_factory=dict)
    trials: dict[int, TrialRecord] = field(default_factory=dict)
    live: dict[int, TrialRecord] = field(default_factory=dict)
    """Those that have not ended."""
    warm: list[WarmPoint] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    """Of its last driver."""
    closed: str = ""
    """Why the last driver went; empty if it was killed or is still there."""
    seconds: float = 0.0
    """How long its drivers have worked, all together."""
    records: int = 0
    """How many were applied: what was computed from a state holds as long as this is the same."""
    time: float = 0.0
    """Of the last record."""
    counts: Counter[Status] = field(default_factory=Counter)
    spent: Cost = Cost()
    """Without what the attempts that run now have taken."""

    def apply(self, record: Mapping[str, Any]) -> None:
        kind, time = record["kind"], record["time"]
        if kind not in ("sweep", "reopen"):  # a session begins with these
            self.seconds += time - self.time
        self.time = time
        self.records += 1
        if "trial" in record and kind not in ("point", "warm"):
            self._TRIAL[kind](self, self.trials[record["trial"]], record)
        else:
            self._SWEEP[kind](self, record)

    def _on_sweep(self, record: Mapping[str, Any]) -> None:
        self.identity, self.spec, self.closed = record["identity"], record["spec"], ""
        self.command = record.get("command", [])
        self.nothing_runs()

    def _on_close(self, record: Mapping[str, Any]) -> None:
        self.closed = record["reason"]
        self.nothing_runs()

    def nothing_runs(self) -> None:
        """A driver that comes or goes has no processes: its trials wait."""
        for trial in self.live.values():
            if trial.status == "running":
                self._move(trial, "waiting")

    def _on_warm(self, record: Mapping[str, Any]) -> None:
        self.warm.append(WarmPoint(record["source"], record["trial"], record["point"], record["values"]))

    def _on_point(self, record: Mapping[str, Any]) -> None:
        number, point, overrides = record["trial"], record["point"], record["overrides"]
        trial = TrialRecord(
            number, record.get("group", number), record.get("repeat", 0), point, overrides, record.get("notes", {})
        )
        trial.first_point, trial.first_overrides = point, overrides
        trial.values = {metric.name: array("d") for metric in self.metrics}
        self.trials[number] = self.live[number] = trial
        self.counts["waiting"] += 1

    def _on_attempt(self, trial: TrialRecord, record: Mapping[str, Any]) -> None:
        trial.attempts, trial.under_way = record["attempt"], True
        trial.began = trial.began or record["time"]
        self._fold(trial)
        self._move(trial, "running")

    def _on_result(self, trial: TrialRecord, record: Mapping[str, Any]) -> None:
        trial.report(record["epoch"], record["metrics"])
        trial.node = record.get("node", trial.node)
        trial.parameters = record.get("parameters", trial.parameters)
        # Format 1 had the attempt's seconds alone.
        trial.spending = record["cost"] if "cost" in record else {"wall": record["seconds"]}

    def _on_pause(self, trial: TrialRecord, record: Mapping[str, Any]) -> None:
        trial.paused_at, trial.under_way = record["epoch"], False
        trial.spending = record.get("cost", trial.spending)
        self._move(trial, "paused")

    def _on_release(self, trial: TrialRecord, record: Mapping[str, Any]) -> None:
        trial.released_at, trial.paused_at = trial.paused_at or 0, None
        self._move(trial, "waiting")

    def _on_exploit(self, trial: TrialRecord, record: Mapping[str, Any]) -> None:
        exploit = Exploit(record["epoch"], record["donor"], record["point"], record["overrides"])
        trial.exploits.append(exploit)
        trial.point, trial.overrides = exploit.point, exploit.overrides
        trial.lowest, trial.highest = {}, {}  # of weights that it has no more, trained at another point
        self._on_release(trial, record)

    def _on_lost(self, trial: TrialRecord, record: Mapping[str, Any]) -> None:
        trial.lost, trial.paused_at = trial.lost + 1, None
        trial.reason = record["reason"]
        trial.spending = record.get("cost", trial.spending)
        self._move(trial, "waiting")

    def _on_end(self, trial: TrialRecord, record: Mapping[str, Any]) -> None:
        trial.reason, trial.ended, trial.paused_at = record["reason"], record["time"], None
        trial.spending = record.get("cost", trial.spending)
        trial.parameters = record.get("parameters", trial.parameters)
        self._move(trial, record["status"])
        del self.live[trial.number]
        self._fold(trial)

    def _on_reopen(self, trial: TrialRecord, record: Mapping[str, Any]) -> None:
        trial.reason, trial.ended, trial.under_way, trial.lost = "", None, False, 0
        self.live[trial.number] = trial
        self._move(trial, "waiting")

    def _fold(self, trial: TrialRecord) -> None:
        """The attempt is over: what it took stands."""
        if trial.spending:
            cost = Cost(**trial.spending)
            trial.spent, trial.spending = trial.spent + cost, {}
            self.spent += cost

    def _move(self, trial: TrialRecord, status: Status) -> None:
        self.counts[trial.status] -= 1
        self.counts[status] += 1
        trial.status = status

    _SWEEP: ClassVar[dict[str, Callable[..., None]]] = {
        "sweep": _on_sweep, "close": _on_close, "warm": _on_warm, "point": _on_point,
    }  # fmt: skip
    _TRIAL: ClassVar[dict[str, Callable[..., None]]] = {
        "attempt": _on_attempt, "result": _on_result, "pause": _on_pause, "release": _on_release,
        "exploit": _on_exploit, "lost": _on_lost, "end": _on_end, "reopen": _on_reopen,
    }  # fmt: skip

    @property
    def metrics(self) -> list[MetricSpec]:
        """Those of the sweep; the first ranks."""
        named = [self.spec["metric"], *self.spec.get("more_metrics", [])] if "metric" in self.spec else []
        return [MetricSpec(**metric) for metric in named]

    def count(self, *statuses: Status) -> int:
        return sum(self.counts[status] for status in statuses)

    @property
    def cost(self) -> Cost:
        """Of all trials together."""
        return sum((Cost(**trial.spending) for trial in list(self.live.values()) if trial.spending), self.spent)

    def saved(self, max_epochs: int | None = None) -> float:
        """Estimate the seconds that the trials stopped by the scheduler would have taken to their last epoch.

        Args:
            max_epochs: None: ``budget.epochs``, else the most that any trial has had.
        """
        trials = list(self.trials.values())
        last = max_epochs or self.spec.get("budget", {}).get("epochs") or max((t.epoch for t in trials), default=0)
        stopped = [t for t in trials if t.status == "stopped" and t.epoch and not t.reason.startswith("budget.")]
        return sum(max(0, last - trial.epoch) * trial.cost.wall / trial.epoch for trial in stopped)

    def groups(self) -> dict[int, list[TrialRecord]]:
        """Return the trials of each point."""
        groups: dict[int, list[TrialRecord]] = {}
        for trial in list(self.trials.values()):
            groups.setdefault(trial.group, []).append(trial)
        return groups

    def ranked(self, metric: str, mode: str) -> list[TrialRecord]:
        """Return the trials best first; those without a value of the metric last."""
        sign = 1 if mode == "min" else -1

        def rank(trial: TrialRecord) -> tuple[bool, float, int]:
            best = trial.best(metric, mode) if trial.usable else None
            return (not trial.usable, sign * best[0] if best else math.inf, trial.number)

        return sorted(self.trials.values(), key=rank)

    def ranked_groups(self, metric: str, mode: str) -> list[GroupRank]:
        """Return the points best first; one that lacks a repeat stands behind all that are complete."""
        sign = 1 if mode == "min" else -1
        repeats = self.spec.get("repeats", 1)

        def rank(group: GroupRank) -> tuple[bool, float, int]:
            mean = math.inf if group.mean is None else sign * group.mean
            return (len(group.values) < repeats, mean, group.group)

        return sorted((rank_group(*group, metric, mode) for group in self.groups().items()), key=rank)
