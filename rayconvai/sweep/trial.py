"""A trial: a point becomes a config and a run, in the trial's own process.

Lightning runs in a thread of the process. At the end of each epoch with a validation it hands a report over and waits
until Tune asks for the next one, or ends the trial. The process then takes the next trial. One that is to pause at an
epoch ends there like one that has finished, and goes on from its checkpoint in another attempt.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import queue
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from omegaconf import DictConfig
from ray import tune

from rayconvai.config.compose import Composer
from rayconvai.errors import StorageError
from rayconvai.experiment.layout import RunLayout
from rayconvai.places import read, working_copy
from rayconvai.sweep.cost import Meter
from rayconvai.sweep.grammar import quote
from rayconvai.sweep.hang import hang_watch
from rayconvai.sweep.reports import Report, Reports
from rayconvai.sweep.state import Attempt, trial_dir, trial_name
from rayconvai.sweep.stop import StopSign
from rayconvai.sweep.verdict import judge
from rayconvai.train.address import enter
from rayconvai.train.fit import fit
from rayconvai.train.ray_facts import ray_facts
from rayconvai.train.runtime import Runtime


@dataclass(frozen=True, kw_only=True)
class TrialSettings:
    """What all trials of a sweep have in common; travels to their processes."""

    recipe: str
    config_dirs: tuple[str, ...]
    overrides: tuple[str, ...]
    place: str
    """The sweep's directory or address, seen by every node."""
    sweep: str
    """Its name."""
    workers: int = 1
    """Processes that train a trial; with more than one, not the trial's own."""
    metric: str
    """What ranks."""
    more_metrics: tuple[str, ...] = ()
    cpus: float
    """Of each worker, as are the GPUs."""
    gpus: float
    working_dir: str | None
    """Where relative paths in configs begin; None: where Ray puts the working directory of a job."""
    command: str = ""
    """What started the sweep."""
    timeout: float | None = None
    """Seconds without a report after which a trial's process ends itself: it hangs."""

    def run_dir(self, number: int) -> Path:
        """Where a trial works on this machine."""
        return trial_dir(working_copy(self.place), number)

    def run_place(self, number: int) -> str:
        """Where a trial is for good."""
        return f"{self.place}/trials/{trial_name(number)}"


class TrialProcess(tune.Trainable):
    """What Tune starts: one process, a trial after another."""

    def setup(self, config: Mapping[str, Any], settings: TrialSettings | None = None) -> None:
        assert settings is not None
        self.settings = settings
        torch.set_num_threads(max(1, int(settings.cpus)))
        with hang_watch(settings.run_dir(int(config["number"])), settings.timeout):
            _arrive(settings)
        self._begin(config)

    def step(self) -> Report:
        report = self.run.next_report()
        if report.get("end") == "lost":
            raise ChildProcessError(report["reason"])  # as if this process had died: the trial is tried again
        return report

    def reset_config(self, new_config: Mapping[str, Any]) -> bool:
        self.run.end()
        self._begin(new_config)
        return True

    def cleanup(self) -> None:
        self.run.end()

    def _begin(self, config: Mapping[str, Any]) -> None:
        attempt = Attempt(config["number"], config["overrides"], config["until"])
        watch = functools.partial(hang_watch, self.settings.run_dir(attempt.number), self.settings.timeout)
        self.run = _Run(lambda run: run_trial(self.settings, attempt, run.hand_over), watch)


def rehearse(settings: TrialSettings, part: str, written: bytes) -> None:
    """Find out whether trials can begin in this process: it has the sweep's directory, the code and the recipe.

    Args:
        settings: the trials'.
        part: of the journal that the driver writes.
        written: what it holds.

    Raises:
        StorageError: a directory is not the driver's, or the bucket cannot be read here.
        ConfigError: the recipe cannot be composed here.
    """
    if read(part) != written:
        raise StorageError(
            f"the sweep's directory {settings.place} is not the driver's; storage must be a path that all nodes share"
        )
    _arrive(settings)


def _arrive(settings: TrialSettings) -> None:
    enter(settings.working_dir, "sweep")
    _composer(settings).compose()  # what cannot be composed here at all is no fault of a point


