"""The state of a sweep: what its records add up to."""

from __future__ import annotations

from typing import Any

import pytest

from rayconvai.sweep.ranking import t_quantile
from rayconvai.sweep.state import Cost, SweepState, TrialRecord

SPEC = {"metric": {"name": "loss", "mode": "min"}, "more_metrics": [{"name": "size", "mode": "min"}]}


class Told(SweepState):
    """A state that is told records with fewer words; each takes a second."""

    def __call__(self, kind: str, **fields: Any) -> TrialRecord:
        self.apply({"kind": kind, "time": self.time + 1, **fields})
        return self.trials[fields["trial"]]

    def point(self, number: int, repeats: int = 1) -> TrialRecord:
        group, repeat = divmod(number, repeats)
        point = {
            "trial": number,
            "group": group,
            "repeat": repeat,
            "point": {"lr": group},
            "overrides": [f"lr={group}"],
        }
        self("point", **point, notes={})
        return self("attempt", trial=number, attempt=1)

    def results(self, number: int, *losses: float | None) -> None:
        for epoch, loss in enumerate(losses, start=self.trials[number].epoch + 1):
            cost = {"wall": 10 * epoch, "gpu": 5 * epoch, "memory": epoch, "seen": {"audio_seconds": epoch}}
            self("result", trial=number, attempt=1, epoch=epoch, metrics={"loss": loss, "more": 0.0}, cost=cost)


@pytest.fixture
def told() -> Told:
    state = Told()
    state.apply({"kind": "sweep", "time": 0, "version": 2, "identity": {}, "spec": SPEC})
    return state


def test_values_of_a_trial(told: Told) -> None:
    trial = told.point(0)
    told.results(0, 0.9, 0.4, None, 0.6)
    assert (trial.best("loss", "min"), trial.best("loss", "max"), trial.best("more", "min")) == (
        (0.4, 2), (0.9, 1), None
    )  # fmt: skip
    assert trial.curve("loss") == {1: 0.9, 2: 0.4, 4: 0.6}
    assert [trial.value_at("loss", epoch) for epoch in range(6)] == [None, 0.9, 0.4, None, 0.6, None]
    assert (trial.epoch, trial.reported(3), trial.reported(5)) == (4, True, False)
    assert trial.last == {"loss": 0.6, "more": 0.0}


def test_a_takeover_leaves_the_best_of_other_weights_behind(told: Told) -> None:
    trial = told.point(0)
    told.results(0, 0.3, 0.9)
    told("exploit", trial=0, epoch=2, donor=1, point={"lr": 3}, overrides=["lr=3"])
    assert trial.best("loss", "min") is None
    told.results(0, 0.5)
    assert (trial.best("loss", "min"), trial.best("loss", "max")) == ((0.5, 3), (0.5, 3))
    assert trial.curve("loss") == {1: 0.3, 2: 0.9, 3: 0.5}


def test_an_epoch_counts_once_and_may_come_late(told: Told) -> None:
    trial = told.point(0)
    for epoch, loss in ((1, 0.9), (3, 0.3), (1, 0.1), (2, 0.5)):
        told("result", trial=0, attempt=1, epoch=epoch, metrics={"loss": loss}, cost={})
    assert trial.curve("loss") == {1: 0.9, 2: 0.5, 3: 0.3}
    assert trial.last == {"loss": 0.3}


def test_the_ways_of_a_trial(told: Told) -> None:
    trial = told.point(0)
    assert (trial.status, told.count("running")) == ("running", 1)
    told("pause", trial=0, epoch=2)
    assert (trial.status, trial.paused_at) == ("paused", 2)
    told("release", trial=0)
    assert (trial.status, trial.paused_at) == ("waiting", None)
    told("attempt", trial=0, attempt=2)
    told("lost", trial=0, attempt=2, reason="died")
    assert (trial.status, trial.lost, trial.reason) == ("waiting", 1, "died")
    told("attempt", trial=0, attempt=3)
    told("end", trial=0, status="finished", reason="", parameters=7)
    assert (trial.status, trial.attempts, trial.parameters, told.live) == ("finished", 3, 7, {})
    told("reopen", trial=0)
    assert (trial.status, trial.ended, list(told.live)) == ("waiting", None, [0])
    told("attempt", trial=0, attempt=4)
    told.apply({"kind": "close", "time": 20, "reason": "interrupted"})
    assert (trial.status, told.closed, told.count("waiting", "running")) == ("waiting", "interrupted", 1)


