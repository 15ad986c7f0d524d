"""Searchers: seeded, within their space, and the same after a restart."""

from __future__ import annotations

import pytest

from rayconvai.errors import SweepError
from rayconvai.sweep.domains import Domain, Point
from rayconvai.sweep.search import Searcher, build_searcher
from rayconvai.sweep.space import parse_domain
from rayconvai.sweep.spec import SearchSpec

SPACE: dict[str, Domain] = {
    "lr": parse_domain("loguniform(1e-4, 1e-2)"),
    "layers": parse_domain("randint(1, 9)"),
    "optim": parse_domain("choice(adamw, muon, null)"),
    "drop": parse_domain("quniform(0, 0.3, 0.1)"),
    "fixed": parse_domain("7"),
}


def searcher(name: str, seed: int = 0, space: dict[str, Domain] = SPACE) -> Searcher:
    return build_searcher(SearchSpec(name=name, seed=seed), space, "min")  # type: ignore[arg-type]


def loss(point: Point) -> float:
    return abs(point["layers"] - 6) + (point["optim"] != "muon")


def play(search: Searcher, count: int) -> list[Point | None]:
    points = []
    for number in range(count):
        point = search.ask(number)
        assert point is not None
        points.append(point)
        if number % 7 == 6:
            search.tell(number, None)
        else:
            search.tell(number, loss(point), stopped_at=2 if number % 3 == 2 else None)
    return points


@pytest.mark.parametrize("name", ["random", "optuna"])
def test_same_seed_same_points(name: str) -> None:
    first = play(searcher(name), 20)
    assert first == play(searcher(name), 20)
    assert first != play(searcher(name, seed=1), 20)
    assert all(SPACE[key].contains(value) for point in first for key, value in (point or {}).items())
    assert all(list(point or {}) == list(SPACE) for point in first)


@pytest.mark.parametrize("name", ["random", "optuna"])
def test_taken_up_again_proposes_what_it_would_have(name: str) -> None:
    whole = play(searcher(name), 20)
    again = searcher(name)
    for number, point in enumerate(whole[:13]):
        assert point is not None
        again.recall(number, point)
        if number % 7 == 6:
            again.tell(number, None)
        else:
            again.tell(number, loss(point), stopped_at=2 if number % 3 == 2 else None)
    assert again.ask(13) == whole[13]


def test_optuna_learns() -> None:
    points = play(searcher("optuna"), 60)
    late = [loss(point) for point in points[30:] if point]
    early = [loss(point) for point in points[:10] if point]
    assert sum(late) / len(late) < sum(early) / len(early)


def test_grid_goes_through_all_once() -> None:
    space = {"a": parse_domain("grid(1, 2)"), "b": parse_domain("choice(x, y)"), "c": parse_domain("range(0, 2)")}
    grid = searcher("grid", space=space)
    assert grid.total == 8
    points = [grid.ask(number) for number in range(8)]
    assert points[:3] == [{"a": 1, "b": "x", "c": 0}, {"a": 1, "b": "x", "c": 1}, {"a": 1, "b": "y", "c": 0}]
    assert len({str(point) for point in points}) == 8
    assert grid.ask(8) is None


def test_random_goes_through_grids_in_turn() -> None:
    search = searcher("random", space={"a": parse_domain("grid(1, 2, 3)"), "b": parse_domain("uniform(0, 1)")})
    assert [(search.ask(number) or {})["a"] for number in range(6)] == [1, 2, 3, 1, 2, 3]


def test_refused() -> None:
    with pytest.raises(SweepError, match="space key 'lr' has no end of values"):
        searcher("grid")
    with pytest.raises(SweepError, match=r"space key 'a': .*write choice"):
        searcher("optuna", space={"a": parse_domain("grid(1, 2)")})
