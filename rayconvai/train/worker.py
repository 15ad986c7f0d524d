"""What each of several workers does: the same ``fit`` as a run in one process, in a group that Ray Train started.

All that Ray Train keeps is scratch. When workers die, others go on from the newest checkpoint in the run's directory.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from omegaconf import DictConfig
from ray.exceptions import RayError
from ray.train.lightning import RayLightningEnvironment
from typing_extensions import override

from rayconvai.config.check import resources
from rayconvai.errors import RayconvaiError, StorageError, WorkerError, out_of_memory_is_infeasible
from rayconvai.experiment.interrupt import Interrupted, tell_to_stop
from rayconvai.experiment.layout import RunLayout
from rayconvai.experiment.mirror import fetched
from rayconvai.experiment.record import OF_A_LINE, MetricsRecord, read_metrics
from rayconvai.experiment.storage import find_last, read_stamps
from rayconvai.places import is_address, working_copy
from rayconvai.train.address import enter
from rayconvai.train.finish import train
from rayconvai.train.ray_facts import ray_facts
from rayconvai.train.runtime import Runtime
from rayconvai.train.strategies import worker_strategy

LOOK_SECONDS = 0.5
"""How often rank 0 says how far it is and asks whether to stop, and the launcher asks for news."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What workers are to do; travels to them."""

    config: DictConfig
    run_dir: str
    """Decided once, so that those who start again find the checkpoints of those before."""
    overrides: tuple[str, ...] = ()
    working_dir: str | None = None
    """Where relative paths in configs begin; None: where Ray puts the working directory of a job."""
    callbacks: Callable[[], Sequence[Callback]] = tuple
    """Makes what listens to the run, in each worker."""
    measure: bool = True
    """Whether the best checkpoint is measured at the end and becomes an artefact, if the config says so."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What is known of the run and goes into its provenance.json."""
    began: float = field(default_factory=time.time)

    @property
    def marker(self) -> Path | None:
        """Lies in the run's directory while workers are at it: those that do not see it have another directory."""
        return None if is_address(self.run_dir) else Path(self.run_dir) / ".workers"


def work(job: Job, line: Any) -> dict[str, Any]:
    """What each worker does; what rank 0 returns goes to the launcher."""
    context, taken = ray.train.get_context(), resources(job.config)
    rank = context.get_world_rank()
    listener = _Listener(line if rank == 0 else None, context.get_world_size())
    try:
        with out_of_memory_is_infeasible(), _alone(job, rank), _warnings_to(line, rank):
            _arrive(job)
            torch.set_num_threads(max(1, int(taken.cpus)))
            again = rank == 0 and _begin(job, line)
            listener.recorded = _recorded(job.run_dir) if rank == 0 else 0

            facts = {**job.facts, "ray": ray_facts()}
            workers = context.get_world_size()
            times = max(1, round(taken.most / workers)) if taken.is_elastic and taken.global_batch == "keep" else 1

            def place(*callbacks: Callback) -> Runtime:
                return Runtime(
                    run_dir=job.run_dir,
                    overrides=job.overrides,
                    accelerator="gpu" if taken.gpus else "cpu",
                    devices="auto" if taken.gpus else 1,
                    strategy=worker_strategy(job.config.trainer.strategy),
                    plugins=[RayLightningEnvironment()],  # type: ignore[no-untyped-call]
                    callbacks=callbacks,
                    facts=facts,
                    progress=False,
                    go_on=again,
                    most_workers=taken.most if taken.is_elastic else None,
                    accumulate=times,
                )

            outcome = train(job.config, place(listener, *job.callbacks()), place() if job.measure else None)
            return {"end": "finished", "outcome": vars(outcome)}
    except Interrupted as stop:
        checkpoint = None if stop.checkpoint is None else str(stop.checkpoint)
        return {"end": "preempted" if listener.preempted else "interrupted", "checkpoint": checkpoint}
    except RayconvaiError:
        raise
    except Exception as error:
        message = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        if isinstance(error, RayError) or _OF_THE_MACHINE.search(message):
            raise RuntimeError(message) from error
        raise WorkerError(f"worker {rank}: {message}{_write_trace(job.run_dir)}") from error


