"""A trial with several workers: they train in processes of their own, and rank 0 reports to the trial's process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import ray
from lightning.pytorch import Callback, LightningModule, Trainer
from omegaconf import DictConfig
from ray.exceptions import RayActorError

from rayconvai.sweep.cost import Meter
from rayconvai.sweep.orphans import PLACEMENT_GROUP
from rayconvai.sweep.reports import Report, Reports
from rayconvai.sweep.state import Attempt
from rayconvai.sweep.stop import StopSign
from rayconvai.train.launch import launch
from rayconvai.train.worker import Job

if TYPE_CHECKING:
    from rayconvai.sweep.trial import TrialSettings


class Desk:
    """Where rank 0 hands over reports and waits for the answers; an actor, which every node can reach."""

    def __init__(self) -> None:
        self._reports: asyncio.Queue[Report] = asyncio.Queue()
        self._answers: asyncio.Queue[bool] = asyncio.Queue()
        self._notes: dict[str, Any] = {}

    async def hand_over(self, report: Report) -> bool:
        """Called by rank 0: return whether to go on."""
        await self._reports.put(report)
        return await self._answers.get()

    async def note(self, **facts: Any) -> None:
        """Called by rank 0: keep what is asked for at the end."""
        self._notes.update(facts)

    async def notes(self) -> dict[str, Any]:
        return self._notes

    async def take(self) -> Report:
        return await self._reports.get()

    async def answer(self, go_on: bool) -> None:
        await self._answers.put(go_on)


class Group:
    """The workers of an attempt.

    Args:
        settings: the trials'.
        attempt: theirs.
        hand_over: takes a report and says whether to go on.
    """

    def __init__(self, settings: TrialSettings, attempt: Attempt, hand_over: Callable[[Report], bool]) -> None:
        self.settings, self.attempt, self.hand_over = settings, attempt, hand_over
        self.meter = Meter(settings.gpus * settings.workers)
        self._notes: Mapping[str, Any] = {}
        self._cost: Mapping[str, Any] = {}

    def train(self, config: DictConfig) -> None:
        """Let them train.

        Raises:
            WorkersDiedError, RayconvaiError: what ``launch`` raises.
        """
        settings, attempt = self.settings, self.attempt
        desk: Any = ray.remote(Desk).options(num_cpus=0).remote()
        clerk = threading.Thread(target=self._attend, args=(desk,), name="desk", daemon=True)
        clerk.start()
        job = Job(
            config=config,
            run_dir=settings.run_place(attempt.number),
            overrides=(*settings.overrides, *attempt.overrides),
            working_dir=settings.working_dir,
            callbacks=partial(_listeners, settings, attempt, desk),
            measure=False,
            facts={"command": settings.command},
        )
        try:
            launch(job, retries=0, on_started=self._started)
        finally:
            with suppress(RayActorError):
                self._notes = ray.get(desk.notes.remote())
            ray.kill(desk)
            clerk.join()

    @property
    def paused(self) -> bool:
        return bool(self._notes.get("paused"))

    @property
    def parameters(self) -> int | None:
        return self._notes.get("parameters")

    def cost(self) -> dict[str, Any]:
        """Return what the attempt has cost, as far as the workers could tell; they are held longer than they train."""
        held = self.meter.read()
        return {**held, **self._cost, **self._notes.get("cost", {}), "wall": held["wall"], "gpu": held["gpu"]}

    def _started(self, placement_group: str) -> None:
        self.hand_over({PLACEMENT_GROUP: placement_group})

    def _attend(self, desk: Any) -> None:
        with suppress(RayActorError):
            while True:
                report = ray.get(desk.take.remote())
                self._cost = report["cost"]
                ray.get(desk.answer.remote(self.hand_over(report)))


def _listeners(settings: TrialSettings, attempt: Attempt, desk: Any) -> list[Callback]:
    """Return what listens in each worker."""
    reports = Reports(
        (settings.metric, *settings.more_metrics),
        attempt.until,
        StopSign(settings.place),
        Meter(settings.gpus),
        lambda report: ray.get(desk.hand_over.remote(report)),
    )
    return [reports, _Notes(reports, desk)]


class _Notes(Callback):
    """Tells how a run ended, and what of; after its reports have seen the end."""

    def __init__(self, reports: Reports, desk: Any) -> None:
        self.reports, self.desk = reports, desk

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._note(trainer, parameters=self.reports.parameters)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        cost = self.reports.cost(trainer)
        self._note(trainer, paused=self.reports.paused, cost=cost)

    def _note(self, trainer: Trainer, **facts: Any) -> None:
        if trainer.is_global_zero:
            ray.get(self.desk.note.remote(**facts))
