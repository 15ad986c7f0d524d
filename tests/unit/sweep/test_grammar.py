"""The grammar of a space, its domains, and the way of a value into Hydra and back."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayconvai.errors import SweepError
from rayconvai.sweep.domains import Choice, Domain, Fixed, Float, Grid, Int, Normal
from rayconvai.sweep.grammar import parse_domain, parse_value, quote


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        pytest.param("choice(2, 4)", Choice((2, 4)), id="choice"),
        pytest.param("choice([2, 4])", Choice((2, 4)), id="choice_as_ray_writes_it"),
        pytest.param("choice([1, 2], [3])", Choice(([1, 2], [3])), id="choice_of_lists"),
        pytest.param("choice(a, 'b, c', null, true, 1e-3)", Choice(("a", "b, c", None, True, 1e-3)), id="choice_kinds"),
        pytest.param("choice(1, 1.0, true)", Choice((1, 1.0, True)), id="choice_tells_types_apart"),
        pytest.param(r"choice('it\'s', x)", Choice(("it's", "x")), id="escaped_quote"),
        pytest.param("adamw, muon", Choice(("adamw", "muon")), id="hydra_list"),
        pytest.param("grid(1, 2)", Grid((1, 2)), id="grid"),
        pytest.param("tune.grid_search([1, 2])", Grid((1, 2)), id="grid_as_ray_writes_it"),
        pytest.param("uniform(0, 0.1)", Float(0.0, 0.1), id="uniform"),
        pytest.param("uniform(lower=0, upper=0.1)", Float(0.0, 0.1), id="by_name"),
        pytest.param("loguniform(1e-4, 1e-2)", Float(1e-4, 1e-2, log=True), id="loguniform"),
        pytest.param("quniform(0, 0.3, 0.1)", Float(0.0, 0.3, step=0.1), id="quniform"),
        pytest.param("randint(1, 4)", Int(1, 3), id="randint_leaves_out_its_end"),
        pytest.param("lograndint(4, 64)", Int(4, 63, log=True), id="lograndint"),
        pytest.param("qrandint(2, 8, 2)", Int(2, 8, step=2), id="qrandint_has_its_end"),
        pytest.param("interval(1, 8)", Float(1.0, 8.0), id="interval_is_float"),
        pytest.param("int(interval(1, 8))", Int(1, 8), id="int_interval_has_both_ends"),
        pytest.param("float(interval(1, 8))", Float(1.0, 8.0), id="float_interval"),
        pytest.param("tag(log, interval(1e-4, 1e-2))", Float(1e-4, 1e-2, log=True), id="tag_log"),
        pytest.param("int(tag(log, interval(4, 64)))", Int(4, 64, log=True), id="int_tag_log"),
        pytest.param("tag(log, int(interval(4, 64)))", Int(4, 64, log=True), id="tag_log_int"),
        pytest.param("range(1, 4)", Int(1, 3), id="range"),
        pytest.param("range(4)", Int(0, 3), id="range_from_0"),
        pytest.param("range(1, 10, step=3)", Int(1, 7, step=3), id="range_starts_where_it_says"),
        pytest.param("range(0, 0.3, step=0.1)", Float(0.0, 0.2, step=0.1), id="float_range_leaves_out_its_end"),
        pytest.param("normal(0, 0.5)", Normal(0.0, 0.5), id="normal"),
        pytest.param("normal(mean=3, sd=1)", Normal(3.0, 1.0), id="normal_by_name"),
        pytest.param("adamw", Fixed("adamw"), id="fixed_text"),
        pytest.param(4, Fixed(4), id="fixed_number"),
        pytest.param(None, Fixed(None), id="fixed_null"),
    ],
)
def test_parse(text: Any, domain: Domain) -> None:
    parsed = parse_domain(text)
    assert parsed == domain
    assert [type(value) for value in parsed.corners()] == [type(value) for value in domain.corners()]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("loguniforn(1, 2)", "nearest: loguniform", id="unknown_function"),
        pytest.param("__import__(os)", "no function '__import__'", id="not_python"),
        pytest.param("uniform(0.1, 0)", "the other way round", id="bounds_swapped"),
        pytest.param("randint(4, 4)", "nothing between", id="bounds_equal"),
        pytest.param("loguniform(0, 1)", "no logarithm", id="log_of_zero"),
        pytest.param("tag(log, interval(-1, 1))", "no logarithm", id="log_of_negative"),
        pytest.param("choice()", "nothing to choose from", id="empty_choice"),
        pytest.param("choice(a,,b)", "between two commas", id="empty_option"),
        pytest.param("choice(a, a)", "stands twice", id="option_twice"),
        pytest.param("uniform(0)", "upper is missing", id="missing_bound"),
        pytest.param("uniform(0, 1, 2)", "takes (lower, upper)", id="too_many"),
        pytest.param("uniform(lower=0, uper=1)", "nearest: upper", id="unknown_name"),
        pytest.param("uniform(a, b)", "not a number", id="bounds_of_text"),
        pytest.param("uniform(0, inf)", "not a number", id="endless"),
        pytest.param("randint(0.5, 2)", "not an integer", id="integer_wanted"),
        pytest.param("qrandint(1, 9, 2)", "no multiple of q=2", id="ray_would_never_draw_1"),
        pytest.param("range(1.0, 2.0)", "holds one value", id="degenerate_range"),
        pytest.param("range(0, 4, step=-1)", "step is -1", id="backwards"),
        pytest.param("tag(grid, choice(1, 2))", "the one tag is log", id="other_tag"),
        pytest.param("tag(log, choice(1, 2))", "takes an interval", id="tag_on_choice"),
        pytest.param("int(choice(1, 2))", "takes an interval", id="cast_of_choice"),
        pytest.param("choice(a, range(1, 3))", "inside one another", id="nested"),
        pytest.param("choice(a, (b)", "bracket is not closed", id="open_bracket"),
        pytest.param("choice(a, 'b)", "quote is not closed", id="open_quote"),
        pytest.param("shuffle(range(1, 5))", "no function 'shuffle'", id="shuffle"),
        pytest.param("choice(no, nan)", "quote what is meant as a text", id="nan"),
        pytest.param("normal(0, 0)", "sd is 0", id="no_spread"),
        pytest.param("glob(*)", "no function 'glob'", id="glob"),
    ],
)
def test_refused(text: str, words: str) -> None:
    with pytest.raises(SweepError) as error:
        parse_domain(text)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@st.composite
def domains(draw: st.DrawFn) -> Domain:
    kind = draw(
        st.sampled_from(["choice", "uniform", "loguniform", "quniform", "randint", "lograndint", "qrandint", "normal"])
    )
    if kind == "choice":
        values = draw(st.lists(st.integers() | st.booleans() | st.none(), min_size=1, max_size=5, unique_by=repr))
        return parse_domain(f"choice({', '.join(quote(value) for value in values)})")
    if kind == "normal":
        return parse_domain(f"normal({draw(st.floats(-1e3, 1e3))!r}, {draw(st.floats(1e-3, 1e3))!r})")
    if kind in ("uniform", "loguniform"):
        floor = 1e-9 if kind == "loguniform" else -1e6
        low = draw(st.floats(floor, 1e6))
        high = draw(st.floats(low, 2e6, exclude_min=True))
        return parse_domain(f"{kind}({low!r}, {high!r})")
    if kind in ("quniform", "qrandint"):
        step = draw(st.integers(1, 50)) / (1 if kind == "qrandint" else 100)
        first, count = draw(st.integers(-50, 50)), draw(st.integers(1, 50))
        low, high = ((round(k * step, 2) if kind == "quniform" else int(k * step)) for k in (first, first + count))
        return parse_domain(f"{kind}({low}, {high}, {step if kind == 'quniform' else int(step)})")
    low = draw(st.integers(1 if kind == "lograndint" else -1000, 1000))
    return parse_domain(f"{kind}({low}, {draw(st.integers(low + 1, 2000))})")


@given(domain=domains(), share=st.floats(0, 1, exclude_max=True))
def test_values_and_corners_lie_within(domain: Domain, share: float) -> None:
    for value in (domain.at(share), domain.at(0.0), *domain.corners()):
        assert domain.contains(value)
        back = domain.decode(domain.encode(value))
        assert back == value or (isinstance(domain, Normal) and math.isclose(back, value, abs_tol=1e-6 * domain.sd))
        assert domain.distribution()._contains(domain.distribution().to_internal_repr(domain.encode(value)))


@pytest.mark.parametrize("text", ["choice(a, b, c)", "randint(2, 9)", "qrandint(2, 8, 2)", "quniform(0, 0.3, 0.1)"])
def test_equal_shares_to_all_values(text: str) -> None:
    domain = parse_domain(text)
    drawn = [domain.at((index + 0.5) / 840) for index in range(840)]
    assert {drawn.count(value) for value in domain.values() or ()} == {840 // len(domain.values() or ())}


def test_log_integers_reach_both_ends() -> None:
    domain = parse_domain("lograndint(1, 5)")
    assert {domain.at(index / 300) for index in range(300)} == {1, 2, 3, 4}


def test_normal_has_the_moments_it_says() -> None:
    domain = parse_domain("normal(3, 0.5)")
    drawn = [domain.at((index + 0.5) / 10_000) for index in range(10_000)]
    assert np.mean(drawn) == pytest.approx(3)
    assert np.std(drawn) == pytest.approx(0.5, rel=1e-3)
    assert np.mean(np.array(drawn) < 2.5) == pytest.approx(0.15866, abs=1e-4)


def test_steps_are_the_numbers_one_would_write() -> None:
    assert parse_domain("quniform(0, 0.3, 0.1)").values() == (0.0, 0.1, 0.2, 0.3)


plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
keys = st.text("abcdefghijklmnop_", min_size=1)


@given(st.recursive(plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3)))
def test_quote_reads_back(value: Any) -> None:
    back = parse_value(quote(value))
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize(
    "text", ["a b", "it's", "x,y", "[1]", "1", "true", "null", "a=b", "\\", "\\'", "a\\\\'", "café", ""]
)
def test_quote_keeps_text_text(text: str) -> None:
    assert parse_value(quote(text)) == text


def test_nan_survives() -> None:
    assert math.isnan(parse_value(quote(math.nan)))
