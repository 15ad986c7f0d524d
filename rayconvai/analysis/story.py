"""What a report says of a sweep, section by section: plain data for the templates in ``page/``, nothing of HTML."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from rayconvai.analysis.load import Sweep
from rayconvai.sweep.budget import bare
from rayconvai.sweep.ranking import GroupRank
from rayconvai.sweep.show import duration, leader, ranking, shown_value, time_left
from rayconvai.sweep.spec import MetricSpec
from rayconvai.sweep.state import ENDED, Cost, SweepState, TrialRecord
from rayconvai.sweep.store import Holder

Facts = list[tuple[str, str]]
"""Labels and what stands behind them."""
_NAMED = 6
"""Trials that are named one by one."""


@dataclass(frozen=True)
class Told:
    """A sweep, and all that its report is told from."""

    sweep: Sweep
    holder: Holder | None
    """The process at work on it."""
    card: dict[str, Any]
    """Of the artefact of the best; empty where there is none yet."""

    @property
    def state(self) -> SweepState:
        return self.sweep.state

    @property
    def total(self) -> int | None:
        """How many trials it will have; None where only a grid's end would say."""
        total: int | None = self.state.spec.get("budget", {}).get("trials")
        return total

    @property
    def measured(self) -> dict[str, float]:
        """What the best was measured at in the end."""
        metrics: dict[str, float] = self.card.get("metrics", {})
        return metrics


def number(value: float | None) -> str:
    """Say a value of a metric."""
    return "-" if value is None else f"{value:#.4g}"


def hours(seconds: float) -> str:
    return f"{seconds / 3600:.3g}" if seconds < 360_000 else f"{seconds / 3600:,.0f}"


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + "s" * (count != 1)


def names(trials: Sequence[TrialRecord]) -> str:
    more = f" and {len(trials) - _NAMED} more" if len(trials) > _NAMED else ""
    return ", ".join(trial.name for trial in trials[:_NAMED]) + more


def summary(told: Told) -> dict[str, Any]:
    """The answer first: the best point, how the sweep stands, and its figures."""
    state, best = told.state, leader(told.state)
    return {
        "name": told.sweep.name,
        "standing": standing(told),
        "headline": _headline(told, best),
        "tiles": _tiles(told, best),
        "best_point": [(key, shown_value(best.trials[0].point, key)) for key in best.trials[0].point] if best else [],
        "metric": state.metrics[0].name,
    }


def standing(told: Told) -> dict[str, str]:
    """Whether the sweep is at work, over, or interrupted."""
    state = told.state
    if told.holder:
        return {"badge": "running", "kind": "running", "note": ""}
    if not state.closed:
        note = "Nobody is at work on it: its driver was killed. The same command goes on from here."
        return {"badge": "killed", "kind": "failed", "note": note}
    if state.closed == "done":
        return {"badge": "finished", "kind": "finished", "note": ""}
    if state.closed == "failed":
        return {"badge": "failed", "kind": "failed", "note": "It was given up, as too many trials failed."}
    if state.closed == "interrupted":
        return {"badge": "interrupted", "kind": "stopped", "note": "The same command goes on from here."}
    note = f"It ended as {state.closed} was used up; a larger one goes on from here."
    return {"badge": state.closed, "kind": "stopped", "note": note}


def _headline(told: Told, best: GroupRank | None) -> str:
    state = told.state
    metric, trials = state.metrics[0], state.trials
    if not trials:
        return "No trial has begun yet."
    if best is None:
        ended = state.count(*ENDED) == len(trials)
        return f"None of its {plural(len(trials), 'trial')} " + (
            f"reached a value of {metric.name}; what failed is told below." if ended else f"has a {metric.name} yet."
        )
    trial = winner(best, metric)
    found = trial.best(metric.name, metric.mode)
    assert found is not None  # a leader has a value
    if best.low is not None:
        shown = f"{number(best.mean)} on average over {plural(len(best.values), 'seed')}, {_interval(best)}"
    else:
        shown = f"{number(found[0])} at epoch {found[1]}"
    of = f"the best of {plural(len(trials), 'trial')}" if len(trials) > 1 else "the only trial"
    text = f"{trial.name}, {of}, has the {_extreme(metric.mode)} {metric.name} on dev: {shown}."
    if told.measured:
        split = told.card.get("measured_on", "test")
        measures = ", ".join(f"{name} {number(value)}" for name, value in sorted(told.measured.items()))
        text += f" Measured once on {split}: {measures}."
    return text


