"""How a sweep looks: its state as tables and lines, for the live display, the log and ``status`` alike."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rayconvai.sweep.budget import bare
from rayconvai.sweep.ranking import GroupRank, front, rank_group
from rayconvai.sweep.spec import MetricSpec
from rayconvai.sweep.state import ENDED, Cost, Status, SweepState, TrialRecord

COLOURS = {
    "finished": "green", "stopped": "yellow", "infeasible": "magenta", "failed": "red", "running": "cyan",
    "paused": "blue",
}  # fmt: skip
_ALIVE: tuple[Status, ...] = ("running", "paused", "waiting")
_FRONT = 12
"""Points of a Pareto front that are shown."""
_LOG_WIDTH = 160


def command_console() -> Console:
    """Return where a command prints: as wide as the terminal, in a log as wide as its tables need."""
    return Console(width=None if sys.stdout.isatty() else _LOG_WIDTH)


def quieten_lightning() -> None:
    """Leave what Lightning says to the runs' own logs: it would only stand between the lines of a command."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")


def overview(state: SweepState, total: int | None, *, at_work: bool) -> Table:
    """Say how a sweep stands: a line for each thing that there is to say.

    Args:
        state: the sweep's.
        total: how many trials it will have, if that is known.
        at_work: a driver is at work on it now.
    """
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="bold", min_width=10)
    table.add_column(overflow="fold")
    table.add_row("trials", _counts(state, total))
    if best := leader(state):
        table.add_row("best", Text(f"{state.metrics[0].name} {shown_mean(best)}: {shown_point(best.trials[0])}"))
    if len(state.metrics) > 1:
        table.add_row("front", _front_table(state))
    table.add_row("time", _time(state, total, at_work=at_work))
    table.add_row("cost", _cost(state.cost, state.spec.get("prices", {})))
    if saved := state.saved():
        share = saved / (saved + state.cost.wall)
        table.add_row("saved", f"about {duration(saved)} of training by stopping early ({share:.0%} of the whole)")
    trials = list(state.trials.values())
    if lost := [trial.lost for trial in trials if trial.lost]:
        attempts = f"{sum(lost)} attempt{'s' * (sum(lost) > 1)} of {len(lost)} trial{'s' * (len(lost) > 1)}"
        table.add_row("lost", f"{attempts}: the process or its machine died")
    for status in ("infeasible", "failed"):
        if reasons := _reasons(trial for trial in trials if trial.status == status):
            table.add_row(Text(status, COLOURS[status]), Text("\n".join(reasons)))
    return table


def ranking(state: SweepState) -> list[GroupRank]:
    """Return the points of a sweep, the best first."""
    return state.ranked_groups(state.metrics[0].name, state.metrics[0].mode)


def leader(state: SweepState) -> GroupRank | None:
    """Return the best point, if any has a value yet."""
    metric = state.metrics[0].name, state.metrics[0].mode
    if state.spec.get("repeats", 1) == 1:  # most sweeps; the groups of a large one would take their time
        ranks = [rank_group(trial.number, [trial], *metric) for trial in state.ranked(*metric)[:1]]
    else:
        ranks = state.ranked_groups(*metric)
    return ranks[0] if ranks and ranks[0].mean is not None else None


def trial_table(trials: list[TrialRecord], metric: MetricSpec) -> Table:
    """Make the table of trials, in the order given."""
    reasons = any(trial.reason for trial in trials)
    table, keys = _table(trials, ("trial", "status"), (metric.name, "at epoch", "epochs", "time"))
    if reasons:
        table.add_column("reason", overflow="fold")
    for trial in trials:
        best = trial.best(metric.name, metric.mode)
        row: list[str | Text] = [
            trial.name,
            Text(trial.status, COLOURS.get(trial.status, "")),
            f"{best[0]:.4f}" if best else "-",
            str(best[1]) if best else "-",
            str(trial.epoch),
            duration(trial.cost.wall) if trial.epoch else "-",
            *(Text(shown_value(trial.point, key)) for key in keys),
        ]
        table.add_row(*row, *([Text(trial.reason)] if reasons else []))
    return table


def group_table(groups: list[GroupRank], metric: str) -> Table:
    """Make the table of points with repeats, in the order given."""
    firsts = [group.trials[0] for group in groups]
    table, keys = _table(firsts, ("trials",), (metric, "from", "to (95 %)", "values"))
    for group, first in zip(groups, firsts, strict=True):
        row: list[str | Text] = [
            _names(group.trials),
            *(_number(value) for value in (group.mean, group.low, group.high)),
            str(len(group.values)),
            *(Text(shown_value(first.point, key)) for key in keys),
        ]
        table.add_row(*row)
    return table


def _table(trials: Iterable[TrialRecord], left: tuple[str, ...], right: tuple[str, ...]) -> tuple[Table, list[str]]:
    """Begin a table; return it with the keys of the points, for which it has the last columns."""
    keys = list(dict.fromkeys(key for trial in trials for key in trial.point))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in (*left, *right):
        table.add_column(name, justify="left" if name in left else "right", no_wrap=True)
    for key in short_names(keys):
        table.add_column(key, overflow="fold")
    return table, keys


