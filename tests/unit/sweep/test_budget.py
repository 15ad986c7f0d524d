"""When a sweep is over."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from rayconvai.sweep.budget import budget_over, hopeless, same_reason
from rayconvai.sweep.spec import BudgetSpec, MetricSpec, SweepSpec
from rayconvai.sweep.state import SweepState

SPEC = SweepSpec(name="x", recipe="none", space={"a": 1}, metric=MetricSpec(name="loss", mode="min"), give_up_after=2)


def state(*trials: tuple[str, list[float], str]) -> SweepState:
    """Make a state of trials that ended one after the other: how, with which values, and why."""
    made = SweepState(spec=dataclasses.asdict(SPEC))
    for number, (status, values, reason) in enumerate(trials):
        common: dict[str, Any] = {"trial": number, "time": float(number)}
        made.apply({"kind": "point", **common, "point": {}, "overrides": []})
        made.apply({"kind": "attempt", **common, "attempt": 1})
        for epoch, value in enumerate(values, start=1):
            cost = {"wall": 3600.0 * epoch, "gpu": 1800.0 * epoch}
            made.apply({"kind": "result", **common, "epoch": epoch, "metrics": {"loss": value}, "cost": cost})
        if status != "running":
            made.apply({"kind": "end", **common, "status": status, "reason": reason})
    return made


FOUR = state(
    ("finished", [0.5, 0.3], ""), ("infeasible", [0.1], "nan"), ("stopped", [0.6], ""), ("running", [0.4, 0.2], "")
)


@pytest.mark.parametrize(
    ("budget", "over"),
    [
        pytest.param(BudgetSpec(trials=4), "", id="trials_are_not_given_out"),
        pytest.param(BudgetSpec(hours=1.0), "budget.hours", id="hours"),
        pytest.param(BudgetSpec(hours=1.1), "", id="hours_left"),
        pytest.param(BudgetSpec(gpu_hours=3.0), "budget.gpu_hours", id="gpu_hours"),
        pytest.param(BudgetSpec(gpu_hours=3.1), "", id="gpu_hours_left"),
        pytest.param(BudgetSpec(target=0.2), "budget.target", id="target"),
        pytest.param(BudgetSpec(target=0.15), "", id="infeasible_reaches_no_target"),
        pytest.param(BudgetSpec(plateau=2), "budget.plateau", id="plateau"),
        pytest.param(BudgetSpec(plateau=3), "", id="no_plateau_yet"),
    ],
)
def test_budget(budget: BudgetSpec, over: str) -> None:
    assert budget_over(dataclasses.replace(SPEC, budget=budget), FOUR, seconds=3600) == over


def test_target_of_what_is_to_grow() -> None:
    metric, budget = MetricSpec(name="loss", mode="max"), BudgetSpec(target=0.6)
    assert budget_over(dataclasses.replace(SPEC, metric=metric, budget=budget), FOUR, 0) == "budget.target"


OUT = "out of memory: tried to allocate 2.0 GiB; lower data.batch_seconds"


@pytest.mark.parametrize(
    ("trials", "verdict"),
    [
        pytest.param([("failed", [], "KeyError: x")], "", id="one_is_not_enough"),
        pytest.param([("failed", [], "KeyError: x")] * 2, "failed", id="same"),
        pytest.param([("failed", [], "KeyError: x"), ("failed", [], "DataError: y")], "", id="another"),
        pytest.param([("infeasible", [], OUT), ("infeasible", [], OUT.replace("2.0", "3.5"))], "failed", id="numbers"),
        pytest.param([("finished", [0.1], ""), *[("failed", [], "KeyError: x")] * 2], "", id="one_works"),
        pytest.param([*[("failed", [], "KeyError: x")] * 2, ("running", [0.1], "")], "", id="one_is_under_way"),
    ],
)
def test_hopeless(trials: list[Any], verdict: str) -> None:
    assert hopeless(SPEC, state(*trials)) == verdict


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        pytest.param("val_loss is nan at epoch 1", "val_loss is nan at epoch 12", True, id="numbers"),
        pytest.param("no file /a/b1/x.wav", "no file /a/c2/y.wav", True, id="paths"),
        pytest.param("<Net object at 0x7f01>: lr 1e-3", "<Net object at 0x8e0a>: lr 0.5", True, id="addresses"),
        pytest.param("KeyError: 'a' (t0001)", "KeyError: 'b' (t0002)", True, id="values"),
        pytest.param("val_loss is nan at epoch 1", "train_loss is nan at epoch 1", False, id="metrics"),
        pytest.param("its process died", "its node was taken away", False, id="deaths"),
    ],
)
def test_reasons_that_are_one(one: str, other: str, same: bool) -> None:
    assert same_reason(one, other) is same
