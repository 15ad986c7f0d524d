"""Searchers: seeded, within their space, and the same after a restart."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayconvai.errors import SweepError
from rayconvai.sweep.domains import Point
from rayconvai.sweep.search import Searcher, build_searcher
from rayconvai.sweep.space import parse_space
from rayconvai.sweep.spec import MetricSpec, SearchSpec, SweepSpec

SPACE: dict[str, Any] = {
    "lr": "loguniform(1e-4, 1e-2)",
    "layers": "randint(1, 9)",
    "optim": "choice(adamw, muon, null)",
    "drop": "quniform(0, 0.3, 0.1)",
    "gain": "normal(1, 0.2)",
    "fixed": 7,
}
CONDITIONS: dict[str, Any] = {
    "momentum": {"when": {"optim": "muon"}, "is": "uniform(0.8, 0.99)"},
    "nesterov": {"when": {"optim": ["muon", None]}, "is": "choice(true, false)"},
}
FINITE = {"layers": "range(1, 9)", "optim": "choice(adamw, muon, null)", "nesterov": CONDITIONS["nesterov"]}
LENGTHS = {"gp": 12}
"""A Gaussian process takes its time, and draws the first ten."""
CONSTRAINT = "layers % 2 == 0 or optim == 'muon'"
SEARCHES: dict[str, dict[str, Any]] = {
    "random": {"name": "random"},
    "grid": {"name": "grid"},
    "quasirandom": {"name": "quasirandom"},
    "tpe": {"sampler": "tpe"},
    "tpe_multivariate": {"sampler": "tpe", "multivariate": True},
    "gp": {"sampler": "gp"},
    "cmaes": {"sampler": "cmaes"},
    "nsga2": {"sampler": "nsga2", "population": 4},
    "nsga2_one_metric": {"sampler": "nsga2", "population": 4},
}
ALL = [pytest.param(name, id=name) for name in SEARCHES]
ENDLESS = [pytest.param(name, id=name) for name in SEARCHES if name != "grid"]


def sweep(name: str, space: dict[str, Any], seed: int = 0, **rest: Any) -> SweepSpec:
    more = [MetricSpec(name="size", mode="max")] if name == "nsga2" else []
    search = SearchSpec(**SEARCHES[name], seed=seed)
    return SweepSpec(name=name, recipe="r", space=space, metric=MetricSpec(), more_metrics=more, search=search, **rest)


def searcher(name: str, space: dict[str, Any] | None = None, seed: int = 0, **rest: Any) -> Searcher:
    space = space or (FINITE if name == "grid" else SPACE | CONDITIONS)
    spec = sweep(name, space, seed, **rest)
    return build_searcher(spec, parse_space(space, spec.constraints))


def results(search: Searcher, point: Point) -> list[float]:
    loss = abs(point["layers"] - 6) + (point["optim"] != "muon") + abs(point.get("momentum", 1.0) - 0.9)
    return [loss, float(point["layers"])][: len(getattr(search, "worst", [0]))]


def tell(search: Searcher, group: int, point: Point) -> None:
    if group % 7 == 6:
        search.tell(group, None)
    else:
        search.tell(group, results(search, point), stopped_at=2 if group % 3 == 2 else None)


def play(search: Searcher, start: int, stop: int) -> list[tuple[Point, str]]:
    played = []
    for group in range(start, stop):
        point = search.ask(group)
        assert point is not None
        played.append((point, json.dumps(search.notes(group))))
        tell(search, group, point)
    return played


def recall(search: Searcher, played: list[tuple[Point, str]]) -> None:
    for group, (point, notes) in enumerate(played):
        search.recall(group, json.loads(json.dumps(point)), json.loads(notes))
        tell(search, group, point)


@pytest.mark.parametrize("name", ENDLESS)
def test_same_seed_same_points_of_the_space(name: str) -> None:
    first, again, other = (
        [point for point, _ in play(searcher(name, seed=seed, constraints=[CONSTRAINT]), 0, LENGTHS.get(name, 25))]
        for seed in (0, 0, 1)
    )
    assert first == again != other
    space = parse_space(SPACE | CONDITIONS, [CONSTRAINT])
    assert all(space.contains(point) and space.refused_by(point) is None for point in first)
    assert len({len(point) for point in first}) > 1


@pytest.mark.parametrize("name", [name for name in ALL if name.id != "gp"])
@settings(max_examples=5, deadline=None)
@given(cut=st.integers(0, 24), constrained=st.booleans())
def test_taken_up_again_proposes_what_it_would_have(name: str, cut: int, constrained: bool) -> None:
    def make() -> Searcher:
        if constrained:
            points = [{"layers": 6, "optim": "muon"}, {"layers": 2}]
            return searcher(name, constraints=[CONSTRAINT], points=points)
        return searcher(name, space=None if name == "grid" else SPACE)

    total = make().total or LENGTHS.get(name, 25)
    whole = play(make(), 0, total)
    again = make()
    recall(again, whole[:cut])
    assert [point for point, _ in play(again, min(cut, total), total)] == [point for point, _ in whole[cut:]]


NUMBERS = {"layers": "randint(1, 9)", "x": "uniform(0, 1)", "y": "loguniform(1e-3, 1)", "optim": "choice(a, b)"}
LEARNERS = ["tpe", "tpe_multivariate", "gp", "cmaes", "nsga2_one_metric"]


def far(point: Point) -> float:
    return abs(point["layers"] - 6) / 8 + abs(point["x"] - 0.8) + abs(math.log10(point["y"]) + 1) / 3


def mean(points: list[Point]) -> float:
    return sum(map(far, points)) / len(points)


def learn_alone(search: Searcher, count: int, infeasible: Callable[[Point], bool] = lambda _: False) -> list[Point]:
    points = []
    for group in range(count):
        point = search.ask(group)
        assert point is not None
        search.tell(group, None if infeasible(point) else [far(point)])
        points.append(point)
    return points


@pytest.mark.parametrize("name", LEARNERS)
def test_learners_learn(name: str) -> None:
    points = learn_alone(searcher(name, NUMBERS), 15 if name == "gp" else 60)
    assert mean(points[-5:]) < 0.8 * mean(points[:10])


@pytest.mark.parametrize("name", LEARNERS)
def test_what_cannot_work_is_avoided(name: str) -> None:
    points = learn_alone(searcher(name, NUMBERS), 15 if name == "gp" else 80, lambda point: point["x"] > 0.5)
    late = points[10:][-20:]
    assert sum(point["x"] > 0.5 for point in late) < 0.35 * len(late)


@pytest.mark.parametrize("name", LEARNERS)
def test_warm_start(name: str) -> None:
    drawn = learn_alone(searcher("random", NUMBERS), 15 if name == "gp" else 40)
    cold, warm, again = (searcher(name, NUMBERS, seed=1) for _ in range(3))
    for point in drawn:
        warm.learn(point, [far(point)])
        again.learn(point, [far(point)])
    asked = learn_alone(warm, 5)
    assert mean(asked) < mean(learn_alone(cold, 5))
    for group, point in enumerate(asked[:4]):
        again.recall(group, point, warm.notes(group))
        again.tell(group, [far(point)])
    assert again.ask(4) == asked[4]


@pytest.mark.parametrize("name", [pytest.param(name, id=name) for name in SEARCHES if name not in ("grid", "gp")])
def test_groups_side_by_side(name: str) -> None:
    search, other = searcher(name), searcher(name)
    running: list[int] = []
    played = []
    for group in range(30):
        point = search.ask(group)
        assert point is not None
        played.append((point, search.notes(group)))
        running.append(group)
        if len(running) == 4:
            ended = running.pop(group % 4)
            search.tell(ended, results(search, played[ended][0]))
    for group, (point, notes) in enumerate(played):
        other.recall(group, point, notes)
        if group not in running:
            other.tell(group, results(other, point))
    assert other.ask(30) == search.ask(30)
    assert len({repr(point) for point, _ in played}) == 30


@pytest.mark.parametrize("name", ENDLESS)
def test_points_to_try_first(name: str) -> None:
    points = [{"layers": 6, "momentum": 0.9}, {"lr": 1e-3, "optim": None}]
    asked = [point for point, _ in play(searcher(name, points=points), 0, 4)]
    assert asked == [point for point, _ in play(searcher(name, points=points), 0, 4)]
    space = parse_space(SPACE | CONDITIONS)
    assert all(space.contains(point) for point in asked)
    assert asked[0] == asked[0] | {"layers": 6, "momentum": 0.9, "optim": "muon"}
    assert asked[1] == asked[1] | {"lr": 1e-3, "optim": None}


@pytest.mark.parametrize(
    ("point", "words"),
    [
        pytest.param(
            {"layer": 3}, "points: {'layer': 3}: 'layer' is not a key of the space; nearest: layers", id="key"
        ),
        pytest.param({"optim": "adam"}, "nearest: 'adamw'", id="option"),
        pytest.param({"layers": 9}, "layers=9 lies outside the space, which goes from 1 to 8", id="bound"),
        pytest.param({"optim": "adamw", "momentum": 0.9}, "'momentum' is not active here", id="inactive"),
        pytest.param({"layers": 3, "optim": "adamw"}, f"constraint '{CONSTRAINT}' refused", id="constraint"),
    ],
)
def test_points_that_cannot_be(point: Point, words: str) -> None:
    with pytest.raises(SweepError) as error:
        searcher("random", points=[point], constraints=[CONSTRAINT])
    assert words in str(error.value)
    assert error.value.key == "points"


def test_grid_goes_through_all_once() -> None:
    grid = searcher("grid", {"a": "grid(1, 2)", "b": "choice(x, y)", "c": "range(0, 2)"})
    assert grid.total == 8
    points = [grid.ask(group) for group in range(8)]
    assert points[:3] == [{"a": 1, "b": "x", "c": 0}, {"a": 1, "b": "x", "c": 1}, {"a": 1, "b": "y", "c": 0}]
    assert len({repr(point) for point in points}) == 8
    assert grid.ask(8) is None


@pytest.mark.parametrize("constraints", [pytest.param([], id="free"), pytest.param([CONSTRAINT], id="constrained")])
def test_grid_of_what_is_active_and_allowed(constraints: list[str]) -> None:
    points = [{"layers": 4, "optim": "adamw"}, {"layers": 4, "optim": "adamw"}, {"layers": 2, "nesterov": False}]
    grid = searcher("grid", constraints=constraints, points=points)
    space = parse_space(FINITE, constraints)
    expected = [point for point in space.all_points() if space.refused_by(point) is None]
    assert grid.total == len(expected)
    asked = [grid.ask(group) for group in range(grid.total)]
    assert asked[0] == points[0]
    assert sorted(map(repr, asked)) == sorted(map(repr, expected))
    assert grid.ask(grid.total) is None


def test_random_goes_through_grids_in_turn() -> None:
    search = searcher("random", {"a": "grid(1, 2, 3)", "b": "uniform(0, 1)"})
    assert [(search.ask(group) or {})["a"] for group in range(6)] == [1, 2, 3, 1, 2, 3]


def test_random_leaves_out_forbidden_cells() -> None:
    space = {"a": "grid(1, 2, 3)", "b": {"when": {"a": [1, 3]}, "is": "grid(x, y)"}, "c": "uniform(0, 1)"}
    search = searcher("random", space, constraints=["a != 2", "b != 'y' or a == 1"])
    cells = Counter((point["a"], point["b"]) for group in range(50) if (point := search.ask(group)))
    assert cells.keys() == {(1, "x"), (1, "y"), (3, "x")}


def test_sobol_points_are_spread_evenly() -> None:
    search = searcher("quasirandom", {"x": "uniform(0, 1)", "y": "uniform(0, 1)", "k": "choice(a, b, c, d)"})
    points = [search.ask(group) or {} for group in range(64)]
    for key in ("x", "y"):
        assert sorted(int(point[key] * 64) for point in points) == list(range(64))
    assert len({(int(point["x"] * 8), int(point["y"] * 8)) for point in points}) == 64
    assert set(Counter(point["k"] for point in points).values()) == {16}


@pytest.mark.parametrize("name", [pytest.param(name, id=name) for name in SEARCHES if name not in ("grid", "gp")])
def test_constraints_that_leave_nothing(name: str) -> None:
    search = searcher(name, constraints=["layers > 0", "lr > 1"])
    with pytest.raises(SweepError, match=r"constraint 'lr > 1' refused 1000 of 1000 points"):
        search.ask(0)


@pytest.mark.parametrize(
    ("name", "space", "words"),
    [
        pytest.param("grid", SPACE, "space key 'lr' has no end of values", id="endless_grid"),
        pytest.param("tpe", {"a": "grid(1, 2)"}, "space key 'a': optuna does not go through a grid", id="grid"),
        pytest.param("quasirandom", {"a": "grid(1, 2)"}, "quasirandom does not go through a grid", id="grid_of_sobol"),
        pytest.param("cmaes", {"a": "choice(1, 2)"}, "cmaes searches numbers", id="no_numbers"),
    ],
)
def test_refused(name: str, space: dict[str, Any], words: str) -> None:
    with pytest.raises(SweepError) as error:
        searcher(name, space)
    assert words in str(error.value)


@pytest.mark.parametrize(("name", "module"), [("cmaes", "cmaes"), ("gp", "scipy")])
def test_what_is_not_installed(name: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SweepError, match=rf"{module} is not installed; run: pip install 'rayconvai\[search\]'"):
        searcher(name)
