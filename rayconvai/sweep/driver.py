"""The driver: one Ray Tune run that starts attempts and brings back what became of them.

Each attempt at a trial is a Tune trial of its own. What runs, how long, and what follows is the engine's to say.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray import cloudpickle, tune
from ray.tune.search import Searcher as TuneSearcher
from ray.tune.stopper import Stopper
from rich.console import Console

from rayconvai.config.run import ResourcesConfig
from rayconvai.errors import RayconvaiError, StorageError
from rayconvai.experiment.interrupt import on_signals
from rayconvai.places import working_copy
from rayconvai.sweep.cluster import check_nodes, cluster, concurrency
from rayconvai.sweep.engine import Engine
from rayconvai.sweep.hang import hang_reason
from rayconvai.sweep.orphans import PLACEMENT_GROUP, Groups
from rayconvai.sweep.plan import of_trial
from rayconvai.sweep.state import trial_name
from rayconvai.sweep.stop import StopSign
from rayconvai.sweep.trial import TrialProcess, TrialSettings
from rayconvai.train.address import is_local
from rayconvai.train.line import death

T = TypeVar("T")


def run_sweep(engine: Engine, settings: TrialSettings, console: Console) -> str:
    """Run the trials that are not done yet; return why the sweep ended.

    Returns:
        done, interrupted, failed (for one reason, all), or the part of the budget that is used up.

    Raises:
        SweepError: no node of the cluster can hold a trial.
        StorageError: the journal, or what a trial leaves, cannot be written.
    """
    spec = engine.spec
    scratch = str(working_copy(settings.place) / ".tune")
    resources = of_trial(spec.resources)
    with cluster(resources) as dashboard:
        if dashboard:
            console.print(f"Ray dashboard: http://{dashboard}", highlight=False)
        if not is_local():
            check_nodes(resources, engine.journal.part(), dataclasses.asdict(settings))
        events = _Events(engine, settings)
        stopper = _Stop(events, settings)
        trainable = tune.with_resources(tune.with_parameters(TrialProcess, settings=settings), _of_process(resources))
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                num_samples=-1,
                search_alg=_Attempts(events),
                max_concurrent_trials=concurrency(resources, spec.resources.concurrent),
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="run",
                storage_path=scratch,
                verbose=0,
                stop=stopper,
                callbacks=[events],
                # Runs keep their own checkpoints, and the engine counts what was lost.
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                failure_config=tune.FailureConfig(max_failures=0),
            ),
        )
        try:
            with on_signals(stopper.hear):
                tuner.fit()
            if events.error is not None:
                raise events.error
        except Exception as error:
            if events.error not in (None, error):
                raise events.error from error
            raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            stopper.sign.take_down()
    return engine.over() or ("interrupted" if stopper.told else "done")


class _Events(tune.Callback):
    """Hears of attempts from Tune and tells the engine. What the engine cannot do ends the sweep."""

    def __init__(self, engine: Engine, settings: TrialSettings) -> None:
        self.engine, self.settings = engine, settings
        self.error: RayconvaiError | None = None
        self.trials: dict[int, Any] = {}
        self.began: dict[int, float] = {}
        self.killed: dict[int, str] = {}
        self.groups = Groups()

    def tell(self, act: Callable[..., T], *args: Any, otherwise: T) -> T:
        """Tell the engine; an error is kept for the end: Tune would make a text of whatever is raised."""
        try:
            return act(*args)
        except RayconvaiError as error:
            self.error = self.error or error
            return otherwise

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        number = trial.config["number"]
        self.trials[number], self.began[number] = trial, time.time()
        self.tell(self.engine.started, number, otherwise=None)

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        number = trial.config["number"]
        if PLACEMENT_GROUP in result:
            self.groups.claim(number, result[PLACEMENT_GROUP])
        if "end" not in result:
            return
        if result["end"] == "interrupted" and result["reason"]:
            self.error = self.error or StorageError(
                f"{trial_name(number)}: {result['reason']}; the same command then goes on"
            )
        self.tell(self.engine.ended, number, result, otherwise=None)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        number = trial.config["number"]
        self.trials.pop(number, None)
        self.killed.pop(number, None)  # it came to its end before that
        self.groups.ended(number)
        self.engine.gone(number)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        number = trial.config["number"]
        self.trials.pop(number, None)
        since = self.began.pop(number, math.inf)
        if self.engine.spec.resources.workers > 1:
            self.groups.died(number, set(self.trials))
        reason = self.killed.pop(number, "") or hang_reason(self.settings.run_dir(number), since)
        error, text = _error(trial)
        memory = "due to the node running low on memory" in text
        self.tell(self.engine.lost, number, reason or death(error), memory, otherwise=None)

    def kill_silent(self) -> None:
        """End the processes that say nothing any more."""
        for number in self.engine.silent():
            trial = self.trials.get(number)
            if trial is not None and trial.temporary_state.ray_actor is not None and number not in self.killed:
                self.killed[number] = f"no report in {self.engine.spec.timeout:g} s"
                ray.kill(trial.temporary_state.ray_actor)

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Attempts(TuneSearcher):
    """Where Tune gets its trials from."""

    def __init__(self, events: _Events) -> None:
        super().__init__(metric=events.engine.spec.metric.name, mode=events.engine.spec.metric.mode)
        self.events = events

    def suggest(self, trial_id: str) -> Any:
        engine = self.events.engine
        if self.events.error is None and not engine.over():
            attempt = self.events.tell(engine.next_attempt, otherwise=None)
            if attempt is not None:
                return dataclasses.asdict(attempt)
            if engine.at_work:
                return None
        return TuneSearcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None: ...

    # The journal is the state; Tune's snapshots hold nothing.
    def save(self, checkpoint_path: str) -> None: ...
    def restore(self, checkpoint_path: str) -> None: ...
    def __getstate__(self) -> dict[str, Any]:
        return {}


def _of_process(resources: ResourcesConfig) -> dict[str, float]:
    """Return what the process of a trial takes, in Tune's names."""
    if resources.has_workers:
        return {"node:__internal_head__": 0.001}  # nothing but a place that is safe: its workers take the rest
    needs = resources.of_a_worker()
    return {{"CPU": "cpu", "GPU": "gpu"}.get(name, name): amount for name, amount in needs.items()}