def _extreme(mode: str) -> str:
    return "lowest" if mode == "min" else "highest"


def _interval(rank: GroupRank) -> str:
    return f"{number(rank.low)} to {number(rank.high)} with 95 % confidence"


def winner(rank: GroupRank, metric: MetricSpec) -> TrialRecord:
    """The best trial of a point that has a value."""
    sign = 1 if metric.mode == "min" else -1
    bests = {trial.number: trial.best(metric.name, metric.mode) for trial in rank.trials if trial.usable}
    values = {number: sign * best[0] for number, best in bests.items() if best}
    return next(trial for trial in rank.trials if trial.number == min(values, key=values.__getitem__))


def _tiles(told: Told, best: GroupRank | None) -> list[dict[str, str]]:
    state, cost = told.state, told.state.cost
    metric = state.metrics[0]
    tiles = []
    if best is not None:
        more = _interval(best) if best.low is not None else winner(best, metric).name
        tiles.append({"label": f"{metric.name} (dev)", "value": number(best.mean), "more": more})
    split = told.card.get("measured_on", "test")
    for name, value in sorted(told.measured.items())[:2]:
        tiles.append({"label": name, "value": number(value), "more": f"the best, measured on {split}"})
    ended = {status: state.count(status) for status in ("finished", "stopped", "infeasible", "failed")}
    how = {"finished": "finished", "stopped": "stopped early", "infeasible": "infeasible", "failed": "failed"}
    more = ", ".join(f"{count} {how[status]}" for status, count in ended.items() if count)
    total = told.total or len(state.trials)
    tiles.append({"label": "trials ended", "value": f"{state.count(*ENDED)} of {total}", "more": more})
    worked = state.seconds + (time.time() - state.time if told.holder else 0)
    left = time_left(state, told.total) if told.holder else None
    more = f"about {duration(left)} left" if left else f"{duration(cost.wall)} of training in all trials"
    tiles.append({"label": "time", "value": duration(worked), "more": more})
    if saved := state.saved():
        share = f"about {saved / (saved + cost.wall):.0%} of all training"
        tiles.append({"label": "saved by stopping early", "value": duration(saved), "more": share})
    elif price := money(cost, state.spec.get("prices", {})):
        tiles.append({"label": "cost", "value": price, "more": ""})
    return tiles


def asked(told: Told) -> dict[str, Any]:
    """The sweep file, in the order in which one would tell it."""
    spec = told.state.spec
    metrics = [
        f"{metric.name} ({'less' if metric.mode == 'min' else 'more'} is better)" for metric in told.state.metrics
    ]
    budget = {key: value for key, value in spec.get("budget", {}).items() if value is not None}
    facts = [
        ("recipe", spec.get("recipe", "")),
        ("metric", ", ".join(metrics)),
        ("search", _section(spec.get("search", {}))),
        ("scheduler", _section(spec.get("scheduler", {}))),
        ("budget", ", ".join(f"{key} {value}" for key, value in budget.items()) or "all points of the grid"),
        ("repeats", f"{spec.get('repeats', 1)} of each point" if spec.get("repeats", 1) > 1 else ""),
        ("of a trial", _section(spec.get("resources", {}))),
        ("overrides", " ".join(spec.get("overrides", []))),
        ("constraints", "; ".join(spec.get("constraints", []))),
        ("warm start", ", ".join(spec.get("warm_start", []))),
    ]
    space = [
        (key, domain if isinstance(domain, str) else _conditional(domain)) for key, domain in spec["space"].items()
    ]
    return {
        "asked": [(label, value) for label, value in facts if value],
        "space": space,
        "file": yaml.safe_dump(spec, sort_keys=False, allow_unicode=True),
    }


