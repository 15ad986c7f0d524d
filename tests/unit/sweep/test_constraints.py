"""The language of constraints: what it means, and what is outside it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayconvai.errors import SweepError
from rayconvai.sweep.constraints import ABSENT, parse_constraint

POINT = {"a.b": 8, "c": 3, "optim": "muon", "model/encoder": "conformer", "blocks.0.width": 2, "optim.lambda": 0.5}
POINT |= {"min": 3, "flag": True, "sizes": [4, 8]}


def holds(text: str) -> bool:
    return parse_constraint(text, groups=["model/encoder"]).holds(lambda name: POINT.get(name, ABSENT))


@pytest.mark.parametrize(
    ("text", "truth"),
    [
        pytest.param("a.b % c == 2", True, id="arithmetic"),
        pytest.param("a.b / 2 == a.b // 2 and c ** 2 - -1 == 10", True, id="all_operators"),
        pytest.param("1 < c < 5 < a.b", True, id="chain"),
        pytest.param("1 < c < 3", False, id="chain_breaks"),
        pytest.param("optim in ['muon', \"adamw\"]", True, id="within"),
        pytest.param("c not in [1, 2]", True, id="not_within"),
        pytest.param("a.b in sizes and len(sizes) == 2", True, id="config_list"),
        pytest.param("model/encoder == 'conformer'", True, id="group_with_a_slash"),
        pytest.param("a.b/c > 2", True, id="division_without_spaces"),
        pytest.param("blocks.0.width == 2", True, id="index_in_a_key"),
        pytest.param("optim.lambda < 1e0", True, id="word_of_python_in_a_key"),
        pytest.param("min == 3 and min(a.b, c) == max([1, c])", True, id="key_called_as_a_function"),
        pytest.param("flag == true and not flag == 1", True, id="true_is_not_1"),
        pytest.param("optim != null and c == 3.0", True, id="null"),
        pytest.param("optim == 'it\\'s'", False, id="escaped_quote"),
        pytest.param("nothing > 3", True, id="absent_holds"),
        pytest.param("nothing > 3 and c == 4", False, id="false_whatever_is_absent"),
        pytest.param("nothing > 3 or c == 4", True, id="may_be_true"),
        pytest.param("not nothing > 3", True, id="not_absent"),
        pytest.param("min(nothing, 2) ** 2 in [1]", True, id="absent_within_a_calculation"),
        pytest.param("c == 3 or c / 0 == 1", True, id="or_stops"),
        pytest.param("c == 4 and c / 0 == 1", False, id="and_stops"),
    ],
)
def test_meaning(text: str, truth: bool) -> None:
    assert holds(text) is truth


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("a.b % c", "2 is neither true nor false", id="no_comparison"),
        pytest.param("a.b + optim == 1", "'muon' is not a number", id="text_in_arithmetic"),
        pytest.param("'x' * 10 == 'x'", "'x' is not a number", id="text_times"),
        pytest.param("flag + 1 == 2", "True is not a number", id="truth_in_arithmetic"),
        pytest.param("optim < 3", "'muon' is not a number", id="text_below_number"),
        pytest.param("c in 'abc'", "no list", id="within_text"),
        pytest.param("c / (a.b - 8) > 1", "division by zero", id="division_by_zero"),
        pytest.param("a.b ** a.b ** a.b ** 9 > 1", "too large", id="tower"),
        pytest.param("10.0 ** 400 > 1", "too large", id="float_overflow"),
        pytest.param("(-8) ** 0.5 > 1", "is not a number", id="complex"),
        pytest.param("c = 3", "write == to compare", id="assignment"),
        pytest.param("c ==", "cannot be read", id="half"),
        pytest.param("", "cannot be read", id="empty"),
        pytest.param("-" * 100_000 + "1", "constraint '--", id="deep"),
        pytest.param(
            "__import__('os')", "__import__('os') is outside the language; its functions", id="other_function"
        ),
        pytest.param("min(c, key=1) == 1", "outside the language", id="keyword"),
        pytest.param("c.__class__()", "outside the language", id="attribute_call"),
        pytest.param("c[0] == 1", "c[0] is outside the language", id="index"),
        pytest.param("c & 1 == 1", "c & 1 is outside", id="bits"),
        pytest.param("(c := 3) == 3", "outside the language", id="walrus"),
        pytest.param("{1} == {1}", "outside the language", id="set"),
        pytest.param("[i for i in sizes] == sizes", "cannot be read", id="comprehension"),
        pytest.param("lambda: 1", "cannot be read", id="lambda"),
        pytest.param("f'{c}' == '3'", "cannot be read", id="formatted"),
        pytest.param("1j == 1", "cannot be read", id="imaginary"),
    ],
)
def test_refused(text: str, words: str) -> None:
    with pytest.raises(SweepError) as error:
        holds(text)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_names() -> None:
    assert parse_constraint("a.b % c == 0 or optim in ['a.b', x] and min(c) < 2e-3").names == ("a.b", "c", "optim", "x")


NAMES = {"x": 7, "y.z": -2, "w": 0.5}
numbers = st.recursive(
    st.integers(-9, 9).map(str) | st.sampled_from(["0.25", "1e-3", *NAMES]),
    lambda inner: (
        st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "//", "%"]), inner).map("({0[0]} {0[1]} {0[2]})".format)
        | inner.map("-{}".format)
        | st.tuples(st.sampled_from(["min", "max"]), inner, inner).map("{0[0]}({0[1]}, {0[2]})".format)
        | inner.map("abs({})".format)
    ),
    max_leaves=6,
)
comparisons = st.tuples(numbers, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), numbers).map(
    "{0[0]} {0[1]} {0[2]}".format
)
truths = st.recursive(
    comparisons | st.tuples(numbers, numbers, numbers).map("{0[0]} in [{0[1]}, {0[2]}]".format),
    lambda inner: (
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map("({0[0]}) {0[1]} ({0[2]})".format)
        | inner.map("not ({})".format)
    ),
    max_leaves=4,
)


@given(truths)
def test_means_what_python_means(text: str) -> None:
    constraint = parse_constraint(text)
    expected: Any
    try:
        expected = eval(text.replace("y.z", "y_z"), {"y_z": NAMES["y.z"], **NAMES})
    except ZeroDivisionError:
        with pytest.raises(SweepError, match="zero"):
            constraint.holds(NAMES.__getitem__)
    else:
        assert constraint.holds(NAMES.__getitem__) is expected
