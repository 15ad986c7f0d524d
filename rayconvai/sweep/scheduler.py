"""Who stops trials early: Tune's ASHA, known to our trials by number so that a journal can be played back into it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from rayconvai.sweep.journal import SweepState, trial_name
from rayconvai.sweep.spec import MetricSpec, SchedulerSpec


class Asha(ASHAScheduler):
    """ASHA over epochs (arXiv 1810.05934). A trial that is taken up again keeps its place in the rungs."""

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, _by_number(trial))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        decision: str = super().on_trial_result(tune_controller, _by_number(trial), result)
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        super().on_trial_complete(tune_controller, _by_number(trial), result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_remove(tune_controller, _by_number(trial))


def build_scheduler(spec: SchedulerSpec, metric: MetricSpec, max_epochs: int, state: SweepState) -> TrialScheduler:
    """Make the scheduler that a sweep file names, knowing what the journal knows."""
    if spec.name == "none":
        fifo: TrialScheduler = FIFOScheduler()  # type: ignore[no-untyped-call]
        return fifo
    scheduler = Asha(
        time_attr="epoch",
        metric=metric.name,
        mode=metric.mode,
        max_t=max_epochs,
        grace_period=spec.grace,
        reduction_factor=spec.reduction,
        stop_last_trials=False,  # a run that reaches its last epoch ends by itself
    )
    for trial in state.trials.values():
        known: Any = SimpleNamespace(config={"number": trial.number})
        scheduler.on_trial_add(None, known)
        for epoch, metrics in sorted(trial.history.items()):
            if metrics.get(metric.name) is not None:
                scheduler.on_trial_result(None, known, {"epoch": epoch, metric.name: metrics[metric.name]})
    return scheduler


def _by_number(trial: Any) -> Any:
    return SimpleNamespace(trial_id=trial_name(trial.config["number"]))