def test_an_exploit_changes_the_point(told: Told) -> None:
    trial = told.point(0)
    told("pause", trial=0, epoch=3)
    told("exploit", trial=0, epoch=3, donor=1, point={"lr": 5}, overrides=["lr=5"])
    assert (trial.status, trial.point, trial.overrides) == ("waiting", {"lr": 5}, ["lr=5"])
    assert (trial.first_point, trial.first_overrides) == ({"lr": 0}, ["lr=0"])
    assert [(exploit.epoch, exploit.donor) for exploit in trial.exploits] == [(3, 1)]


def test_costs_add_up_over_attempts_and_trials(told: Told) -> None:
    first, _ = told.point(0), told.point(1)
    told.results(0, 0.5, 0.5)
    told("lost", trial=0, attempt=1, reason="died", cost={"wall": 25, "gpu": 12, "seen": {"audio_seconds": 2}})
    told("attempt", trial=0, attempt=2)
    told.results(0, 0.5)
    told.results(1, 0.5)
    assert first.cost == Cost(wall=55, gpu=27, memory=3, seen={"audio_seconds": 5})
    assert told.cost == Cost(wall=65, gpu=32, memory=3, seen={"audio_seconds": 6})
    told("end", trial=0, status="finished", reason="", cost={"wall": 40, "gpu": 20})
    told("reopen", trial=0)
    assert told.cost == Cost(wall=75, gpu=37, memory=1, seen={"audio_seconds": 3})
    told("attempt", trial=0, attempt=3)
    told("pause", trial=0, epoch=3, cost={"wall": 5})
    assert told.cost.wall == 80


def test_what_early_stopping_saved(told: Told) -> None:
    for number, reason in enumerate(("", "budget.hours", "asha: rung 1")):
        told.point(number)
        told.results(number, 0.5, 0.5)
        told("end", trial=number, status="stopped", reason=reason)
    assert told.saved(10) == 2 * 8 * 10
    assert told.saved() == 0
    told.point(3)
    told.results(3, *[0.5] * 4)
    assert told.saved() == 2 * 2 * 10


def test_the_best_first(told: Told) -> None:
    for number, (loss, status) in enumerate([(0.1, "failed"), (0.5, "finished"), (None, "finished"), (0.2, "stopped")]):
        told.point(number)
        told.results(number, loss)
        told("end", trial=number, status=status, reason="")
    assert [trial.number for trial in told.ranked("loss", "min")] == [3, 1, 2, 0]
    assert [trial.number for trial in told.ranked("loss", "max")] == [1, 3, 2, 0]
    assert [group.group for group in told.ranked_groups("loss", "min")] == [3, 1, 0, 2]


def test_points_rank_by_the_mean_of_their_repeats(told: Told) -> None:
    told.spec = {**SPEC, "repeats": 3}
    losses = [0.5, 0.6, 0.7, 0.1, 0.1, None, 0.3, 0.4, 0.8]
    for number, loss in enumerate(losses):
        told.point(number, repeats=3)
        told.results(number, loss)
    best, second, incomplete = told.ranked_groups("loss", "min")
    assert (best.group, second.group, incomplete.group) == (2, 0, 1)
    assert second.values == [0.5, 0.6, 0.7]
    assert (second.mean, second.low, second.high) == pytest.approx((0.6, 0.3516, 0.8484), abs=1e-4)
    told("end", trial=8, status="infeasible", reason="nan")
    assert [group.group for group in told.ranked_groups("loss", "min")] == [0, 1, 2]


@pytest.mark.parametrize(
    ("freedom", "value"),
    [(1, 12.7062), (2, 4.3027), (5, 2.5706), (9, 2.2622), (10, 2.2281), (15, 2.1314), (30, 2.0423), (120, 1.9799)],
)
def test_student_t(freedom: int, value: float) -> None:
    assert t_quantile(freedom) == pytest.approx(value, rel=1e-4)
