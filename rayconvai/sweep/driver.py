"""The driver: one Ray Tune run, whose every event goes into the journal and from there to searcher and display."""

from __future__ import annotations

import dataclasses
import math
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

from ray import tune
from ray.exceptions import ActorUnavailableError, RayActorError
from ray.tune.search import Searcher as TuneSearcher
from ray.tune.stopper import Stopper

from rayconvai.errors import RayconvaiError, StorageError
from rayconvai.sweep.address import is_local
from rayconvai.sweep.cluster import check_nodes, cluster, concurrency
from rayconvai.sweep.display import Display
from rayconvai.sweep.journal import ENDED, Journal, Status, SweepState
from rayconvai.sweep.scheduler import build_scheduler
from rayconvai.sweep.search import Searcher
from rayconvai.sweep.space import to_overrides
from rayconvai.sweep.spec import SweepSpec
from rayconvai.sweep.trial import TrialProcess, TrialSettings

FIRST_FAILURES = 3
"""If this many trials fail and none has worked yet, the sweep stops: the fault is not theirs."""


@dataclass(frozen=True)
class Sweep:
    """A sweep ready to run."""

    spec: SweepSpec
    journal: Journal
    searcher: Searcher
    settings: TrialSettings
    max_epochs: int
    total: int | None

    @property
    def state(self) -> SweepState:
        return self.journal.state


def run_sweep(sweep: Sweep, display: Display) -> str:
    """Run the trials that are not done yet; return why the sweep ended: done, interrupted, failed, budget.hours.

    Raises:
        SweepError: no node of the cluster can hold a trial.
        StorageError: the journal, or what a trial leaves, cannot be written.
    """
    spec, state = sweep.spec, sweep.state
    scratch = sweep.settings.directory + "/.tune"
    with cluster(spec.resources), display:
        if not is_local():
            check_nodes(spec.resources, sweep.journal.segment, dataclasses.asdict(sweep.settings))
        recorder = _Recorder(sweep, display)
        stopper = _Stop(sweep, recorder)
        trainable = tune.with_resources(
            tune.with_parameters(TrialProcess, settings=sweep.settings),
            {"cpu": spec.resources.cpus, "gpu": spec.resources.gpus},
        )
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                num_samples=-1,
                search_alg=_Proposals(sweep),
                scheduler=build_scheduler(spec.scheduler, spec.metric, sweep.max_epochs, state),
                max_concurrent_trials=concurrency(spec.resources),
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="run",
                storage_path=scratch,
                verbose=0,
                stop=stopper,
                callbacks=[recorder],
                # Runs keep their own checkpoints.
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                failure_config=tune.FailureConfig(max_failures=spec.max_retries),
            ),
        )
        try:
            with stopper.on_signals():
                tuner.fit()
            if recorder.error is not None:
                raise recorder.error
        except Exception as error:
            if recorder.error not in (None, error):
                raise recorder.error from error
            raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            sweep.settings.stop_file.unlink(missing_ok=True)
    return _closing_reason(sweep, stopper, recorder)


def _closing_reason(sweep: Sweep, stopper: _Stop, recorder: _Recorder) -> str:
    running = [trial for trial in sweep.state.trials.values() if trial.status not in ENDED]
    reason = "done" if not running else "interrupted"
    if recorder.hopeless:
        reason = "failed"
    elif stopper.out_of_time:
        reason = "budget.hours"
        for trial in running:
            recorder.end(trial.number, "stopped", reason)
    sweep.journal.append("close", reason=reason)
    return reason


