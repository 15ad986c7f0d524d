"""Workers are started, watched and, when they die, started again: Ray Train does it, this asks it to and listens."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import ray
import ray.train
from omegaconf import DictConfig
from ray.exceptions import RayActorError, RayError
from ray.train.torch import TorchConfig
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rayconvai.config.check import resources
from rayconvai.errors import (
    LESS_MEMORY,
    ClusterError,
    InfeasibleError,
    RayconvaiError,
    WorkerError,
    WorkersDiedError,
)
from rayconvai.experiment.interrupt import Interrupted, on_signals
from rayconvai.experiment.layout import RunLayout
from rayconvai.experiment.manager import run_place
from rayconvai.experiment.mirror import fetched
from rayconvai.experiment.options import options
from rayconvai.experiment.provenance import command
from rayconvai.experiment.resume import choose_checkpoint
from rayconvai.places import in_ray_job
from rayconvai.train.address import check_address
from rayconvai.train.cluster import check_room, groups_of_job, ray_cluster, remove_groups
from rayconvai.train.finish import Outcome
from rayconvai.train.fit import check_same_run
from rayconvai.train.lean import Failures, LeanTrainer
from rayconvai.train.line import TAKEN_AWAY, Line, death, deaths
from rayconvai.train.runtime import Runtime
from rayconvai.train.strategies import worker_strategy
from rayconvai.train.worker import LOOK_SECONDS, Job, work

_api: Any = ray.train  # its types are those of Train's first version
_STARTS = 30
"""How often the cluster may have no room for the workers, a minute each, when they are to start again."""


def train_with_workers(config: DictConfig, runtime: Runtime) -> Outcome:
    """Train on the Ray cluster that RAY_ADDRESS names, else on a local one that is started and ended.

    Raises:
        ClusterError: it cannot be joined; and as ``launch`` does.
    """
    section, run_dir = options(config.exp_manager), runtime.run_dir
    place = str(run_dir) if run_dir is not None else run_place(section)
    check_address()
    if run_dir is None and section.resume_if_exists:
        layout = RunLayout(fetched(place))
        directory = Path(section.checkpoint_callback_params.dirpath or layout.checkpoints)
        check_same_run(layout, config, choose_checkpoint(section, directory, set_aside=False))
    job = Job(
        config=config,
        run_dir=place,
        overrides=tuple(runtime.overrides),
        working_dir=None if in_ray_job() else os.getcwd(),
        callbacks=partial(list, runtime.callbacks),
        facts={"command": command(), **runtime.facts},
    )
    with ray_cluster():
        return launch(job, say=partial(print, flush=True))


def launch(
    job: Job,
    *,
    retries: int | None = None,
    on_started: Callable[[str], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Let the workers that the config asks for train, on the Ray cluster that this process has joined.

    In the main thread, SIGINT and SIGTERM let them write a checkpoint and stop; a second one stops at once.

    Args:
        job: what they do.
        retries: how often workers that died are started again; None: as the config says.
        on_started: is given the id, in hexadecimal, of the placement group of each group of workers. Who ends this
            process from outside must then remove that group: Ray keeps it as long as the job that it is part of.
        say: is given what happens, a line at a time.

    Raises:
        ClusterError: the cluster has no room for the workers.
        WorkerError: workers died more often than they may, or failed; the trace is in the run's error.txt.
        Interrupted: they were told to stop, and did.
        RayconvaiError: what a worker raised.
    """
    worker_strategy(job.config.trainer.strategy)
    check_room(resources(job.config))
    return _Launch(job, resources(job.config).retries if retries is None else retries, on_started, say).run()


