"""Spans, and the scores of what was found: against seqeval and scikit-learn."""

from __future__ import annotations

import random

import pytest
import torch
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.metrics.sequence_labeling import get_entities
from sklearn.metrics import accuracy_score
from sklearn.metrics import f1_score as f1_of_classes

from rayconvai.nlp.labels import Labels, bio_problem, spans
from rayconvai.nlp.metrics import Score, class_counts, span_counts

TAGS = Labels.of_tags(["B-city", "B-song", "I-day"])


def drawn(rng: random.Random) -> list[str]:
    """Tags that need not keep to BIO, as a model gives them."""
    return [rng.choice(TAGS.names) for _ in range(rng.randint(1, 9))]


def test_tags_of_both_kinds_are_known_in_a_fixed_order() -> None:
    assert TAGS.names == ("O", "B-city", "I-city", "B-day", "I-day", "B-song", "I-song")
    assert TAGS.kinds == ["city", "day", "song"]


def test_spans_are_seqevals() -> None:
    rng = random.Random(0)
    for _ in range(300):
        tags = drawn(rng)
        assert [(kind, first, end - 1) for kind, first, end in spans(tags)] == get_entities(tags)


def test_span_scores_are_seqevals_however_the_set_is_split() -> None:
    rng = random.Random(1)
    there = [drawn(rng) for _ in range(60)]
    found = [tags if rng.random() < 0.4 else [rng.choice(TAGS.names) for _ in tags] for tags in there]
    expected = {"precision": precision_score, "recall": recall_score, "f1": f1_score}
    for figure, reference in expected.items():
        ranks = [Score(figure, 3), Score(figure, 3)]  # type: ignore[arg-type]
        for begin in range(0, 60, 7):
            some = slice(begin, begin + 7)
            mine, theirs = ([spans(tags) for tags in texts[some]] for texts in (found, there))
            ranks[begin % 2].update(span_counts(mine, theirs, TAGS.kinds))
        ranks[0].counts += ranks[1].counts  # as all ranks' states are summed
        assert ranks[0].compute().item() == pytest.approx(reference(there, found), rel=1e-6)


def test_class_scores_are_scikit_learns() -> None:
    generator = torch.Generator().manual_seed(0)
    there = torch.randint(5, (80,), generator=generator)
    found = torch.where(torch.rand(80, generator=generator) < 0.6, there, (there + 1) % 5)
    accuracy, f1 = Score("accuracy", 7), Score("macro_f1", 7)  # two classes never occur
    for metric in (accuracy, f1):
        for some in (slice(0, 33), slice(33, 80)):
            metric.update(class_counts(found[some], there[some], 7))
    assert accuracy.compute().item() == pytest.approx(accuracy_score(there, found))
    assert f1.compute().item() == pytest.approx(f1_of_classes(there, found, average="macro"))
    of_first = f1.by_class("abcdefg")["a"]
    assert of_first["f1"] == pytest.approx(f1_of_classes(there, found, average=None)[0], abs=1e-4)
    assert of_first["count"] == (there == 0).sum()


def test_scores_of_nothing_are_0() -> None:
    for figure in ("f1", "precision", "recall", "macro_f1"):
        score = Score(figure, 2)  # type: ignore[arg-type]
        score.update(torch.zeros(3, 2, dtype=torch.int64))
        assert score.compute() == 0


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        pytest.param(["O", "B-x", "I-x", "B-x"], "", id="right"),
        pytest.param(["I-x"], "tag 1 is 'I-x' after 'O'; a span begins with B-x", id="begins_inside"),
        pytest.param(["B-x", "I-y"], "tag 2 is 'I-y' after 'B-x'", id="changes_inside"),
        pytest.param(["O", "x"], "tag 2 is 'x'; it must be O, B-TYPE or I-TYPE", id="no_prefix"),
        pytest.param(["B-"], "tag 1 is 'B-'", id="no_type"),
    ],
)
def test_what_breaks_bio(tags: list[str], message: str) -> None:
    assert bio_problem(tags).startswith(message)
    assert bool(bio_problem(tags)) == bool(message)