def _section(section: Mapping[str, Any]) -> str:
    """The name of a part of the sweep file first, then what was set."""
    told = [f"{key} {value}" for key, value in section.items() if key != "name" and value not in (None, {}, False)]
    return ", ".join([*([section["name"]] if "name" in section else []), *told])


def _conditional(domain: Any) -> str:
    if not isinstance(domain, Mapping):
        return str(domain)
    when = ", ".join(f"{key} is {value}" for key, value in domain.get("when", {}).items())
    return f"{domain.get('is')}  where {when}"


def sure(told: Told) -> dict[str, Any]:
    """How far the numbers can be trusted."""
    state, metric = told.state, told.state.metrics[0]
    ranks = [rank for rank in ranking(state) if rank.mean is not None]
    repeats = state.spec.get("repeats", 1)
    found = []
    if not ranks:
        found.append(f"No trial has a value of {metric.name}: there is nothing to be sure of yet.")
    elif len(ranks) == 1:
        found.append("Only one point has a value: nothing can be compared.")
    else:
        found += _compared(ranks, metric.name, repeats)
    if ranks and repeats == 1:
        found.append(
            "Each point was trained with one seed. What another seed would change is not known: points that lie close "
            "together cannot be told apart. repeats: 3 in the sweep file tells them apart."
        )
    if told.measured and len(ranks) > 1:
        found.append(
            f"The best of {len(ranks)} values on dev is a little too good, as it was chosen for it. The figures on "
            f"{told.card.get('measured_on', 'test')} chose nothing."
        )
    if stopped := state.count("stopped"):
        found.append(f"{plural(stopped, 'trial')} were stopped early; how good they would have become is not known.")
    if gone := state.count("infeasible", "failed"):
        found.append(f"{plural(gone, 'trial')} gave no result: nothing is known about those points.")
    return {"sure": found}


def _compared(ranks: list[GroupRank], metric: str, repeats: int) -> list[str]:
    best, second = ranks[0], ranks[1]
    assert best.mean is not None
    assert second.mean is not None
    gap = abs(second.mean - best.mean)
    share = f" ({gap / abs(best.mean):.1%})" if best.mean else ""
    told = [f"The next best point ({names(second.trials)}) is {number(gap)}{share} behind in {metric}."]
    if repeats > 1 and best.low is not None and best.high is not None:
        close = [
            rank for rank in ranks[1:]
            if rank.low is not None and rank.high is not None and rank.low <= best.high and best.low <= rank.high
        ]  # fmt: skip
        told.append(
            f"Each point was trained with {repeats} seeds; the interval of the best overlaps with those of "
            f"{plural(len(close), 'other point')}{': they may be as good' if close else ''}."
        )
    return told


def failures(told: Told) -> dict[str, Any]:
    """What went wrong, trials of one reason together."""
    trials = list(told.state.trials.values())
    alike: dict[tuple[str, str], list[TrialRecord]] = {}
    for trial in trials:
        if trial.status in ("infeasible", "failed"):
            alike.setdefault((trial.status, bare(trial.reason)), []).append(trial)
    rows = [
        {"count": len(same), "trials": names(same), "state": status, "reason": same[0].reason or "no reason given"}
        for (status, _), same in sorted(alike.items(), key=lambda item: -len(item[1]))
    ]
    lost = [trial for trial in trials if trial.attempts > 1]
    text = f"Attempts whose process or machine died, and that went on from a checkpoint: {names(lost)}." if lost else ""
    return {"failures": rows, "lost": text, "running": told.holder is not None}


def money(cost: Cost, prices: Mapping[str, Any]) -> str:
    """Say what work cost; empty where no prices are known."""
    amount = (cost.cpu * prices.get("cpu_hour", 0) + cost.gpu * prices.get("gpu_hour", 0)) / 3600
    return f"{amount:,.2f} {prices['currency']}" if amount else ""