class _Launch:
    """The side of the one who starts workers."""

    def __init__(self, job: Job, retries: int, on_started: Callable[[str], None], say: Callable[[str], None]) -> None:
        self.job, self.retries, self.on_started, self.say = job, retries, on_started, say
        # Where this process is, and again if it dies: what it then has forgotten is not missed.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        line = ray.remote(Line).options(num_cpus=0, scheduling_strategy=here, max_restarts=-1, max_task_retries=-1)
        self.line: Any = line.remote()
        self.groups: list[str] = []
        self.deaths = 0
        self.training = False
        self.signal: int | None = None

    def run(self) -> Outcome:
        """Start groups of workers until one has come to the end."""
        scratch = tempfile.mkdtemp(prefix="rayconvai-")
        if self.job.marker is not None:
            RunLayout(Path(self.job.run_dir)).make()
            self.job.marker.write_text(str(self.job.began), encoding="ascii")
        try:
            with on_signals(self._on_signal):
                while True:
                    outcome = self._run_once(scratch)
                    if outcome is not None:
                        return outcome
        except RayError as error:
            said = " ".join(str(error).split())[:200]
            raise WorkerError(f"Ray has gone or cannot be reached: {said}; the same command goes on") from error
        finally:
            self._free()
            with contextlib.suppress(RayError):
                ray.kill(self.line)
            if self.job.marker is not None:
                self.job.marker.unlink(missing_ok=True)
            shutil.rmtree(scratch, ignore_errors=True)

    def _run_once(self, scratch: str) -> Outcome | None:
        """Let Train run once; None: it, or the node that it is on, died, and is to be started again."""
        trainer = self._trainer(scratch)
        ended: list[Any] = []

        def fit() -> None:
            try:
                ended.append(cast(Any, trainer.fit()).return_value)
            except BaseException as error:  # noqa: BLE001 (it is raised in the other thread)
                ended.append(error)

        thread = threading.Thread(target=fit, name="train", daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(LOOK_SECONDS)
            self._hear()
        self.training = False
        found = ended[0]
        if isinstance(found, RayActorError):  # Train's controller
            self._free()
            how = {"Ray Train": death(found)}
            self._count(how)
            if self.deaths > self.retries:
                raise self._too_often(how)
            return None
        if isinstance(found, BaseException):
            raise self._plain(found) from found
        if found["end"] == "interrupted":
            raise self._interrupted(found["checkpoint"])
        if found["end"] == "preempted":
            self.say("a node is about to be taken away: going on elsewhere, from a checkpoint made just now")
            return None
        return Outcome(**found["outcome"])

    def _trainer(self, scratch: str) -> LeanTrainer:
        taken, api = resources(self.job.config), _api
        return LeanTrainer(
            cast(Any, partial(work, self.job, self.line)),
            scaling_config=api.ScalingConfig(
                num_workers=(taken.least, taken.most) if taken.is_elastic else taken.most,
                use_gpu=bool(taken.gpus),
                resources_per_worker=taken.of_a_worker(),
                placement_strategy=taken.placement,
            ),
            run_config=api.RunConfig(
                name=f"{time.time_ns()}",
                storage_path=scratch,
                failure_config=api.FailureConfig(
                    max_failures=self.retries - self.deaths,
                    max_preemption_failures=-1,
                    controller_failure_limit=_STARTS,
                ),
                callbacks=[Failures(self.line)],
            ),
            torch_config=TorchConfig(backend="nccl" if taken.gpus else "gloo"),
        )

    def _hear(self) -> None:
        if self.signal is not None:
            if not self.training:  # nothing that a checkpoint could save
                raise Interrupted(self.signal, at_once=True)
            self.line.stop.remote(self.signal)
        for kind, what in ray.get(self.line.news.remote()):
            if kind == "started":
                self.groups.append(what)
                self.on_started(what)
            elif kind == "trains":
                self._trains(**what)
            elif kind == "died":
                self.training = False
                self._count(what)
            else:
                self.say(what)

    def _trains(self, step: int, workers: int, reached: int) -> None:
        again, self.training = len(self.groups) > 1, True
        where = f"going on from step {step}" if step else "starting anew" if again else "training"
        lost = "; 1 step is lost" if reached == step + 1 else f"; {reached - step} steps are lost" * (reached > step)
        self.say(f"{where} with {workers} worker{'s' * (workers > 1)} in {self.job.run_dir}{lost}")

    def _count(self, how: dict[str, str]) -> None:
        """Count a death, unless a node was taken away, and say how many more there may be."""
        self.deaths += TAKEN_AWAY not in how.values()
        if self.deaths <= self.retries:
            left = f"{self.retries - self.deaths} of {self.retries} restarts are left"
            self.say(f"{_said(how)}; starting again ({left})")

    def _too_often(self, how: dict[str, str]) -> RayconvaiError:
        if "low on memory" in _said(how):
            return InfeasibleError(f"out of memory: {_said(how)}; {LESS_MEMORY}")
        return WorkersDiedError(f"{_said(how)}; no restart is left (resources.retries is {self.retries})")

    def _plain(self, error: BaseException) -> BaseException:
        """Return what an error of Train's is about."""
        cause = getattr(error, "controller_failure", error)
        if isinstance(cause, RayconvaiError):
            return cause
        if type(cause).__name__ == "WorkerGroupStartupTimeoutError":
            return ClusterError(f"no room for the workers came in {_STARTS} minutes; the same command goes on then")
        failures = getattr(error, "worker_failures", {})
        if failures:
            return self._too_often(deaths(failures))
        if isinstance(error, (_api.TrainingFailedError, RayError)):
            return WorkerError(f"Ray Train: {' '.join(str(cause).split())[:300]}")
        return error

    def _interrupted(self, checkpoint: str | None) -> Interrupted:
        stop = Interrupted(self.signal or signal.SIGTERM)
        stop.run_dir = self.job.run_dir
        stop.checkpoint = None if checkpoint is None else Path(checkpoint)
        return stop

    def _free(self) -> None:
        """Give back what the workers had: when Train dies, its placement groups stay for the rest of the job."""
        groups = list(self.groups)
        if ray.get_runtime_context().get_actor_id() is None:
            # This process is the job. A group whose workers never got as far as to say so is known by the job's mark.
            groups += groups_of_job()
        remove_groups(groups)

    def _on_signal(self, number: int, _: object) -> None:
        if self.signal is not None:
            raise Interrupted(number, at_once=True)
        self.signal = number
        self.say(f"{signal.Signals(number).name}: stopping as soon as a checkpoint is made (again: at once)")


def _said(how: dict[str, str]) -> str:
    return "; ".join(f"{who}: {text}" for who, text in how.items())
