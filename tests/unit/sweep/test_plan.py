"""What a sweep is told before it starts: one line for each fault, with the line of the file and the value."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from rayconvai.sweep.plan import Plan, plan_sweep
from rayconvai.sweep.spec import load_spec

HOME = Path(__file__).parents[2] / "sweep"
SWEEP = f"""\
name: demo
recipe: tiny/tiny
config_dirs: [{HOME / "configs"}]
overrides: [trainer.max_epochs=4]
space:
  model.width: choice(2, 8)
  shape: choice(narrow, wide)
  optim.lr: loguniform(1e-4, 1e-2)
metric: {{name: val_loss, mode: min}}
search: {{name: random}}
scheduler: {{name: asha, grace: 1}}
budget: {{trials: 6}}
"""


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(HOME))

    def make(old: str = "", new: str = "") -> tuple[str, Plan]:
        assert old in SWEEP
        path = tmp_path / "demo.yaml"
        path.write_text(f"{SWEEP.replace(old, new, 1)}storage: {tmp_path / 'runs'}\n")
        return str(path), plan_sweep(load_spec(path))

    return make


def test_a_good_sweep(plan, tmp_path: Path) -> None:
    _, made = plan()
    assert (made.problems, made.warnings, made.total, made.max_epochs) == ([], [], 6, 4)
    assert len(made.points) == 6
    assert {point.parameters for point in made.points} == {2 * 2, 8 * 2}
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        pytest.param("model.width", "model.widht", 6, "not exist in recipe tiny/tiny; nearest: model.width", id="key"),
        pytest.param("shape:", "shade:", 7, "nearest: shape", id="group"),
        pytest.param("wide)", "wild)", 7, "the group has no option 'wild'; nearest: wide", id="option"),
        pytest.param("(2, 8)", "(2, many)", 6, "model.width='many': model.width must be int", id="type_of_a_value"),
        pytest.param("(2, 8)", "(2, 7)", 6, "model.width is 7; it must be even", id="model_refuses_a_value"),
        pytest.param("(1e-4, 1e-2)", "(1e-2, 1e-4)", 8, "the other way round", id="bounds"),
        pytest.param("(2, 8)", "(2, 4.5)", 6, "model.width=4.5: model.width must be int", id="float_for_int"),
        pytest.param("loguniform(1e-4, 1e-2)", "choice(fast)", 8, "='fast': optim.lr must be", id="text"),
        pytest.param("loguniform(", "logunifrom(", 8, "no function 'logunifrom'; nearest: loguniform", id="grammar"),
        pytest.param("val_loss", "val_los", 9, "in training; nearest: val_loss", id="metric"),
        pytest.param("grace: 1", "grace: 5", 11, "more than the 4 epochs", id="grace"),
        pytest.param("[trainer.max_epochs=4]", "[trainer.max_epoch=4]", 4, "trainer.max_epoch", id="overrides"),
        pytest.param("recipe: tiny/tiny", "recipe: tiny/tine", 2, "nearest: tiny/tiny", id="recipe"),
        pytest.param("name: val_loss", "name: test_loss", 9, "by TinyModel in training", id="test_metric"),
        pytest.param("max_epochs=4]", "max_epochs=4, trainer.strategy=dpd]", 4, "Lightning refuses it", id="trainer"),
        pytest.param(
            "max_epochs=4]",
            "max_epochs=4, data._target_=tiny_recipe.TinyModel]",
            *(4, "data._target_ is tiny_recipe.TinyModel, which does not take 'seed'"),
            id="whatever_the_point",
        ),
        pytest.param("max_epochs=4]", "max_epochs=4, trainer.fast_dev_run=1]", 4, "goes on from", id="fast"),
        pytest.param(
            "max_epochs=4]",
            "max_epochs=4, exp_manager.checkpoint_callback_params.monitor=los]",
            *(4, "metric 'los' is not logged by TinyModel in training"),
            id="monitor",
        ),
        pytest.param("trials: 6", "trials: null", 12, "has no end", id="no_end"),
        pytest.param(
            "max_epochs=4]\nspace:\n  model.width: choice(2, 8)\n  shape: choice(narrow, wide)",
            "max_epochs=4, model.width=7]\nspace:",
            4,
            "4: model.width is 7",
            id="of_an_override_whatever_the_point",
        ),
        pytest.param("shape:", "trainer.devices: 1, 2\n  shape:", 7, "resources say", id="devices"),
        pytest.param(
            "shape: choice(narrow, wide)",
            "optim: choice(sgd, adamw)\n  optim.momentum: uniform(0.8, 0.9)",
            7,
            "optim='adamw': optim.momentum is not a key of adamw",
            id="key_of_one_option",
        ),
        pytest.param(
            "search:",
            "more_metrics: [{name: val_los}]\nsearch:",
            *(10, "metric 'val_los' is not logged by TinyModel in training; nearest: val_loss"),
            id="more_metrics",
        ),
        pytest.param("max_epochs=4]", "max_epochs=null]", 11, "set budget.epochs", id="no_epochs"),
        pytest.param("asha, grace: 1", "hyperband, grace: 5", 11, "more than the 4 epochs", id="hyperband"),
        pytest.param("asha, grace: 1", "median, grace: 5", 11, "more than the 4 epochs", id="median"),
        pytest.param(
            "max_epochs=4]",
            "max_epochs=4, trainer.check_val_every_n_epoch=2]",
            11,
            "of epoch 1, 3, but",
            id="frequency",
        ),
        pytest.param(
            "max_epochs=4]",
            "max_epochs=4, trainer.check_val_every_n_epoch=5]",
            4,
            "no trial would ever",
            id="too_seldom",
        ),
        pytest.param(
            "max_epochs=4]",
            "max_epochs=4, trainer.check_val_every_n_epoch=null, trainer.val_check_interval=2]",
            *(4, "asha needs the metric at the end of known epochs"),
            id="by_batches",
        ),
        pytest.param("max_epochs=4]", "max_epochs=4, trainer.limit_val_batches=0]", 4, "would ever have", id="never"),
        pytest.param("max_epochs=4]", "max_epochs=4, hydra.job.chdir=true]", 4, "hydra.job.chdir would", id="hydra"),
        pytest.param("trials: 6", "trials: 6, epochs: 5", 4, "budget.epochs says already (5)", id="epochs_twice"),
        pytest.param("space:", "repeats: 2\nspace:\n  seed: 0, 1", 7, "gives each trial a seed", id="seed_and_repeats"),
        pytest.param(
            "name: asha, grace: 1",
            "name: pbt",
            6,
            "'model.width' changes the shapes of the weights",
            id="pbt_of_shapes",
        ),
        pytest.param("name: random", "name: grid", 5, "'optim.lr' has no end of values", id="grid_of_a_range"),
    ],
)
def test_a_fault_is_one_line(plan, old: str, new: str, line: int, words: str) -> None:
    path, made = plan(old, new)
    (problem,) = made.problems
    assert problem.startswith(f"{path}:{line}: "), problem
    assert words in problem
    assert "\n" not in problem


@pytest.mark.parametrize(
    ("space", "words"),
    [
        pytest.param("optim: choice(sgd, adamw)", "'optim' changes the optimizer", id="optimizer"),
        pytest.param("schedule: choice(none, cosine)", "'schedule' changes the learning-rate schedule", id="schedule"),
        pytest.param("optim.lr: loguniform(1e-4, 1e-2)", "", id="fits"),
    ],
)
def test_pbt_varies_what_a_checkpoint_can_take(plan, space: str, words: str) -> None:
    before, _, rest = SWEEP.partition("  model.width")
    rest = rest.partition("metric:")[2].replace("name: asha, grace: 1", "name: pbt, interval: 2")
    _, made = plan(SWEEP, f"{before}  {space}\nmetric:{rest}")
    assert [words in problem for problem in made.problems] == [True] * bool(words)


def test_a_storage_that_cannot_be_written(plan, tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    path, made = plan()
    assert made.problems == [f"{path}:13: {tmp_path}/runs/demo cannot be written: Not a directory"]


def test_loggers_are_made_once(plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "short")
    path, made = plan("max_epochs=4]", "max_epochs=4, exp_manager.create_wandb_logger=true]")
    (problem,) = made.problems
    assert problem.startswith(f"{path}:4: exp_manager.create_wandb_logger: W&B refuses the key")


def test_epochs_of_the_budget(plan) -> None:
    _, made = plan(SWEEP, SWEEP.replace("trials: 6", "trials: 6, epochs: 5").replace("overrides: [", "# "))
    assert (made.problems, made.max_epochs) == ([], 5)


def test_repeats_make_whole_points(plan) -> None:
    _, made = plan("{trials: 6}", "{trials: 8}\nrepeats: 3")
    assert (made.total, len(made.points)) == (6, 2)
    assert made.summary()[0].startswith("6 trials: 2 points x 3 seeds; ")
    assert "8 trials are no multiple of repeats=3; only whole points are trained, at most 6" in made.warnings[0]


def test_the_table_shows_what_varies_and_what_it_takes(plan) -> None:
    _, made = plan("  shape:", "  model.floor: {when: {model.width: 8}, is: 'choice(1.0, 2.0)'}\n  shape:")
    console = Console(width=120, file=io.StringIO())
    console.print(made.table())
    head, *rows = console.file.getvalue().splitlines()
    assert head.split() == ["point", *made.space, "parameters", "memory", "epoch"]
    for row, planned in zip(rows, made.points, strict=True):
        cells = row.split()
        assert (cells[2] == "-") == (planned.point["model.width"] == 2)
        assert planned.flops == 3 * (2 * 2 * planned.point["model.width"]) * 4  # four batches of two
        assert row.endswith("1 MB  < 0.1 s")
    assert made.summary()[1].startswith("estimated: tensors of up to 1 MB in a trial; a trial ")


def test_texts_are_held_against_each_rate_of_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Characters are too many for eight feature frames each, whatever model is looked at first.
    path = tmp_path / "rates.yaml"
    path.write_text(
        f"name: rates\nrecipe: asr/conformer_ctc\nstorage: {tmp_path}\n"
        "overrides: [trainer=cpu, data.corpus.size=20, model.encoder.d_model=16, model.encoder.num_layers=1]\n"
        "space:\n  model.encoder.variant.subsampling: choice(2, 8)\n"
        "metric: {name: val_wer, mode: min}\nsearch: {name: grid}\n"
    )
    (problem,) = plan_sweep(load_spec(path)).problems
    assert problem.startswith(f"{path}:6: model.encoder.variant.subsampling=8: ")
    assert "the text needs" in problem


def test_hyperband_looks_at_epochs_that_are_validated(plan) -> None:
    text = SWEEP.replace("max_epochs=4]", "max_epochs=9, trainer.check_val_every_n_epoch=2]")
    _, made = plan(SWEEP, text.replace("asha, grace: 1", "hyperband, grace: 2"))
    (problem,) = made.problems
    assert "hyperband compares trials at the end of epoch 2, 3, but" in problem


def test_what_cannot_be_estimated_is_left_out(plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayconvai.sweep.checker.measure_step", lambda *_: None)
    _, made = plan()
    console = Console(width=120, file=io.StringIO())
    console.print(made.table())
    assert all(row.split()[-2:] == ["-", "-"] for row in console.file.getvalue().splitlines()[1:])
    assert len(made.summary()) == 1


def test_the_value_that_a_problem_names_is_blamed(plan) -> None:
    space = "  schedule: choice(cosine)\n  schedule.warmup_steps: {when: {schedule: cosine}, is: 4}\n"
    path, made = plan("  shape:", f"{space}  shape:")
    assert [line.partition(" exclude")[0] for line in made.problems] == [
        f"{path}:8: schedule.warmup_steps=4: schedule.warmup_steps and schedule.warmup_ratio"
    ]


def test_all_faults_are_named(plan) -> None:
    _, made = plan("(2, 8)\n  shape: choice(narrow, wide)", "(8, 2\n  shape: choise(narrow)")
    assert len(made.problems) == 2


def test_a_value_may_need_another(plan) -> None:
    # Width 2 works neither with the recipe's quirk nor with the first one here, but with the second.
    old = "trainer.max_epochs=4]\nspace:"
    new = "trainer.max_epochs=4, model.floor=1.0, model.quirk=odd, model.width=8]\nspace:\n  model.quirk: odd, even"
    _, made = plan(old, new)
    assert made.problems == []


def test_what_is_hardly_meant_is_warned_of(plan) -> None:
    path, made = plan("  optim.lr: loguniform(1e-4, 1e-2)\n")
    assert made.warnings == [
        f"{path}:11: the space has 4 points, fewer than the 6 trials; some will be tried again "
        "(search.name=grid takes each once)"
    ]
    path, made = plan("budget:", "resources: {gpus: 0.5}\nbudget:")
    assert made.warnings == [
        f"{path}:12: trainer.accelerator is cpu, but resources.gpus is 0.5: trials train on the GPU"
    ]


def test_points_that_cannot_work_are_warned_of(plan) -> None:
    # Each value works by itself; only some points do not.
    _, made = plan("(2, 8)", "(8, 2)\n  model.floor: choice(0.0, 1.0)\n  model.quirk: choice(even, odd)")
    assert made.problems == []
    for planned in made.points:
        point = planned.point
        bad = point["model.quirk"] == "odd" and point["model.floor"] and point["model.width"] < 8
        assert bool(planned.problem) == bool(bad)
    assert any("cannot work: model.width=2" in warning for warning in made.warnings)


CONDITIONAL = """choice(2, 8)
  optim: choice(sgd, adamw)
  optim.momentum: {when: {optim: sgd}, is: choice(0.5, 0.9)}
  model.floor: {when: {model.width: 8}, is: uniform(0, 1)}
