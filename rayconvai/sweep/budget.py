"""When a sweep is over: its budget is used up, it has what it looked for, or it cannot work."""

from __future__ import annotations

import math
import re

from rayconvai.sweep.spec import SweepSpec
from rayconvai.sweep.state import ENDED, SweepState


def hopeless(spec: SweepSpec, state: SweepState) -> str:
    """Return why a sweep gives up: its first trials all fail for one reason. Empty: it does not."""
    bad = [trial for trial in state.trials.values() if trial.status in ("infeasible", "failed")]
    if len(bad) < spec.give_up_after or any(trial.epoch for trial in state.trials.values() if trial not in bad):
        return ""
    same = [trial for trial in bad if same_reason(trial.reason, bad[0].reason)]
    return "failed" if len(same) >= spec.give_up_after else ""


def budget_over(spec: SweepSpec, state: SweepState, seconds: float) -> str:
    """Return the part of the budget that is used up; empty: none.

    Args:
        spec: with the budget.
        state: what was used.
        seconds: how long the sweep's drivers have worked.
    """
    budget, metric = spec.budget, spec.metric
    if budget.hours is not None and seconds >= budget.hours * 3600:
        return "budget.hours"
    if budget.gpu_hours is not None and state.cost.gpu >= budget.gpu_hours * 3600:
        return "budget.gpu_hours"
    if budget.target is None and budget.plateau is None:
        return ""
    sign = 1 if metric.mode == "min" else -1
    best, since = math.inf, 0
    by_end = sorted(state.trials.values(), key=lambda trial: trial.ended or math.inf)
    for trial in by_end:
        found = trial.best(metric.name, metric.mode) if trial.status not in ("infeasible", "failed") else None
        loss = math.inf if found is None else sign * found[0]
        if budget.target is not None and loss <= sign * budget.target:
            return "budget.target"
        if trial.status in ENDED:
            best, since = (loss, 0) if loss < best else (best, since + 1)
    return "budget.plateau" if budget.plateau is not None and since >= budget.plateau else ""


def is_finished(state: SweepState, spec: SweepSpec) -> str:
    """Return why there is nothing left to do; empty: there is."""
    if not state.closed or not (spec.directory / "best").exists():
        return ""
    if state.closed != "done":
        return budget_over(spec, state, state.seconds)
    more_trials = spec.budget.trials is not None and spec.budget.trials // spec.repeats * spec.repeats > len(
        state.trials
    )
    more_epochs = (spec.budget.epochs or 0) > (state.identity.get("epochs") or 0)
    return "" if more_trials or more_epochs or state.count(*ENDED) < len(state.trials) else state.closed


def same_reason(one: str, other: str) -> bool:
    """Tell whether two trials failed alike: but for what differs from trial to trial."""
    return bare(one) == bare(other)


def bare(reason: str) -> str:
    """Return a reason without its numbers, paths and addresses."""
    return re.sub(r"(?:/[^\s/:]+)+|0x[0-9a-f]+|[-+]?\d[\d.,e+-]*", "#", reason)