class _Run:
    """Work in a thread that stands still between two reports; while it works, it is watched.

    It begins when the first report is asked for. Tune starts processes for an attempt that it then gives to another
    one: two of them must not be at work in one run's directory.
    """

    def __init__(
        self,
        work: Callable[[_Run], Report],
        watch: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        self._watch = watch
        self._reports: queue.SimpleQueue[Report] = queue.SimpleQueue()
        self._go = threading.Semaphore(0)
        self._begun = self._waiting = self._stopping = False
        self._thread = threading.Thread(target=lambda: self._reports.put(work(self)), name="trial", daemon=True)

    def next_report(self) -> Report:
        with self._watch():
            if not self._begun:
                self._begun = True
                self._thread.start()
            if self._waiting:
                self._waiting = False
                self._go.release()
            report = self._reports.get()
        self._waiting = True
        return report

    def hand_over(self, report: Report) -> bool:
        """Called by the work: give a report, wait, and return whether to go on."""
        if not self._stopping:
            self._reports.put(report)
            self._go.acquire()
        return not self._stopping

    def end(self) -> None:
        """Let the work come to its end, and wait for that; work that has not begun never does."""
        if not self._begun:
            return
        self._stopping = True
        self._go.release()
        with self._watch():
            self._thread.join()


def run_trial(settings: TrialSettings, attempt: Attempt, hand_over: Callable[[Report], bool]) -> Report:
    """Run one attempt at a trial and say how it ended; never raises."""
    run_dir = settings.run_dir(attempt.number)
    work = _work(settings, attempt, hand_over)
    status, reason = "finished", ""
    with _left_as_found():
        try:
            work.train(_compose(settings, attempt))
            if work.paused:
                status = "paused"
        except BaseException as error:  # noqa: BLE001 (whatever it is, it is how this trial ended)
            status, reason = judge(error)
            if status == "failed":
                _write_trace(run_dir)
    last = {"end": status, "reason": reason, "cost": work.cost(), "parameters": work.parameters}
    return {"done": True, **last}


class _Work(Protocol):
    """The training of an attempt, wherever it is done."""

    def train(self, config: DictConfig) -> None: ...
    def cost(self) -> dict[str, Any]: ...
    @property
    def paused(self) -> bool: ...
    @property
    def parameters(self) -> int | None: ...


def _work(settings: TrialSettings, attempt: Attempt, hand_over: Callable[[Report], bool]) -> _Work:
    if settings.workers == 1:
        return _Here(settings, attempt, hand_over)
    from rayconvai.sweep.group import Group  # Ray Train, which others need not wait for

    return Group(settings, attempt, hand_over)


class _Here:
    """Training in this process."""

    def __init__(self, settings: TrialSettings, attempt: Attempt, hand_over: Callable[[Report], bool]) -> None:
        self.settings, self.attempt = settings, attempt
        self.meter = Meter(settings.gpus)
        metrics = (settings.metric, *settings.more_metrics)
        self.reports = Reports(metrics, attempt.until, StopSign(settings.place), self.meter, hand_over)

    def train(self, config: DictConfig) -> None:
        settings, attempt = self.settings, self.attempt
        run_dir = settings.run_dir(attempt.number)
        runtime = Runtime(
            run_dir=settings.run_place(attempt.number),
            overrides=[*settings.overrides, *attempt.overrides],
            accelerator="gpu" if settings.gpus else "cpu",
            devices=1,
            callbacks=[self.reports],
            progress=False,
            facts={"command": settings.command, "ray": ray_facts()},
        )
        # The process of an attempt before this one may still be about to notice that its sweep has gone.
        with RunLayout(run_dir).locked():
            fit(config, runtime)

    def cost(self) -> dict[str, Any]:
        return self.meter.read()

    @property
    def paused(self) -> bool:
        return self.reports.paused

    @property
    def parameters(self) -> int | None:
        return self.reports.parameters


@functools.lru_cache(maxsize=1)
def _composer(settings: TrialSettings) -> Composer:
    """Keep what Hydra read for the trials to come."""
    return Composer(settings.recipe, settings.overrides, [Path(path) for path in settings.config_dirs])


def _compose(settings: TrialSettings, attempt: Attempt) -> DictConfig:
    config = _composer(settings).compose(attempt.overrides)
    if not config.exp_manager.create_wandb_logger:
        return config
    name = trial_name(attempt.number)
    ours = {"project": settings.sweep, "group": settings.sweep, "name": name, "id": f"{settings.sweep}-{name}"}
    ours |= {"resume": "allow"} | dict(config.exp_manager.wandb_logger_kwargs or {})
    return _composer(settings).compose([*attempt.overrides, f"exp_manager.wandb_logger_kwargs={quote(ours)}"])


@contextmanager
def _left_as_found() -> Iterator[None]:
    """Give the next trial of this process the state that this one found: loggers finished, memory freed."""
    root = logging.getLogger()
    lightning = [logging.getLogger(name) for name in ("lightning", "lightning.pytorch", "rayconvai")]
    handlers = {logger: list(logger.handlers) for logger in (root, *lightning)}
    try:
        yield
    finally:
        if "wandb" in sys.modules:
            with contextlib.suppress(Exception):  # no logger may stop a training, nor the next one
                sys.modules["wandb"].finish()
        for logger, before in handlers.items():
            for handler in logger.handlers[:]:
                if handler not in before:
                    logger.removeHandler(handler)
                    handler.close()
        gc.collect()
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.empty_cache()


def _write_trace(run_dir: Path) -> None:
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
    except OSError:
        traceback.print_exc()  # the reason stands in the journal all the same
