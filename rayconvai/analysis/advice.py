"""What to do next with a sweep: each step with the reason for it and the command that does it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rayconvai.analysis.story import Told, number, winner
from rayconvai.sweep.domains import Float
from rayconvai.sweep.grammar import parse_domain
from rayconvai.sweep.ranking import GroupRank
from rayconvai.sweep.show import leader

_EDGE = 0.03
"""A best value within this share of a range from its end lies at the edge."""
_ENOUGH = 3
"""Trials below which nothing is said about ranges."""


@dataclass(frozen=True)
class Step:
    why: str
    command: str


def next_steps(told: Told) -> list[Step]:
    """Return the steps, the most telling first."""
    state, place = told.state, str(told.sweep.place)
    if told.holder:
        return [Step("It is at work. See how it stands from any shell:", f"python -m rayconvai status {place}")]
    best = leader(state)
    steps = []
    if state.closed != "done":
        steps.append(Step("It has not come to its end. The same command goes on from where it stood:", _again(told)))
    if best is None:
        steps += _of_failures(told)
    else:
        steps += [*_of_the_best(told, best), *_of_the_space(told, best), *_of_the_budget(told, best)]
    return steps


def _again(told: Told, *changes: str) -> str:
    """The sweep's command once more, with keys changed."""
    program, *given = told.state.command or [""]
    if not program.endswith("sweep/__main__.py"):
        given = ["SWEEP.yaml"]
    keys = {change.partition("=")[0] for change in changes}
    kept = [word for word in given if word.partition("=")[0] not in keys]
    return f"python -m rayconvai.sweep {shlex.join([*kept, *changes])}"


def _of_failures(told: Told) -> Iterator[Step]:
    gone = [trial for trial in told.state.trials.values() if trial.status in ("failed", "infeasible")]
    if gone:
        yield Step(
            f"No trial has a value. See what happened to {gone[0].name} by training it again:",
            f"python -m rayconvai replay {told.sweep.place} {gone[0].name}",
        )


def _of_the_best(told: Told, best: GroupRank) -> Iterator[Step]:
    place, trial = told.sweep.place, winner(best, told.state.metrics[0])
    if not told.measured:
        yield Step("The best has not been measured on test:", f"python -m rayconvai promote {place}")
        return
    if told.state.count("finished", "stopped") > 1:
        yield Step(
            "See whether the ranking holds on test, and whether an average of checkpoints is better:",
            f"python -m rayconvai promote {place} --top 3 --average 3",
        )
    if told.card.get("trained_on") is None:
        yield Step(
            f"Train {trial.name} anew on train and dev together, to use it:",
            f"python -m rayconvai promote {place} --retrain",
        )
    if told.state.spec.get("repeats", 1) == 1 and told.state.spec["scheduler"]["name"] != "pbt":
        name = f"{told.sweep.name}-repeats"
        yield Step("Learn what another seed would change:", _again(told, f"name={name}", "repeats=3"))


def _of_the_space(told: Told, best: GroupRank) -> Iterator[Step]:
    """Ranges whose end the best value lies at."""
    if len(told.state.trials) < _ENOUGH:
        return
    point = winner(best, told.state.metrics[0]).point
    for key, expression in told.state.spec["space"].items():
        if wider := _wider(expression, point.get(key)):
            yield Step(
                f"{key} of the best, {number(point[key])}, lies at the end of {expression}. Widen it; the fork is told "
                "what this sweep found out:",
                _again(told, f"space.{key}={wider}", "--fork"),
            )


def _wider(expression: Any, value: Any) -> str | None:
    """Return the range with more room where a value lies at its end; None where none lies there, or it is no range."""
    if not isinstance(expression, str) or not isinstance(value, float):
        return None
    domain = parse_domain(expression)
    if not isinstance(domain, Float) or domain.step is not None or domain.low >= domain.high:
        return None
    low, high, at = (math.log(x) if domain.log else x for x in (domain.low, domain.high, value))
    share = (at - low) / (high - low)
    if domain.log:
        if share < _EDGE:
            return f"loguniform({domain.low / 10:.3g}, {domain.high:g})"
        return f"loguniform({domain.low:g}, {domain.high * 10:.3g})" if share > 1 - _EDGE else None
    width = domain.high - domain.low
    if share > 1 - _EDGE:
        return f"uniform({domain.low:g}, {domain.high + width:.3g})"
    # Most keys that begin at 0 mean nothing below it.
    return f"uniform({domain.low - width:.3g}, {domain.high:g})" if share < _EDGE and domain.low < 0 else None


def _of_the_budget(told: Told, best: GroupRank) -> Iterator[Step]:
    state, metric = told.state, told.state.metrics[0]
    found = winner(best, metric).best(metric.name, metric.mode)
    epochs = state.spec.get("budget", {}).get("epochs") or state.identity.get("epochs")
    if found and found[1] == epochs and state.spec["scheduler"]["name"] != "hyperband":
        yield Step(
            f"The best was still getting better at its last epoch, {epochs}. Train the finished trials on:",
            _again(told, f"budget.epochs={2 * epochs}"),
        )
    if state.closed == "done" and told.total and state.spec["search"]["name"] != "grid":
        yield Step("Go on with more trials:", _again(told, f"budget.trials={2 * told.total}"))
