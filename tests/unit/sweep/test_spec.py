"""The sweep file: what is read, what is refused and where the error points."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayconvai.errors import SweepError
from rayconvai.sweep.spec import load_spec

GOOD = """\
name: demo
recipe: asr/conformer_ctc
overrides: [trainer.max_epochs=3]
space:
  optim.lr: loguniform(1e-4, 1e-2)
  model.encoder.num_layers: choice(1, 2)
metric: {name: val_wer, mode: min}
search: {name: random, seed: 3}
scheduler: {name: asha, grace: 2}
budget: {trials: 8}
resources: {cpus: 1, gpus: 0.5}
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "demo.yaml"
    path.write_text(text)
    return path


def test_reads_a_file_with_its_lines(tmp_path: Path) -> None:
    file = load_spec(write(tmp_path, GOOD))
    assert file.spec.space == {"optim.lr": "loguniform(1e-4, 1e-2)", "model.encoder.num_layers": "choice(1, 2)"}
    assert (file.spec.search.seed, file.spec.scheduler.grace, file.spec.resources.gpus) == (3, 2, 0.5)
    assert file.at("space.model.encoder.num_layers").endswith("demo.yaml:6")
    assert file.at("budget.hours").endswith("demo.yaml:10")


def test_command_line_changes_any_key(tmp_path: Path) -> None:
    changes = [
        "budget.trials=4",
        "overrides=[a=1, b=2]",
        "overrides+=c=3",
        "constraints+=[a > 1]",
        "space.optim.lr=uniform(0, 1)",
        "storage=/x",
        "~search",
    ]
    changes += ["scheduler={name: none}"]  # and so without the grace of the file
    file = load_spec(write(tmp_path, GOOD), changes)
    assert file.spec.budget.trials == 4
    assert (file.spec.overrides, file.spec.constraints) == (["a=1", "b=2", "c=3"], ["a > 1"])
    assert file.spec.space["optim.lr"] == "uniform(0, 1)"
    assert file.spec.directory == Path("/x/demo")
    assert file.spec.search.name == "optuna"
    assert file.at("budget.trials") == "command line: 'budget.trials=4'"


def test_expressions_within_braces_need_no_quotes(tmp_path: Path) -> None:
    text = GOOD.replace("choice(1, 2)", "{when: {a: [x, y]}, is: choice(1, null, 1e-3)}").replace(
        "budget:", "constraints: [min(a, max(b, 2)) > 0, b != 1]\nbudget:"
    )
    spec = load_spec(write(tmp_path, text), ["space.b={when: {a: x}, is: uniform(0, 1)}", "space.c="]).spec
    assert spec.space["model.encoder.num_layers"] == {"when": {"a": ["x", "y"]}, "is": "choice(1, null, 1e-3)"}
    assert spec.space["b"] == {"when": {"a": "x"}, "is": "uniform(0, 1)"}
    assert spec.space["c"] is None
    assert spec.constraints == ["min(a, max(b, 2)) > 0", "b != 1"]


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        pytest.param("recipe:", "recipy:", 2, "unknown key 'recipy'; nearest: recipe", id="unknown_key"),
        pytest.param("trials: 8", "trails: 8", 10, "unknown key 'budget.trails'; nearest: trials", id="unknown_inner"),
        pytest.param("trials: 8", "trials: eight", 10, "budget.trials is 'eight', not an integer", id="wrong_type"),
        pytest.param("trials: 8", "trials: true", 10, "budget.trials is True, not an integer", id="truth_is_no_number"),
        pytest.param("trials: 8", "trials: 0", 10, "budget.trials is 0, less than 1", id="no_trials"),
        pytest.param("mode: min", "mode: less", 7, "metric.mode is 'less', not one of min, max", id="literal"),
        pytest.param("name: random", "name: rando", 8, "nearest: random", id="searcher"),
        pytest.param("seed: 3", "seed: -1", 8, "search.seed is -1, less than 0", id="seed"),
        pytest.param("grace: 2", "grace: 0", 9, "scheduler.grace is 0", id="grace"),
        pytest.param("cpus: 1", "cpus: 0", 11, "resources.cpus is 0", id="no_cpus"),
        pytest.param("{trials: 8}", "8", 10, "budget is 8, not a mapping", id="no_mapping"),
        pytest.param("choice(1, 2)", "[1, 2]", 6, "write choice(...)", id="list_in_space"),
        pytest.param("name: demo", "name: ../up", 1, "is to be a directory", id="name_climbs_out"),
        pytest.param("name: demo", "name: demo\nname: x", 2, "key 'name' stands twice", id="key_twice"),
        pytest.param("name: demo", "name: [demo", 2, "not valid YAML", id="broken_yaml"),
    ],
)
def test_refused_with_its_line(tmp_path: Path, old: str, new: str, line: int, words: str) -> None:
    path = write(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(SweepError) as error:
        load_spec(path)
    assert str(error.value).startswith(f"{path}:{line}: ")
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        pytest.param("budget.trails=4", "unknown key 'budget.trails'", id="unknown"),
        pytest.param("budget.trials", "not of the form KEY=VALUE", id="no_value"),
        pytest.param("~budget.trails", "no key 'budget.trails' to remove; nearest: trials", id="nothing_to_remove"),
        pytest.param("name.x=4", "has no keys below it", id="below_a_leaf"),
        pytest.param("trainer.max_epochs=3", "in overrides: overrides+=[KEY=VALUE]", id="key_of_the_recipe"),
        pytest.param("search=random", "write search.name=random", id="name_of_a_section"),
        pytest.param("+overrides=[a=1]", "overrides+=... adds to it", id="plus_replaces_nothing"),
        pytest.param("budget.trials+=4", "no list to add to", id="adding_to_a_number"),
        pytest.param("more_metrics=[{name: val_wer}]", "val_wer is looked for already", id="metric_twice"),
    ],
)
def test_refused_command_line(tmp_path: Path, override: str, words: str) -> None:
    with pytest.raises(SweepError) as error:
        load_spec(write(tmp_path, GOOD), [override])
    assert str(error.value).startswith("command line: ")
    assert words in str(error.value)


def test_refused_files(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match=r"cannot be read: No such file"):
        load_spec(tmp_path / "none.yaml")
    with pytest.raises(SweepError, match="not valid YAML: unacceptable character"):
        load_spec(write(tmp_path, "\0"))
    with pytest.raises(SweepError, match="is a mapping of keys"):
        load_spec(write(tmp_path, "- a\n"))
    with pytest.raises(SweepError, match=r"key 'metric' is missing"):
        load_spec(write(tmp_path, GOOD.replace("metric: {name: val_wer, mode: min}\n", "")))


def test_a_ray_job_needs_storage_that_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, GOOD)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(SweepError, match="storage 'runs' is relative, and a Ray job's working directory is temporary"):
        load_spec(path, ["storage=runs"])
    assert load_spec(path, ["storage=/data/runs"]).spec.directory.is_absolute()
    monkeypatch.setenv("RAYCONVAI_STORAGE", "s3://bucket/all/")
    spec = load_spec(path, ["storage=runs"]).spec
    assert spec.place == f"s3://bucket/all/runs/{spec.name}"
