"""When a sweep is over: its budget is used up, it has what it looked for, or it cannot work."""

from __future__ import annotations

import math
import re

from rayconvai.places import exists
from rayconvai.sweep.spec import SweepSpec
from rayconvai.sweep.state import ENDED, SweepState, TrialRecord


def hopeless(spec: SweepSpec, state: SweepState) -> str:
    """Return why a sweep gives up: its first trials all fail for one reason. Empty: it does not."""
    bad = [trial for trial in state.trials.values() if not trial.usable]
    works = any(trial.epoch for trial in state.trials.values() if trial.usable)
    if works or len(bad) < spec.give_up_after:
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
    budget = spec.budget
    if budget.hours is not None and seconds >= budget.hours * 3600:
        return "budget.hours"
    if budget.gpu_hours is not None and state.cost.gpu >= budget.gpu_hours * 3600:
        return "budget.gpu_hours"
    if budget.target is not None and any(reaches_target(trial, spec) for trial in state.trials.values()):
        return "budget.target"
    return "budget.plateau" if budget.plateau is not None and _since_best(spec, state) >= budget.plateau else ""


def reaches_target(trial: TrialRecord, spec: SweepSpec) -> bool:
    """Tell whether a trial is as good as ``budget.target`` asks."""
    target, metric = spec.budget.target, spec.metric
    best = trial.best(metric.name, metric.mode)
    if target is None or best is None or not trial.usable:
        return False
    return best[0] <= target if metric.mode == "min" else best[0] >= target


def _since_best(spec: SweepSpec, state: SweepState) -> int:
    """Return how many trials have ended since the one that is the best."""
    sign = 1 if spec.metric.mode == "min" else -1
    best, since = math.inf, 0
    ended = [trial for trial in state.trials.values() if trial.status in ENDED]
    for trial in sorted(ended, key=lambda trial: trial.ended or 0):
        found = trial.best(spec.metric.name, spec.metric.mode) if trial.usable else None
        loss = math.inf if found is None else sign * found[0]
        best, since = (loss, 0) if loss < best else (best, since + 1)
    return since


def is_finished(state: SweepState, spec: SweepSpec) -> str:
    """Return why there is nothing left to do; empty: there is."""
    if not state.closed or not exists(f"{spec.place}/best/card.json"):
        return ""
    if state.closed != "done":
        return budget_over(spec, state, state.seconds)
    # Of a grid there may be fewer than were allowed.
    more_trials = _most_points(spec.budget.trials, spec) > _most_points(state.spec["budget"]["trials"], spec)
    more_epochs = (spec.budget.epochs or 0) > (state.identity.get("epochs") or 0)
    return "" if more_trials or more_epochs or state.count(*ENDED) < len(state.trials) else state.closed


def _most_points(trials: int | None, spec: SweepSpec) -> float:
    return math.inf if trials is None else trials // spec.repeats


def same_reason(one: str, other: str) -> bool:
    """Tell whether two trials failed alike: but for what differs from trial to trial."""
    return bare(one) == bare(other)


def bare(reason: str) -> str:
    """Return a reason without its paths, quoted values, numbers and addresses."""
    without_paths = re.sub(r"(?:\.{0,2}/)[^\s:;,()'\"]+|\b[\w.-]+\.(?:jsonl?|ckpt|yaml|wav|flac|txt)\b", "PATH", reason)
    without_values = re.sub(r"'[^']*'|\"[^\"]*\"", "VALUE", without_paths)
    return re.sub(r"\bt\d{4,}\b|\b0x[0-9a-f]+|-?\b\d+(?:\.\d+)?(?:e[+-]?\d+)?", "N", without_values)
