"""Schedulers that judge trials one by one, beside Ray Tune's own."""

from __future__ import annotations

import random
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import ASHAScheduler, MedianStoppingRule

from rayconvai.sweep.scheduler import Asha, Median, Scheduler, rungs
from rayconvai.sweep.spec import MetricSpec
from rayconvai.sweep.state import SweepState

EPOCHS = 20


@dataclass(frozen=True)
class TuneTrial:
    trial_id: str
    status: str = "RUNNING"


def asha(mode: str, every: int) -> tuple[Scheduler, Any]:
    theirs = ASHAScheduler(
        "epoch", "loss", mode, max_t=EPOCHS, grace_period=2, reduction_factor=3, stop_last_trials=False
    )
    return Asha(MetricSpec(name="loss", mode=mode), EPOCHS, grace=2, reduction=3), theirs  # type: ignore[arg-type]


def median(mode: str, every: int) -> tuple[Scheduler, Any]:
    theirs = MedianStoppingRule("epoch", "loss", mode, grace_period=2, min_samples_required=3)
    return Median(MetricSpec(name="loss", mode=mode), EPOCHS, grace=2), theirs  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [asha, median])
@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("every", [1, 2])
def test_decides_as_tune(make: Any, mode: str, every: int) -> None:
    """Trials in any order, with a validation every epoch or every second one."""
    rng = random.Random(0)
    ours, theirs = make(mode, every)
    state = SweepState(spec={"metric": {"name": "loss"}})
    theirs_trials = [TuneTrial(str(number)) for number in range(40)]
    for number, trial in enumerate(theirs_trials):
        state.apply({"kind": "point", "time": 0, "trial": number, "point": {}, "overrides": []})
        if make is asha:
            theirs.on_trial_add(None, trial)
    running, stopped = list(range(40)), 0
    controller = SimpleNamespace(get_live_trials=lambda: theirs_trials)
    while running:
        number = rng.choice(running)
        trial = state.trials[number]
        epoch, loss = trial.epoch + every, rng.random() + number / 20
        trial.report(epoch, {"loss": loss})
        result = {"epoch": epoch, "training_iteration": epoch, "loss": loss}
        expected = theirs.on_trial_result(controller, theirs_trials[number], result) == "STOP"
        assert ours.stops(state, trial) == (expected and epoch < EPOCHS)
        stopped += expected
        if expected or epoch >= EPOCHS:
            running.remove(number)
    assert stopped > 10


def test_rungs() -> None:
    assert rungs(1, 3, 9) == (1, 3)
    assert rungs(2, 1.2, 5) == (2, 3, 4)
