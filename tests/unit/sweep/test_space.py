"""A space: conditions, constraints, corners, and the points that a user gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from rayconvai.errors import ConfigError, SweepError
from rayconvai.sweep.domains import Point
from rayconvai.sweep.space import Space, parse_space

NESTED: dict[str, Any] = {
    "optim.nesterov_decay": {"when": {"optim.nesterov": True}, "is": "normal(0.9, 0.01)"},
    "optim": "choice(adamw, muon, sgd)",
    "optim.nesterov": {"when": {"optim": ["muon", "sgd"]}, "is": "choice(true, false)"},
    "layers": "range(1, 4)",
    "optim.beta": {"when": {"optim": "adamw", "layers": [2, 3]}, "is": "uniform(0.9, 0.99)"},
    "epochs": 5,
}


def test_a_point_holds_what_is_active() -> None:
    space = parse_space(NESTED)
    assert list(space) == ["optim", "optim.nesterov", "optim.nesterov_decay", "layers", "optim.beta", "epochs"]
    rng = np.random.default_rng(0)
    seen = {tuple(space.sample(rng)) for _ in range(100)}
    plain, muon = ("optim", "layers", "epochs"), ("optim", "optim.nesterov", "layers", "epochs")
    assert seen == {
        plain,
        ("optim", "layers", "optim.beta", "epochs"),
        muon,
        ("optim", "optim.nesterov", "optim.nesterov_decay", "layers", "epochs"),
    }


FINITE: dict[str, Any] = {
    "a": "choice(1, true, x)",
    "b": {"when": {"a": [1, "x"]}, "is": "range(0, 3)"},
    "c": {"when": {"b": 2, "a": 1}, "is": "choice(u, v)"},
    "d": "choice(p, q)",
}


def test_all_points_of_a_conditional_space() -> None:
    points = list(parse_space(FINITE).all_points())
    assert points[:3] == [{"a": 1, "b": 0, "d": "p"}, {"a": 1, "b": 0, "d": "q"}, {"a": 1, "b": 1, "d": "p"}]
    assert len({repr(point) for point in points}) == len(points) == parse_space(FINITE).size == 2 * (2 + 2 + 1 + 3)
    assert parse_space(NESTED).size == float("inf")


shares = st.lists(st.floats(0, 1, exclude_max=True), min_size=6, max_size=6)


@given(shares)
def test_what_is_drawn_is_contained(shares: list[float]) -> None:
    space = parse_space(NESTED)
    point = space.at(shares)
    assert space.contains(point)
    assert not space.contains({**point, "other": 1})
    assert not space.contains({key: value for key, value in point.items() if key != "layers"})


@pytest.mark.parametrize(
    ("space", "words"),
    [
        pytest.param({"a": {"when": {"b": 1}, "is": 2}}, "names 'b', which is not a key", id="unknown_key"),
        pytest.param({"optim": "a, b", "c": {"when": {"optm": "a"}, "is": 2}}, "nearest: optim", id="nearest_key"),
        pytest.param({"a": "x, y", "b": {"when": {"a": "z"}, "is": 1}}, "cannot be 'z'", id="value_never"),
        pytest.param({"a": "adamw, muon", "b": {"when": {"a": "mun"}, "is": 1}}, "nearest: 'muon'", id="nearest_value"),
        pytest.param({"a": "1, 2", "b": {"when": {"a": True}, "is": 1}}, "a cannot be true", id="true_is_not_1"),
        pytest.param({"a": "uniform(0, 1)", "b": {"when": {"a": 0.5}, "is": 1}}, "never met", id="of_a_range"),
        pytest.param({"a": "1, 2", "b": {"when": {"a": []}, "is": 1}}, "cannot be nothing", id="no_value"),
        pytest.param(
            {"a": {"when": {"b": 1}, "is": "1, 2"}, "b": {"when": {"a": 1}, "is": "1, 2"}},
            "conditions of a, b go round in a circle",
            id="circle",
        ),
        pytest.param({"a": {"when": {"b": 1}}}, "is written {when:", id="nothing_is"),
        pytest.param({"a": {"wenn": {"b": 1}, "is": 1}}, "it has a key 'wenn'; nearest: when", id="misspelt"),
        pytest.param({"a": {"b": "choice(1, 2)"}}, "with dots, 'a.b: ...'", id="tree"),
        pytest.param({"a": {"when": "b", "is": 1}}, "is written {when:", id="no_mapping"),
        pytest.param({"a": {"when": {"b": 1}, "is": [1, 2]}}, "write choice(...)", id="list"),
        pytest.param({"a": {"when": {"b": 1}, "is": "unifrom(0, 1)"}}, "nearest: uniform", id="expression"),
    ],
)
def test_refused(space: dict[str, Any], words: str) -> None:
    with pytest.raises(SweepError) as error:
        parse_space(space)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"space key '{error.value.key.removeprefix('space.')}'")


def test_a_condition_on_a_key_that_was_fixed() -> None:
    space = parse_space({"a": 2, "b": {"when": {"a": [1, 2]}, "is": 3}})
    assert space.at([0, 0]) == {"a": 2, "b": 3}


def draw_first(space: Space, given: Point) -> Point:
    return space.complete(given, lambda dimension: dimension.domain.corners()[0])


@pytest.mark.parametrize(
    ("given", "point"),
    [
        pytest.param({}, {"optim": "adamw", "layers": 1, "epochs": 5}, id="nothing"),
        pytest.param(
            {"optim.nesterov_decay": 1},
            {"optim": "muon", "optim.nesterov": True, "optim.nesterov_decay": 1.0, "layers": 1, "epochs": 5},
            id="what_it_needs",
        ),
        pytest.param(
            {"optim.beta": 0.95}, {"optim": "adamw", "layers": 2, "optim.beta": 0.95, "epochs": 5}, id="two_conditions"
        ),
    ],
)
def test_complete(given: Point, point: Point) -> None:
    assert draw_first(parse_space(NESTED), given) == point


@pytest.mark.parametrize(
    ("given", "words"),
    [
        pytest.param({"optm": "muon"}, "'optm' is not a key of the space; nearest: optim", id="unknown"),
        pytest.param(
            {"optim": "muno"}, "optim='muno' lies outside the space; nearest: 'muon'; it has:", id="no_option"
        ),
        pytest.param({"layers": 7}, "layers=7 lies outside the space, which goes from 1 to 3", id="beyond"),
        pytest.param({"layers": True}, "layers=true lies outside", id="true_is_not_1"),
        pytest.param(
            {"optim": "adamw", "optim.nesterov": True},
            "'optim.nesterov' is not active here: optim is to be 'muon' or 'sgd'",
            id="inactive",
        ),
        pytest.param({"optim.nesterov": False, "optim.nesterov_decay": 0.9}, "not active here", id="nested_inactive"),
    ],
)
def test_cannot_complete(given: Point, words: str) -> None:
    with pytest.raises(SweepError) as error:
        draw_first(parse_space(NESTED), given)
    assert words in str(error.value)


def test_corner_points_have_every_value() -> None:
    space = parse_space(NESTED, ["layers != 1 or optim == 'adamw'"])
    points = space.corner_points()
    assert points[:1] == [{"optim": "adamw", "layers": 1, "epochs": 5}]
    assert all(space.contains(point) and space.refused_by(point) is None for point in points)
    for key, domain in space.items():
        assert {repr(point[key]) for point in points if key in point} >= {repr(value) for value in domain.corners()}


def test_what_no_point_may_have() -> None:
    space = parse_space(NESTED, ["optim != 'sgd' or layers > 3"])
    assert space.holding({"optim": "sgd"}) is None
    assert space.holding({"optim": "adamw", "optim.nesterov": True}) is None


def test_constraints_read_the_config_of_the_point() -> None:
    asked: list[Point] = []

    def config_of(point: Point) -> DictConfig:
        asked.append(point)
        if point["width"] == 9:
            raise ConfigError("no such model")
        return OmegaConf.create({"model": {"width": "${double:}", "heads": 4, "sizes": [1, 2], "double": None}} | point)

    OmegaConf.register_new_resolver("double", lambda: 16, replace=True)
    within = parse_space({"width": "choice(4, 6, 9)"}, ["width > 0"], config_of)
    assert within.refused_by({"width": 6}) is None
    assert asked == []
    beyond = parse_space(
        {"width": "choice(4, 6, 9)"},
        ["width % model.heads == 0", "model.width == 16 and len(model.sizes) == 2", "model.nothing > width"],
        config_of,
    )
    assert beyond.refused_by({"width": 4}) is None
    refused = beyond.refused_by({"width": 6})
    assert refused is not None
    assert refused.text == "width % model.heads == 0"
    assert beyond.refused_by({"width": 9}) is None, "what cannot be composed ends as infeasible"
    assert asked == [{"width": 4}, {"width": 6}, {"width": 9}]


def test_a_constraint_that_cannot_be_evaluated_says_where() -> None:
    space = parse_space({"a": "choice(0, x)", "b": 1}, ["b / a > 0"])
    with pytest.raises(SweepError, match=r"constraint 'b / a > 0': division by zero, at a=0, b=1"):
        space.refused_by({"a": 0, "b": 1})
    with pytest.raises(SweepError, match=r"'x' is not a number, at a='x', b=1"):
        space.refused_by({"a": "x", "b": 1})