def _error(trial: Any) -> tuple[Exception | None, str]:
    """Return what ended an attempt: the error, of the kinds that Tune keeps, and its text.

    Tune's own accessors look in its storage, where only its snapshots would put these files.
    """
    kept, said = trial.pickled_error_file, trial.error_file
    error = cloudpickle.loads(Path(kept).read_bytes()) if kept else None
    return error, Path(said).read_text(encoding="utf-8") if said else ""


class _Stop(Stopper):
    """Ends the sweep when its budget is used up, there is no hope, or somebody says so."""

    def __init__(self, events: _Events, settings: TrialSettings) -> None:
        self.events, self.sign = events, StopSign(settings.place)
        self.told = False
        self.sign.take_down()

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Take an attempt's report to the engine; return whether it is to be the last."""
        if "end" in result or PLACEMENT_GROUP in result:
            return False
        number = result["config"]["number"]
        return not self.events.tell(self.events.engine.reported, number, result, otherwise=False)

    def stop_all(self) -> bool:
        self.events.kill_silent()
        if self.told or self.events.error is not None or self.events.engine.over():
            self.sign.put_up()
            return True
        return False

    def hear(self, number: int, before: Any) -> None:
        """Let the first Ctrl-C or SIGTERM stop the trials at their next batch; a second one ends at once."""
        self.told = True
        signal.signal(number, before)

    def __getstate__(self) -> dict[str, Any]:
        return {}
