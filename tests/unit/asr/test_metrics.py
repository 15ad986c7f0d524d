"""Error rates against jiwer."""

from __future__ import annotations

import jiwer
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rayconvai.asr.metrics import WordErrorRate, align, distance

WORDS = st.lists(st.sampled_from(["a", "be", "sea", "d'oh", "e"]), max_size=8).map(" ".join)
PAIRS = st.lists(st.tuples(WORDS.filter(bool), WORDS), min_size=1, max_size=6)


@settings(deadline=None, max_examples=60)
@given(PAIRS)
def test_rates_are_jiwers(pairs: list[tuple[str, str]]) -> None:
    references, hypotheses = map(list, zip(*pairs, strict=True))
    for unit, reference_rate in (("word", jiwer.wer), ("character", jiwer.cer)):
        metric = WordErrorRate(unit)  # type: ignore[arg-type]
        metric.update(hypotheses, references)
        assert float(metric.compute()) == pytest.approx(reference_rate(references, hypotheses), rel=1e-6)


@settings(deadline=None, max_examples=30)
@given(PAIRS, st.integers(0, 6))
def test_any_split_over_ranks_gives_the_same_rate(pairs: list[tuple[str, str]], cut: int) -> None:
    references, hypotheses = map(list, zip(*pairs, strict=True))
    whole, left, right = WordErrorRate(), WordErrorRate(), WordErrorRate()
    whole.update(hypotheses, references)
    left.update(hypotheses[:cut], references[:cut])
    right.update(hypotheses[cut:], references[cut:])
    for state, reduce in left._reductions.items():  # what torchmetrics does between ranks
        setattr(left, state, reduce(torch.stack([getattr(left, state), getattr(right, state)])))  # type: ignore[operator,misc]
    left._computed = None
    assert float(left.compute()) == float(whole.compute())


@pytest.mark.parametrize(
    ("left", "right", "edits"),
    [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "", 3), ("aa", "aaa", 1), ("ab", "ba", 2), ("same", "same", 0)],
)
def test_distance(left: str, right: str, edits: int) -> None:
    assert distance(list(left), list(right)) == edits


def test_no_reference_words_is_finite() -> None:
    metric = WordErrorRate()
    assert float(metric.compute()) == 0
    metric.update(["noise"], [""])
    assert float(metric.compute()) == 1


@pytest.mark.parametrize(
    ("reference", "hypothesis", "marks"),
    [
        pytest.param("a b c", "a b c", ["", "", ""], id="right"),
        pytest.param("a b c", "a x c", ["", "sub", ""], id="substituted"),
        pytest.param("a b c", "a c", ["", "del", ""], id="deleted"),
        pytest.param("a c", "a b c", ["", "ins", ""], id="inserted"),
        pytest.param("a b c d", "x a b y d", ["ins", "", "", "sub", ""], id="several"),
        pytest.param("", "a", ["ins"], id="nothing_said"),
    ],
)
def test_alignment_marks_the_errors(reference: str, hypothesis: str, marks: list[str]) -> None:
    said, heard = align(reference.split(), hypothesis.split())
    assert [mark for _, mark in said.pieces] == [mark for _, mark in heard.pieces] == marks
    assert [text for text, _ in said.pieces if text] == reference.split()
    assert [text for text, _ in heard.pieces if text] == hypothesis.split()


@settings(deadline=None, max_examples=60)
@given(WORDS, WORDS)
def test_alignment_is_as_short_as_the_distance(reference: str, hypothesis: str) -> None:
    said, _ = align(reference.split(), hypothesis.split())
    assert sum(mark != "" for _, mark in said.pieces) == distance(reference.split(), hypothesis.split())
