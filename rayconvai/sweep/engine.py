"""What a sweep does next: which trial runs, for how long, and what follows from how it went.

Everything is decided from the state that the journal gives, and written there before it is done. Nothing here knows
how a trial is run: the driver says what happened and asks for work.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any, Protocol

from rayconvai.errors import CheckpointError
from rayconvai.sweep.budget import budget_over, hopeless, reaches_target
from rayconvai.sweep.domains import Point
from rayconvai.sweep.grammar import to_overrides
from rayconvai.sweep.journal import Journal
from rayconvai.sweep.ranking import outcome
from rayconvai.sweep.scheduler import Go, Scheduler, Stop, TakeOver
from rayconvai.sweep.search import Searcher
from rayconvai.sweep.spec import SweepSpec
from rayconvai.sweep.state import ENDED, Attempt, Status, SweepState, TrialRecord

Report = Mapping[str, Any]
"""What a trial hands over: see trial.py."""


class Listener(Protocol):
    """Who is told what happens: the display, and who cleans up after trials."""

    def reported(self, trial: TrialRecord) -> None: ...
    def ended(self, trial: TrialRecord) -> None: ...
    def lost(self, trial: TrialRecord) -> None: ...
    def took_over(self, trial: TrialRecord) -> None: ...


class Engine:
    """Gives out work and takes in what became of it."""

    def __init__(
        self,
        spec: SweepSpec,
        journal: Journal,
        searcher: Searcher,
        scheduler: Scheduler,
        *,
        seeds: Sequence[int],
        take_over: Callable[[int, int, int], object],
        listeners: Sequence[Listener] = (),
    ) -> None:
        """Make the engine of a session.

        Args:
            spec: the sweep's.
            journal: open.
            searcher: has been told what the journal knows.
            scheduler: of the sweep.
            seeds: of the repeats of a point.
            take_over: called with donor, member and epoch; puts the donor's checkpoint where the member goes on from.
            listeners: told of every report and end.
        """
        self.spec, self.journal, self.searcher, self.scheduler = spec, journal, searcher, scheduler
        self.seeds, self.take_over, self.listeners = seeds, take_over, listeners
        self.total = trials_of(spec, searcher)
        self.at_work: dict[int, float] = {}
        """Trial -> when it was last heard of."""
        self.hopeless = ""
        self._exhausted = False
        self._changed = True
        self._began, self._before = time.monotonic(), self.state.seconds
        self._over, self._over_is_old = "", True

    @property
    def state(self) -> SweepState:
        return self.journal.state

    def next_attempt(self) -> Attempt | None:
        """Return an attempt to begin; None: there is none now, and none ever if nobody is at work.

        Raises:
            StorageError: the journal cannot be written.
        """
        # That there are no new trials may release some that wait.
        attempt = self._unfinished() or self._new() or self._unfinished()
        if attempt is not None:
            self.at_work[attempt.number] = time.monotonic()
        return attempt

    def started(self, number: int) -> None:
        """An attempt has begun."""
        self.at_work[number] = time.monotonic()
        self._append("attempt", trial=number, attempt=self.state.trials[number].attempts + 1)

    def reported(self, number: int, report: Report) -> bool:
        """An epoch has ended; return whether the trial goes on."""
        self.at_work[number] = time.monotonic()
        trial = self.state.trials[number]
        if report["epoch"] > trial.epoch:  # else the attempt went over an earlier one's ground
            fields = {key: report[key] for key in ("epoch", "step", "metrics", "cost") if key in report}
            for key in ("node", "parameters"):
                if key in report and report[key] != getattr(trial, key):
                    fields[key] = report[key]
            self._append("result", trial=number, attempt=trial.attempts, **fields)
            self._over = self._over or ("budget.target" if reaches_target(trial, self.spec) else "")
            for listener in self.listeners:
                listener.reported(trial)
        if report["epoch"] == trial.epoch and self.scheduler.stops(self.state, trial):
            self._end(number, "stopped", "", cost=report["cost"])
            return False
        return not self.over()

    def ended(self, number: int, report: Report) -> None:
        """An attempt has come to its end by itself."""
        self.at_work.pop(number, None)
        status, trial = report["end"], self.state.trials[number]
        if trial.status in ENDED or status == "interrupted":
            return
        if status == "paused":
            self._append("pause", trial=number, epoch=trial.epoch, cost=report["cost"])
            return
        known = {key: report[key] for key in ("cost", "parameters") if key in report}
        self._end(number, status, report["reason"], **known)

    def lost(self, number: int, reason: str, infeasible: bool = False) -> None:
        """An attempt's process or machine died; ``infeasible``: because of what the trial took."""
        self.at_work.pop(number, None)
        trial = self.state.trials[number]
        if trial.status in ENDED or trial.status == "paused":  # it died of old age, its work done
            return
        if infeasible:
            self._end(number, "infeasible", reason)
            return
        self._lose(trial, reason)

    def gone(self, number: int) -> None:
        """An attempt is over, whatever it said."""
        self.at_work.pop(number, None)

    def silent(self) -> list[int]:
        """Return the trials that have not been heard of for too long."""
        if self.spec.timeout is None:
            return []
        # A trial looks after itself; this is for one whose process is frozen.
        limit = time.monotonic() - 1.5 * self.spec.timeout - _SILENCE_MARGIN
        return [number for number, heard in self.at_work.items() if heard < limit]

    def over(self) -> str:
        """Return which part of the budget is used up; empty: none."""
        if self.hopeless:
            return self.hopeless
        seconds = self._before + time.monotonic() - self._began
        if self._over_is_old or (self.spec.budget.hours is not None and seconds >= self.spec.budget.hours * 3600):
            self._over_is_old = False
            self._over = self._over or budget_over(self.spec, self.state, seconds)
        return self._over

    def _unfinished(self) -> Attempt | None:
        self._release()
        idle = [
            trial
            for trial in self.state.live.values()
            if trial.status == "waiting" and trial.number not in self.at_work
        ]
        # What was under way comes first, as it would have had it not been interrupted.
        for trial in sorted(idle, key=lambda trial: (not trial.under_way, trial.number)):
            if trial.under_way and trial.epoch and self.scheduler.stops(self.state, trial):
                self._end(trial.number, "stopped", "")
                self._release()
                continue
            return self._attempt(trial)
        return None

    def _new(self) -> Attempt | None:
        if self._exhausted:
            return None
        number = len(self.state.trials)
        if self.total is not None and number >= self.total:
            self._exhausted = self._changed = True
            return None
        group, repeat = divmod(number, self.spec.repeats)
        if repeat:
            point: Point | None = self.state.trials[number - 1].point
            notes = {}
        else:
            point = self.searcher.ask(group)
            notes = {} if point is None else self.searcher.notes(group)
        if point is None:
            self._exhausted = self._changed = True
            return None
        overrides = to_overrides(point)
        if self.spec.repeats > 1:
            overrides.append(f"seed={self.seeds[repeat]}")
        self._append("point", trial=number, group=group, repeat=repeat, point=point, overrides=overrides, notes=notes)
        return self._attempt(self.state.trials[number])

    def _attempt(self, trial: TrialRecord) -> Attempt:
        return Attempt(trial.number, trial.overrides, self.scheduler.until(trial))

    def _release(self) -> None:
        if not self._changed:
            return
        self._changed = False
        for order in self.scheduler.release(self.state, exhausted=self._exhausted):
            if isinstance(order, Go):
                self._append("release", trial=order.trial)
            elif isinstance(order, Stop):
                self._end(order.trial, "stopped", "")
            elif not self._take_over(order):
                return

    def _take_over(self, order: TakeOver) -> bool:
        """Let a trial take over a checkpoint; return whether the donor had it, else it has to make it anew."""
        try:
            self.take_over(order.donor, order.trial, order.epoch)
        except CheckpointError as error:
            self._lose(self.state.trials[order.donor], f"its checkpoint of epoch {order.epoch} is damaged: {error}")
            return False
        overrides = to_overrides(order.point)
        fields = {"epoch": order.epoch, "donor": order.donor, "point": order.point, "overrides": overrides}
        self._append("exploit", trial=order.trial, **fields)
        for listener in self.listeners:
            listener.took_over(self.state.trials[order.trial])
        return True

    def _lose(self, trial: TrialRecord, reason: str) -> None:
        self._append("lost", trial=trial.number, attempt=trial.attempts, reason=reason)
        if trial.lost > self.spec.max_retries:
            self._end(trial.number, "failed", f"{reason}, in the last of {trial.attempts} attempts")
            return
        for listener in self.listeners:
            listener.lost(trial)

    def _end(self, number: int, status: Status, reason: str, **known: Any) -> None:
        self._append("end", trial=number, status=status, reason=reason, **known)
        trial = self.state.trials[number]
        tell(self.searcher, self.spec, self.state, trial.group)
        self.hopeless = self.hopeless or hopeless(self.spec, self.state)
        for listener in self.listeners:
            listener.ended(trial)

    def _append(self, kind: str, **fields: Any) -> None:
        self.journal.append(kind, **fields)
        self._changed = self._changed or kind not in ("attempt", "result")
        # What an epoch of one trial changes, beside the hours, is whether it reached the target.
        self._over_is_old = self._over_is_old or kind != "result" or self.spec.budget.gpu_hours is not None


