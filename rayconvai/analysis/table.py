"""The table of all trials of a report, the best first; the page sorts and filters it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from rayconvai.sweep.show import duration, ranking, short_names, shown_value
from rayconvai.sweep.state import SweepState, TrialRecord

MOST = 2000
"""Trials that the table holds: a browser would have trouble with many more."""


@dataclass(frozen=True)
class Cell:
    text: str
    kind: Literal["text", "number", "state", "head"] = "text"
    value: float | None = None
    """What a number is sorted by; None where there is none."""


@dataclass(frozen=True)
class Column:
    key: str
    label: str
    numeric: bool = True


def trial_rows(state: SweepState) -> dict[str, Any]:
    """Return the columns, the rows, how many trials there are of each state, and an example for the filter."""
    groups = ranking(state)
    trials = [trial for group in groups for trial in group.trials][:MOST]
    ranks = {group.group: rank for rank, group in enumerate(groups, start=1) if group.mean is not None}
    keys = list(dict.fromkeys(key for trial in trials for key in trial.point))
    labels = dict(zip(keys, short_names(keys), strict=True))
    numeric = {key: all(_is_number(trial.point.get(key, 0)) for trial in trials) for key in keys}
    metrics = [metric.name for metric in state.metrics]
    columns = [
        _named("rank"), _named("trial", False), _named("state", False), *map(_named, metrics),
        _named("at epoch"), _named("epochs"), *(Column(key, labels[key], numeric[key]) for key in keys),
        _named("parameters"), _named("training"), _named("reason", False),
    ]  # fmt: skip
    rows = [
        {"trial": trial.name, "state": trial.status, "cells": list(_cells(state, trial, ranks, numeric))}
        for trial in trials
    ]
    return {
        "columns": columns,
        "rows": rows,
        "more": len(state.trials) - len(rows),
        "states": list(Counter(trial.status for trial in trials).items()),
        "example": _example(trials, labels, numeric),
    }


def _named(name: str, numeric: bool = True) -> Column:
    return Column(name, name, numeric)


def _cells(state: SweepState, trial: TrialRecord, ranks: dict[int, int], numeric: dict[str, bool]) -> Iterable[Cell]:
    bests = [trial.best(metric.name, metric.mode) for metric in state.metrics]
    first, parameters, wall = bests[0], trial.parameters, trial.cost.wall
    yield _number(ranks.get(trial.group) if first and trial.usable else None)  # of the point: repeats share it
    yield Cell(trial.name, "head")
    yield Cell(trial.status, "state")
    for best in bests:
        yield _number(best[0] if best else None)
    yield _number(first[1] if first else None)
    yield _number(trial.epoch)
    for key, is_number in numeric.items():
        text = shown_value(trial.point, key) if key in trial.point else ""
        yield _number(trial.point.get(key), text) if is_number else Cell(text)
    yield _number(parameters, f"{parameters or 0:,}")
    yield _number(wall or None, duration(wall))
    yield Cell(trial.reason)


def _number(value: float | None, text: str = "") -> Cell:
    if value is None:
        return Cell("", "number")
    return Cell(text or (f"{value:#.4g}" if isinstance(value, float) else str(value)), "number", value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _example(trials: list[TrialRecord], labels: dict[str, str], numeric: dict[str, bool]) -> str:
    """A comparison that makes sense for this sweep: of the first key that is a number with its middle value."""
    key = next((key for key, is_number in numeric.items() if is_number), None)
    if key is None:
        return "epochs>1"
    values = sorted(trial.point[key] for trial in trials if key in trial.point)
    return f"{labels[key]}<{values[len(values) // 2]:.3g}"
