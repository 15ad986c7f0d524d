"""Which checkpoints of a sweep are kept: those of the trials at work, and of the best that have ended.

A trial that has not ended is left alone: its own run keeps its best and its newest.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

from rayconvai.errors import CheckpointError, StorageError
from rayconvai.experiment.layout import RunLayout
from rayconvai.experiment.mirror import Mirror, address_of, in_step
from rayconvai.sweep.checkpoints import best_first
from rayconvai.sweep.spec import SweepSpec
from rayconvai.sweep.state import SweepState, TrialRecord, trial_dir

log = logging.getLogger(__name__)

SETTLING = 60.0
"""Seconds: a trial that was stopped may still be writing its last checkpoint."""


class Retention:
    """Deletes the checkpoints that need not be kept, whenever a trial has ended.

    Kept are those of the best ``checkpoints.keep`` points that have ended, with all their repeats, and of points that
    some repeats are still to come of. Of these the worst trials go until the checkpoints of the whole sweep fit into
    ``checkpoints.gigabytes``; the best one of the best trial always stays.

    It looks once at each trial that has ended, and afterwards only at those that it kept.
    """

    def __init__(self, directory: Path, state: SweepState, spec: SweepSpec) -> None:
        self.directory, self.state, self.spec, self.metric = directory, state, spec, spec.metric
        self._live: set[int] = set()
        self._next = 0
        """Trials from this number on were not there yet."""
        self._ended: set[int] = set()
        """Those that have ended and may have checkpoints."""
        self._sizes: dict[int, int] = {}
        """Their bytes, where they were asked for."""
        self._thinned: int | None = None
        self._told = False

    def reported(self, trial: TrialRecord) -> None:
        """Nothing: a trial at work looks after its own."""

    def lost(self, trial: TrialRecord) -> None:
        """Nothing: it goes on."""

    def took_over(self, trial: TrialRecord) -> None:
        """Nothing: it goes on."""

    def ended(self, trial: TrialRecord) -> None:
        """Delete what has become superfluous; what cannot be deleted is a warning."""
        self._apply(time.time())

    def finish(self) -> None:
        """Do the same when no trial's process is left, for all that have ended: none can be writing any more."""
        self._next = 0
        self._sizes.clear()
        self._apply(math.inf)

    def _apply(self, now: float) -> None:
        self._take_in()
        kept = []
        for trial, keep in self._ranked():
            if keep:
                kept.append(trial)
            elif trial.status != "stopped" or now - (trial.ended or 0) > SETTLING:
                self._delete(trial)
        if self.spec.checkpoints.gigabytes is not None:
            self._fit(kept, self.spec.checkpoints.gigabytes * 1e9)

    def _take_in(self) -> None:
        """Find the trials that ended since the last time, and those that were taken up again."""
        state = self.state
        new = range(self._next, max(state.trials, default=-1) + 1)
        self._ended.update(number for number in (*self._live, *new) if number not in state.live)
        self._ended -= state.live.keys()
        self._live, self._next = set(state.live), new.stop
        for number in self._sizes.keys() - self._ended:
            del self._sizes[number]
        self._thinned = None if self._thinned in state.live else self._thinned

    def _ranked(self) -> list[tuple[TrialRecord, bool]]:
        """Return the ended trials, best first, and whether they are to keep their checkpoints."""
        state, repeats = self.state, self.spec.repeats
        numbers = {group * repeats + i for group in {n // repeats for n in self._ended} for i in range(repeats)}
        trials = {number: state.trials[number] for number in sorted(numbers & state.trials.keys())}
        part = SweepState(state.identity, state.spec, trials)
        found, points = [], 0
        for rank in part.ranked_groups(self.metric.name, self.metric.mode):
            ended = [trial for trial in rank.trials if trial.number in self._ended]
            if whole := sum(trial.number not in state.live for trial in rank.trials) == repeats:
                points += 1
            keep = not whole or (rank.mean is not None and points <= self.spec.checkpoints.keep)
            found += [(trial, keep) for trial in sorted(ended, key=self._worth)]
        return found

    def _worth(self, trial: TrialRecord) -> float:
        best = trial.best(self.metric.name, self.metric.mode)
        return math.inf if best is None else best[0] if self.metric.mode == "min" else -best[0]

    def _fit(self, kept: list[TrialRecord], most: float) -> None:
        for trial in kept:
            if trial.number not in self._sizes:
                self._sizes[trial.number] = _size(self._checkpoints(trial))
        total = sum(self._sizes[trial.number] for trial in kept)
        total += sum(_size(self._checkpoints(trial)) for trial in self.state.live.values())
        for trial in reversed(kept[1:]):
            if total > most:
                total -= self._sizes[trial.number]
                self._delete(trial)
        if total > most and kept and kept[0].number != self._thinned:
            total -= self._thin_out(kept[0])
        if total > most and not self._told:
            self._told = True
            log.warning(
                "the sweep's checkpoints take %.3g GB, more than checkpoints.gigabytes=%g; those left belong to trials "
                "at work, or are the best", total / 1e9, most / 1e9,
            )  # fmt: skip

    def _thin_out(self, trial: TrialRecord) -> int:
        """Delete all of a trial's checkpoints but the best; return how many bytes that gave."""
        self._thinned = trial.number
        run_dir = trial_dir(self.directory, trial.number)
        try:
            with in_step(run_dir):
                left = best_first(run_dir, trial, self.metric)
                for path in self._checkpoints(trial).iterdir() if left else ():
                    if not path.name.startswith(left[0].path.name):  # its stamp is called after it
                        path.unlink()
        except (OSError, CheckpointError) as error:
            log.warning("the checkpoints of %s cannot be made fewer: %s", trial.name, error)
        before, now = self._sizes[trial.number], _size(self._checkpoints(trial))
        self._sizes[trial.number] = now
        return before - now

    def _delete(self, trial: TrialRecord) -> None:
        self._ended.discard(trial.number)
        self._sizes.pop(trial.number, None)
        path = self._checkpoints(trial)
        try:
            if (address := address_of(path)) is not None:
                Mirror(address).remove()
            shutil.rmtree(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            log.warning("the checkpoints of %s cannot be deleted: %s", trial.name, error.strerror or error)

    def _checkpoints(self, trial: TrialRecord) -> Path:
        return RunLayout(trial_dir(self.directory, trial.number)).checkpoints


def _size(directory: Path) -> int:
    """Return the bytes of the files in a directory, which others may be changing."""
    if (address := address_of(directory)) is not None:
        with suppress(StorageError):  # a bucket that cannot be read now will be asked again
            return sum(Mirror(address).sizes().values())
        return 0
    total = 0
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                total += entry.stat().st_size
    except OSError:  # it is not there, or a file went meanwhile
        pass
    return total