def _front_table(state: SweepState) -> Table:
    points = front(state)
    table, keys = _table(
        (point.trials[0] for point in points), ("trials",), tuple(metric.name for metric in state.metrics)
    )
    for point in points[:_FRONT]:
        values = [Text(shown_value(point.trials[0].point, key)) for key in keys]
        table.add_row(_names(point.trials), *map(_number, point.values), *values)
    if len(points) > _FRONT:
        table.add_row(f"and {len(points) - _FRONT} more")
    return table


def _counts(state: SweepState, total: int | None) -> Text:
    text = Text(f"{state.count(*ENDED)} of {total or len(state.trials)} ended")
    for group in (ENDED, _ALIVE):
        for place, status in enumerate(status for status in group if state.count(status)):
            text.append(", " if place else ": " if group is ENDED else "; ")
            text.append(f"{state.count(status)} {status}", COLOURS.get(status, ""))
    return text


def _time(state: SweepState, total: int | None, *, at_work: bool) -> str:
    worked = state.seconds + (time.time() - state.time if at_work else 0)
    left = time_left(state, total) if at_work else None
    return f"{duration(worked)} of work" + (f", about {duration(left)} left" if left else "")


def time_left(state: SweepState, total: int | None) -> float | None:
    """Estimate the seconds to the end from the pace so far, where a trial that runs counts by its epochs."""
    budget = state.spec.get("budget", {})
    hours = budget.get("hours")
    limit = None if hours is None else max(0.0, hours * 3600 - state.seconds)
    live = list(state.live.values())
    ended = state.count(*ENDED)
    epochs = sum(trial.epoch for trial in list(state.trials.values())) - sum(trial.epoch for trial in live)
    typical = epochs / ended if ended else budget.get("epochs")
    done = ended + (sum(min(1.0, trial.epoch / typical) for trial in live) if typical else 0)
    if not done or total is None:
        return limit
    left = state.seconds / done * max(0.0, total - done)
    return left if limit is None else min(left, limit)


def _cost(cost: Cost, prices: dict[str, Any]) -> str:
    parts = [f"{_hours(cost.wall)} hours of training", f"{_hours(cost.cpu)} CPU hours"]
    if cost.gpu:
        parts.append(f"{_hours(cost.gpu)} GPU hours")
    money = (cost.cpu * prices.get("cpu_hour", 0) + cost.gpu * prices.get("gpu_hour", 0)) / 3600
    if money:
        parts.append(f"{money:.2f} {prices['currency']}")
    for name, amount in cost.seen.items():
        seconds = name.endswith("_seconds")
        parts.append(f"{_hours(amount)} hours of {name[:-8]} seen" if seconds else f"{amount:,.0f} {name} seen")
    peaks = (("memory", cost.memory), ("GPU memory", cost.gpu_memory))
    parts += [f"at most {size / 2**30:.1f} GB of {name} a trial" for name, size in peaks if size]
    return ", ".join(parts)


def _reasons(trials: Iterable[TrialRecord]) -> list[str]:
    """Count the trials by reason, numbers and paths apart."""
    alike: dict[str, list[TrialRecord]] = {}
    for trial in trials:
        alike.setdefault(bare(trial.reason), []).append(trial)
    most_first = sorted(alike.values(), key=len, reverse=True)
    return [f"{len(same)}: {same[0].reason or 'no reason given'} ({_names(same)})" for same in most_first]


def _names(trials: list[TrialRecord]) -> str:
    return ", ".join(trial.name for trial in trials[:5]) + (", ..." if len(trials) > 5 else "")


def shown_mean(rank: GroupRank) -> str:
    """Say how good a point is, and by which trials."""
    interval = f" ({rank.low:.4g} to {rank.high:.4g})" if rank.low is not None else ""
    return f"{rank.mean:.4g}{interval} ({_names(rank.trials)})"


def shown_point(trial: TrialRecord) -> str:
    return ", ".join(f"{key}={shown_value(trial.point, key)}" for key in trial.point)


def duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def _hours(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:.3g}" if hours < 100 else f"{hours:,.0f}"


def short_names(keys: list[str]) -> list[str]:
    """Shorten dotted keys to as many last parts as keep them apart."""
    parts = [key.split(".") for key in keys]
    ends = Counter(".".join(split[-size:]) for split in parts for size in range(1, len(split) + 1))

    def short(split: list[str]) -> str:
        sizes = (size for size in range(1, len(split)) if ends[".".join(split[-size:])] == 1)
        return ".".join(split[-next(sizes, len(split)) :])

    return [short(split) for split in parts]


def shown_value(point: Mapping[str, Any], key: str) -> str:
    """Say what a point has for a key, as the command line takes it."""
    value = point.get(key, "-")
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