_SILENCE_MARGIN = 30.0
"""Seconds."""


def trials_of(spec: SweepSpec, searcher: Searcher) -> int | None:
    """Return how many trials a sweep has: whole points only. None: no end."""
    points = [searcher.total] if searcher.total is not None else []
    if spec.budget.trials is not None:
        points.append(spec.budget.trials // spec.repeats)
    return min(points) * spec.repeats if points else None


def recall(searcher: Searcher, spec: SweepSpec, state: SweepState) -> None:
    """Tell a new searcher all that the journal knows."""
    for known in state.warm:
        searcher.learn(known.point, [known.values[metric.name] for metric in spec.metrics])
    for group, members in sorted(state.groups().items()):
        searcher.recall(group, members[0].first_point, members[0].notes)
        tell(searcher, spec, state, group)


def tell(searcher: Searcher, spec: SweepSpec, state: SweepState, group: int) -> None:
    """Tell the searcher how a point did, once all its trials have ended."""
    numbers = range(group * spec.repeats, (group + 1) * spec.repeats)
    members = [state.trials[number] for number in numbers if number in state.trials]
    if len(members) < spec.repeats or any(trial.status not in ENDED for trial in members):
        return
    usable = [trial for trial in members if trial.status in ("finished", "stopped")]
    values = [found for trial in usable if (found := outcome(trial, spec.metrics)) is not None]
    if any(trial.status == "infeasible" for trial in members):
        searcher.tell(group, None)
        return
    if not values:  # all failed, which says nothing of the point
        return
    stopped = [trial.epoch for trial in usable if trial.status == "stopped"]
    means = [fmean(column) for column in zip(*values, strict=True)]
    searcher.tell(group, means, stopped_at=max(stopped) if stopped else None)