constraints: [optim == 'sgd' or model.width > 2, model.floor < trainer.max_epochs]
points: [{model.width: 8, optim: adamw}]"""


def conditional(old: str = "", new: str = "") -> str:
    """The file's middle, so that ``constraints`` stands in line 12 and ``points`` in 13."""
    assert old in CONDITIONAL
    lines = CONDITIONAL.replace(old, new, 1).split("\n")
    return "\n".join([*lines[:4], "  optim.lr: loguniform(1e-4, 1e-2)", "  shape: choice(narrow, wide)", *lines[4:]])


MIDDLE = "choice(2, 8)\n  shape: choice(narrow, wide)\n  optim.lr: loguniform(1e-4, 1e-2)"


def test_a_space_with_conditions_and_constraints(plan) -> None:
    _, made = plan(MIDDLE, conditional())
    assert (made.problems, made.warnings) == ([], [])
    points = [planned.point for planned in made.points]
    assert points[0] == points[0] | {"model.width": 8, "optim": "adamw"}
    assert all(("optim.momentum" in point) == (point["optim"] == "sgd") for point in points)
    assert all(("model.floor" in point) == (point["model.width"] == 8) for point in points)
    assert all(point["optim"] == "sgd" or point["model.width"] > 2 for point in points)


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        pytest.param("{optim: sgd}", "{optim: sdg}", 8, "optim cannot be 'sdg'; nearest: 'sgd'", id="condition"),
        pytest.param("{optim: sgd}, is", "{optim: sgd}, iss", 8, "nearest: is", id="form"),
        pytest.param("(0.5, 0.9)", "(0.5, much)", 8, "optim.momentum", id="conditional_value"),
        pytest.param("'sgd' or", "sgd or", 12, "there is no key 'sgd'; a text stands in quotes", id="text"),
        pytest.param("trainer.max_epochs", "trainer.max_epoch", 12, "nearest: trainer.max_epochs", id="key"),
        pytest.param("width > 2", "width = 2", 12, "cannot be read; write == to compare", id="assignment"),
        pytest.param("width > 2", "width > optim", 13, "'adamw' is not a number, at model.width=8", id="types"),
        pytest.param("optim == 'sgd' or", "optim < 1 or", 13, "is not a number", id="types_of_a_point"),
        pytest.param("8, optim: adamw}", "2, optim: adamw}", 13, "refused 1000 of 1000 points", id="point_refused"),
        pytest.param("8, optim: adamw}", "8, optm: adamw}", 13, "nearest: optim", id="key_of_a_point"),
    ],
)
def test_faults_of_conditions_and_constraints(plan, old: str, new: str, line: int, words: str) -> None:
    path, made = plan(MIDDLE, conditional(old, new))
    assert made.problems
    assert made.problems[0].startswith(f"{path}:{line}: ")
    assert words in made.problems[0]
    assert "\n" not in made.problems[0]


def test_a_value_that_no_point_may_have(plan) -> None:
    alone = conditional("\npoints: [{model.width: 8, optim: adamw}]")
    path, made = plan(MIDDLE, alone.replace("width > 2", "width > 9"))
    assert made.problems == [f"{path}:12: no point with optim='adamw' meets them all"]
    path, made = plan(MIDDLE, alone.replace("optim == 'sgd'", "optim < 1"))
    (problem,) = made.problems
    assert problem.startswith(f"{path}:12: constraint 'optim < 1 or model.width > 2': 'sgd' is not a number, at ")