class _Proposals(TuneSearcher):
    """Our searcher as Tune knows one. First come the trials that an earlier session left unfinished."""

    def __init__(self, sweep: Sweep) -> None:
        super().__init__(metric=sweep.spec.metric.name, mode=sweep.spec.metric.mode)
        self.sweep = sweep
        trials = sweep.state.trials
        self.unfinished = sorted(number for number, trial in trials.items() if trial.status not in ENDED)
        self.next_number = max(trials, default=-1) + 1

    def suggest(self, trial_id: str) -> Any:
        trials = self.sweep.state.trials
        if self.unfinished:
            trial = trials[self.unfinished.pop(0)]
            return {"number": trial.number, "overrides": trial.overrides}
        if self.sweep.total is not None and len(trials) >= self.sweep.total:
            return TuneSearcher.FINISHED
        point = self.sweep.searcher.ask(self.next_number)
        if point is None:
            return TuneSearcher.FINISHED
        number, self.next_number = self.next_number, self.next_number + 1
        overrides = to_overrides(point)
        self.sweep.journal.append("point", trial=number, point=point, overrides=overrides)
        return {"number": number, "overrides": overrides}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The recorder tells the searcher: it knows how the trial ended."""

    # The journal is the state; Tune's snapshots hold nothing.
    def save(self, checkpoint_path: str) -> None: ...
    def restore(self, checkpoint_path: str) -> None: ...
    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Recorder(tune.Callback):
    """Writes what happens into the journal, then tells searcher and display."""

    def __init__(self, sweep: Sweep, display: Display) -> None:
        self.sweep, self.display = sweep, display
        self.error: RayconvaiError | None = None
        self.hopeless = False

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        number = trial.config["number"]
        self._append("attempt", trial=number, attempt=self.sweep.state.trials[number].attempts + 1)

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        record = self.sweep.state.trials[trial.config["number"]]
        if result.get("end") == "interrupted":
            if result["reason"]:
                self.error = StorageError(f"{record.name}: {result['reason']}; the same command then goes on")
            return
        if "end" in result:
            self.end(record.number, result["end"], result["reason"])
        elif result["epoch"] not in record.history:  # else an attempt went over an earlier one's ground
            fields = {key: result[key] for key in ("epoch", "metrics", "seconds")}
            self._append("result", trial=record.number, attempt=record.attempts, **fields)
            self.display.reported(record)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        record = self.sweep.state.trials[trial.config["number"]]
        if record.status not in ENDED and trial.last_result.get("end") != "interrupted":
            self.end(record.number, "stopped", "")

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        record = self.sweep.state.trials[trial.config["number"]]
        if record.status not in ENDED:  # else it died of old age, its work done
            self._append("lost", trial=record.number, attempt=record.attempts, reason=_death(trial))
            self.display.lost(record)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        number = trial.config["number"]
        attempts = self.sweep.state.trials[number].attempts
        self.end(number, "failed", f"{_death(trial)}, in the last of {attempts} attempts")

    def end(self, number: int, status: Status, reason: str) -> None:
        if self.sweep.state.trials[number].status in ENDED:
            return
        self._append("end", trial=number, status=status, reason=reason)
        record, state = self.sweep.state.trials[number], self.sweep.state
        tell(self.sweep, number)
        self.hopeless = state.count("failed") >= FIRST_FAILURES and state.count(*ENDED) == state.count("failed")
        self.display.ended(record)

    def _append(self, kind: str, **fields: Any) -> None:
        try:
            self.sweep.journal.append(kind, **fields)
        except RayconvaiError as error:
            self.error = error  # Tune makes a text of whatever is raised in here
            raise

    def __getstate__(self) -> dict[str, Any]:
        return {}


def _death(trial: Any) -> str:
    """Say how a trial's process died."""
    error = trial.get_pickled_error()
    if not isinstance(error, RayActorError):
        return f"its process could not go on: {type(error).__name__}" if error else "its process died"
    if error.actor_init_failed:
        return f"its process could not begin: {str(error).strip().splitlines()[-1]}"
    if error.preempted:
        return "its node was taken away"
    gone = isinstance(error, ActorUnavailableError) or "node has died" in str(error)
    return "its node died or cannot be reached" if gone else "its process died"


class _Stop(Stopper):
    """Ends the sweep when its hours are over, or there is no hope."""

    def __init__(self, sweep: Sweep, recorder: _Recorder) -> None:
        self.recorder, self.file = recorder, sweep.settings.stop_file
        self.out_of_time = self.told = False
        hours = sweep.spec.budget.hours
        self.deadline = math.inf if hours is None else time.monotonic() + hours * 3600 - sweep.state.seconds
        self.file.unlink(missing_ok=True)

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        self.out_of_time = self.out_of_time or time.monotonic() > self.deadline
        if self.out_of_time or self.recorder.hopeless or self.told or self.recorder.error is not None:
            with suppress(OSError):  # a full disk is what may have stopped the sweep
                self.file.touch()
            return True
        return False

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Let the first Ctrl-C or SIGTERM stop the trials at their next batch; a second one ends at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def handle(number: int, _: FrameType | None) -> None:
            self.told = True
            signal.signal(number, before[number] or signal.SIG_DFL)

        for number in before:
            signal.signal(number, handle)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler or signal.SIG_DFL)

    def __getstate__(self) -> dict[str, Any]:
        return {}


def tell(sweep: Sweep, number: int) -> None:
    """Tell the searcher how a trial ended."""
    trial = sweep.state.trials[number]
    best = trial.best(sweep.spec.metric.name, sweep.spec.metric.mode)
    usable = best is not None and trial.status in ("finished", "stopped")
    value = best[0] if best is not None and usable else None
    sweep.searcher.tell(number, value, stopped_at=trial.epoch if usable and trial.status == "stopped" else None)


def recall(sweep: Sweep) -> None:
    """Tell the searcher all that the journal knows."""
    for number, trial in sorted(sweep.state.trials.items()):
        sweep.searcher.recall(number, trial.point)
        if trial.status in ENDED:
            tell(sweep, number)
