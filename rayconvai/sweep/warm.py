"""Warm start: what other sweeps found out is told to the search, as far as it lies in this sweep's space."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from omegaconf import OmegaConf

from rayconvai.errors import SweepError
from rayconvai.places import lasting_place
from rayconvai.sweep.domains import Point, Value
from rayconvai.sweep.journal import read_journal
from rayconvai.sweep.ranking import outcome
from rayconvai.sweep.space import Dimension, Space
from rayconvai.sweep.spec import SweepSpec
from rayconvai.sweep.state import ENDED


@dataclass
class Warmth:
    """What one other sweep has to say."""

    source: str
    points: list[tuple[int, Point, dict[str, float]]] = field(default_factory=list)
    """Trial number, point, metric name -> value."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Why trials are left out, and how many."""

    def __str__(self) -> str:
        used = f"warm start: {len(self.points)} results of {self.source}"
        left = "; ".join(f"{count} {reason}" for reason, count in self.left_out.most_common())
        return f"{used}; left out: {left}" if left else used


def read_warmth(source: str, spec: SweepSpec, space: Space) -> Warmth:
    """Read the results of another sweep that lie in this one's space.

    A key that only this sweep varies has no value there, so such trials are left out; a key that only the other one
    varied must have the value that this sweep's recipe has.

    Args:
        source: directory or address of the other sweep.
        spec: this sweep's.
        space: this sweep's.

    Raises:
        SweepError: there is no sweep, or it was for other metrics.
    """
    state = read_journal(lasting_place(source))
    if not state.trials:
        raise SweepError(f"there is no sweep with trials in {source}")
    ours = [(metric.name, metric.mode) for metric in spec.metrics]
    theirs = [
        (metric["name"], metric["mode"]) for metric in [state.spec["metric"], *state.spec.get("more_metrics", [])]
    ]
    if missing := [name for name, mode in ours if (name, mode) not in theirs]:
        raise SweepError(
            f"the sweep in {source} looked for {', '.join(f'{name} ({mode})' for name, mode in theirs)}, not for "
            f"{missing[0]}; its results cannot be compared"
        )
    warmth = Warmth(source)
    for number, trial in sorted(state.trials.items()):
        values = outcome(trial, spec.metrics) if trial.status in ("finished", "stopped") else None
        if values is None:
            known = trial.status if trial.status in ENDED else "not at their end"
            warmth.left_out[f"without a result ({known})"] += 1
            continue
        point, reason = _outside(space, trial.point)
        if reason:
            warmth.left_out[reason] += 1
        else:
            warmth.points.append((number, point, dict(zip([name for name, _ in ours], values, strict=True))))
    return warmth


def _outside(space: Space, point: Point) -> tuple[Point, str]:
    """Return the part of a point that this space varies, and why it does not lie in it (empty: it does)."""
    try:
        part = space.complete({key: value for key, value in point.items() if key in space}, _missing)
        refused = space.refused_by(part)
    except SweepError as error:
        return {}, f"outside: {error}"
    if refused is not None:
        return {}, f"against the constraint {refused.text}"
    assert space.config_of is not None
    config = space.config_of(part)
    for key, value in point.items():
        if key not in part and OmegaConf.select(config, key) != value:
            return {}, f"with another {key} than this recipe's"
    return part, ""


def _missing(dimension: Dimension) -> Value:
    raise SweepError(f"{dimension.key} has no value there")
