"""Every plot, of a whole sweep and of poor ones: it shows what there is, or says what is missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rayconvai.analysis import Sweep, plots
from rayconvai.errors import SweepError

from .conftest import Writer

Made = Callable[..., Writer]
NOTEBOOK = Path(__file__).parents[3] / "sweeps" / "analysis.ipynb"
MANY = ("learning_curves", "parallel", "importance", "slices", "contours", "pareto")


def said(figure: Any) -> str:
    return " ".join(note.text for note in figure.layout.annotations).replace("<br>", " ")


@pytest.mark.parametrize("name", [name for name in plots.ALL if name not in ("repeats", "lineage")])
def test_a_whole_sweep_is_shown(demo: Path, name: str) -> None:
    figure = plots.ALL[name][1](Sweep(demo))
    assert figure.data
    assert not said(figure)
    assert figure.to_json()


def test_learning_curves_mark_what_was_stopped_and_when(demo: Path) -> None:
    figure = plots.learning_curves(Sweep(demo))
    [ends] = [trace for trace in figure.data if trace.name == "stopped" and trace.mode == "markers"]
    assert list(ends.x) == [2, 2]
    assert ends.marker.symbol == "x"
    assert "t0000" in ends.text[1]
    assert "optim.lr 0.0001" in ends.text[1]
    assert [trace.name for trace in figure.data][-1] == "best: t0007"
    assert "the 2 that were stopped early" in figure.layout.title.text


def test_a_metric_of_some_trials_alone(writer: Made) -> None:
    made = writer()
    for trial in (0, 1):
        made.point(trial, {"optim.lr": 0.1 + trial})
        metrics = {"val_wer": 0.5, **({"val_cer": 0.2} if trial else {})}
        made.journal.append("attempt", trial=trial, attempt=1)
        made.journal.append("result", trial=trial, attempt=1, epoch=1, metrics=metrics, cost={})
    sweep = Sweep(made.close())
    assert "2 trials, of which 1 have not reported it" in plots.learning_curves(sweep, "val_cer").layout.title.text
    assert "1 trials have a value of val_cer; at least 8 are needed" in said(plots.importance(sweep, "val_cer"))
    timeline = plots.timeline(sweep)
    assert "of 2 the journal does not say the node" in timeline.layout.title.text  # an older one


def test_scales_and_conditions_are_kept(demo: Path) -> None:
    sweep = Sweep(demo)
    parallel = {dimension.label: dimension for dimension in plots.parallel(sweep).data[0].dimensions}
    assert parallel["optim.lr"].ticktext[0].startswith("0.0001")
    assert min(parallel["optim.lr"].values) == pytest.approx(-4)
    assert list(parallel["optim"].ticktext) == ["adamw", "muon"]
    assert parallel["optim.momentum"].ticktext[0] == "not set"
    slices = plots.slices(sweep)
    assert slices.layout.xaxis.type == "log"
    assert slices.layout.xaxis3.type == "category"
    assert slices.layout.xaxis4.title.text == "optim.momentum (6 without)"
    assert "left out, as some trials do not have them: optim.momentum" in plots.importance(sweep).layout.title.text


def test_importance_finds_what_the_metric_follows(demo: Path) -> None:
    [bars] = plots.importance(Sweep(demo)).data
    shares = dict(zip(bars.y, bars.x, strict=True))
    assert max(shares, key=shares.__getitem__) == "optim.lr"
    assert sum(shares.values()) == pytest.approx(1)
    assert len(bars.error_x.array) == 3


def test_pareto_front(demo: Path) -> None:
    front = next(trace for trace in plots.pareto(Sweep(demo)).data if trace.name == "front")
    assert list(front.x) == [1000, 1001, 1002, 1003, 1004, 1006, 1007]  # each is larger and better than the one before
    with pytest.raises(SweepError, match="paramters is no column of numbers; nearest: parameters"):
        plots.pareto(Sweep(demo), x="paramters")


def test_what_the_pareto_front_leaves_out_is_counted(writer: Made) -> None:
    made = writer()
    for trial, parameters in enumerate([1000, 2000, None]):
        made.point(trial, {"optim.lr": 0.1})
        made.attempt(trial, [0.5 - 0.1 * trial])
        made.end(trial, parameters=parameters)
    title = plots.pareto(Sweep(made.close())).layout.title.text
    assert "2 trials, 2 on the front; 1 without val_wer or parameters" in title


def test_repeats_and_their_intervals(writer: Made) -> None:
    made = writer(repeats=3)
    for trial, value in enumerate([0.3, 0.4, 0.5, 0.1, 0.2]):
        made.point(trial, {"optim.lr": 0.1 + trial // 3}, repeat=trial % 3, group=trial // 3)
        made.attempt(trial, [value])
        made.end(trial)
    figure = plots.repeats(Sweep(made.close()))
    means = next(trace for trace in figure.data if trace.name == "mean")
    assert list(means.y) == ["point 0", "point 1"]  # the other lacks a repeat
    assert list(means.x) == pytest.approx([0.4, 0.15])
    assert means.error_x.array[0] == pytest.approx(4.3027 * 0.1 / 3**0.5, rel=1e-4)


def test_lineage_of_pbt(writer: Made) -> None:
    made = writer(scheduler={"name": "pbt"})
    for trial in (0, 1):
        made.point(trial, {"optim.lr": 0.1 * (trial + 1)})
        made.attempt(trial, [0.5 + trial])
        made.journal.append("pause", trial=trial, epoch=1)
    point = {"optim.lr": 0.12}
    made.journal.append("exploit", trial=1, epoch=1, donor=0, point=point, overrides=["optim.lr=0.12"])
    figure = plots.lineage(Sweep(made.close()))
    taken = next(trace for trace in figure.data if trace.name == "weights taken over")
    assert (list(taken.x), list(taken.y)) == ([1, 1, None], ["t0000", "t0001", None])


def no_trial(made: Writer) -> None:
    pass


def no_value(made: Writer) -> None:
    for trial in (0, 1):
        made.point(trial, {"optim.lr": 0.1 + trial})
        made.attempt(trial, [None])
        made.end(trial, "failed", "broken")


def one_trial(made: Writer) -> None:
    made.point(0, {"optim.lr": 0.1})
    made.attempt(0, [0.5, 0.4])
    made.end(0)


def all_alike(made: Writer) -> None:
    for trial in range(9):
        made.point(trial, {"optim.lr": 0.1})
        made.attempt(trial, [0.5])
        made.end(trial)


POOR = {
    no_trial: {"timeline": "no trial has begun", "importance": "0 trials have a value"},
    no_value: {
        "learning_curves": "no trial has reported val_wer", "parallel": "no trial has a value of val_wer",
        "slices": "no trial has a value", "contours": "no trial has a value", "pareto": "no trial has a value",
        "lineage": "the scheduler is asha, not pbt", "repeats": "each point was tried once",
    },
    one_trial: {
        "parallel": "only one trial has a value", "importance": "1 trials have a value of val_wer; at least 8",
        "slices": "only one trial has a value", "contours": "only one trial has a value",
    },
    all_alike: {
        "parallel": "no parameter differs between the 9 trials",
        "importance": "no parameter that all trials have differs",
        "slices": "no parameter differs", "contours": "two parameters that vary are needed",
    },
}  # fmt: skip


@pytest.mark.parametrize("make", POOR, ids=lambda make: make.__name__)
def test_what_is_missing_is_said(writer: Made, make: Callable[[Writer], None]) -> None:
    made = writer()
    make(made)
    sweep = Sweep(made.close())
    assert sweep.trials.shape[0] == len(sweep.state.trials)
    for name, (_, plot) in plots.ALL.items():
        figure = plot(sweep)
        assert figure.to_json()
        assert POOR[make].get(name, "") in said(figure), name
        assert figure.data or said(figure), name
    if make in (no_trial, no_value):
        with pytest.raises(SweepError, match=r"no trial of the sweep in .* has a val_wer yet"):
            _ = sweep.best


@pytest.mark.parametrize("make", POOR, ids=lambda make: make.__name__)
def test_the_notebook_comes_to_its_end(
    writer: Made, make: Callable[[Writer], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As while a sweep runs: there is no artefact yet."""
    made = writer(search={"name": "random"}, budget={"trials": 9})
    make(made)
    monkeypatch.setenv("SWEEP", str(made.close()))
    variables: dict[str, Any] = {}
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), variables)


def test_a_metric_that_nobody_reported_is_named(demo: Path) -> None:
    with pytest.raises(SweepError, match="no trial reported train_los; nearest: train_loss; there are: "):
        plots.learning_curves(Sweep(demo), "train_los")


def test_sweeps_together_are_shown(demo: Path, writer: Made) -> None:
    made = writer("other", name="other")
    one_trial(made)
    both = Sweep.concat([Sweep(demo), Sweep(made.close())])
    for name, (_, plot) in plots.ALL.items():
        figure = plot(both)
        assert figure.data if name in MANY else "one sweep at a time" in said(figure)