_OF_THE_MACHINE = re.compile(
    r"gloo|nccl|\bpeer\b|connection|timed? ?out|socket|TCPStore|CUDA error|DataLoader worker .*(exited|killed)", re.I
)
"""Errors that may well not come again: a neighbour that died, a device that fell off."""


def _begin(job: Job, line: Any) -> bool:
    """Tell the launcher that there is a new group of workers; return whether it goes on where one before it was."""
    group: Any = ray.util.get_current_placement_group()
    before = ray.get(line.started.remote(group.id.hex()))
    elsewhere = job.config.exp_manager.checkpoint_callback_params.dirpath
    newest = find_last(elsewhere or RunLayout(fetched(job.run_dir)).checkpoints, set_aside=False)
    if newest is None:  # or not to be seen from here
        return bool(before)
    # Else it is of a run that was there before this one, which was told to start anew.
    return any(stamp.time > job.began for stamp in read_stamps(newest)[:1])


def _recorded(run_dir: str) -> int:
    steps = (
        line["step"] + 1 for line in read_metrics(RunLayout(working_copy(run_dir)).metrics) if line["kind"] == "step"
    )
    return max(steps, default=0)


def _arrive(job: Job) -> None:
    """Go where relative paths begin, and see that the run's directory is the launcher's."""
    enter(job.working_dir, "run")
    if job.marker is not None and not job.marker.is_file():
        raise StorageError(
            f"the run's directory {job.run_dir} is not the same on node {os.uname().nodename}; "
            "exp_manager.exp_dir must be a path that all nodes share"
        )


@contextmanager
def _alone(job: Job, rank: int) -> Iterator[None]:
    """Wait while rank 0 of workers before these, who may still be about to notice, has the run's directory."""
    if rank == 0 and not is_address(job.run_dir):
        with RunLayout(Path(job.run_dir)).locked():
            yield
    else:
        yield


@contextmanager
def _warnings_to(line: Any, rank: int) -> Iterator[None]:
    """Show the launcher's user what rank 0 warns of."""
    handler = _ToLine(line)
    logger = logging.getLogger("rayconvai")
    if rank == 0:
        logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _ToLine(logging.Handler):
    def __init__(self, line: Any) -> None:
        super().__init__(logging.WARNING)
        self.line = line

    @override
    def emit(self, record: logging.LogRecord) -> None:
        self.line.add.remote("says", self.format(record))


def _write_trace(run_dir: str) -> str:
    path = working_copy(run_dir) / "error.txt"
    try:
        path.write_text(traceback.format_exc(), encoding="utf-8")
    except OSError:
        return ""
    return f" (the trace is in {path})"


class _Listener(Callback):
    """Tells the launcher how far the run is; hears from it, or from Ray, that it is to stop.

    Args:
        line: to the launcher; None: on the other ranks, which stop with the first.
        workers: how many train together.
    """

    def __init__(self, line: Any, workers: int) -> None:
        self.line, self.workers = line, workers
        self.recorded = 0
        """How many steps the run's record has of those who were at it before."""
        self.preempted = False
        self._asked: Any = None
        self._looked = 0.0

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.line is not None:
            self.line.trains.remote(trainer.global_step, self.workers, self.recorded if trainer.ckpt_path else 0)

    @override
    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        now = time.monotonic()
        if self.line is None or now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        # The answer to what was asked the last time has long been there: nobody waits for it.
        told = self._asked is not None and ray.get(self._asked)
        self._asked = self.line.at.remote(trainer.global_step)
        if not told and _is_preempted():
            self.preempted, told = True, signal.SIGTERM
        if told:
            tell_to_stop(trainer, told)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        line = next((logger.last_epoch for logger in trainer.loggers if isinstance(logger, MetricsRecord)), None)
        if self.line is not None and line is not None:
            metrics = {name: value for name, value in line.items() if name not in OF_A_LINE and value is not None}
            shown = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
            self.line.add.remote("says", f"epoch {line['epoch']}, step {trainer.global_step}: {shown}")


def _is_preempted() -> bool:
    """Tell whether Ray has said that a node of these workers is about to be taken away.

    ``ray.train.get_preemption_info`` says the same, but makes all ranks wait for one another each time it is asked.
    """
    from ray.train.v2._internal.execution.context import get_train_context

    return get_train_context().preemption_context.preemption_info is not None
