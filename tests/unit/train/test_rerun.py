"""``--rerun RUN_DIR``: the same run once more, bit for bit, in a directory of its own; and what differs, if it does."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from rayconvai.config.compose import compose
from rayconvai.errors import ConfigError
from rayconvai.experiment.comparison import compare_numbers, differences
from rayconvai.experiment.record import read_metrics
from rayconvai.train import __main__ as door

CONFIGS = Path(__file__).parents[2] / "sweep" / "configs"
POINTS = {"train": [(1.0, 2.1), (2.0, 3.9), (0.5, 1.2)], "dev": [(1.0, 2.0), (2.0, 4.0)]}
RUN = ("--rerun", "runs/first")
Train = Callable[..., str]


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Train:
    """The command, in this process and a directory of its own; returns what it prints."""
    threads = torch.get_num_threads()
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.chdir(tmp_path)
    for split, points in POINTS.items():
        rows = [{"audio_filepath": "none.wav", "duration": x, "text": str(y)} for x, y in points]
        Path(f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["rayconvai.train", *arguments])
        door.main()
        return capsys.readouterr().out

    yield run
    torch.set_num_threads(threads)


@pytest.fixture
def line(train: Train) -> Callable[..., Path]:
    """Trains a line through the points; returns the run's directory, as one types it."""

    def run(*overrides: str) -> Path:
        corpus = ["~data.corpus.test", "artefact=false"]
        output = train("--config-dir", str(CONFIGS), "--config-name", "line/line", *corpus, *overrides)
        return Path(output.splitlines()[-1].removeprefix("run: ")).relative_to(Path.cwd())

    return run


def recorded(run: Path) -> list[dict[str, Any]]:
    return [{**line, "time": 0} for line in read_metrics(run / "metrics.jsonl")]


def test_a_run_is_had_again_to_the_last_bit(train: Train, line: Callable[..., Path]) -> None:
    first = line("exp_manager.version=mine", "exp_manager.resume_if_exists=true",
                 "exp_manager.resume_ignore_no_checkpoint=true", "seed=3")  # fmt: skip
    before = {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    output = train("--rerun", str(first)).splitlines()
    again = Path(output[-1].removeprefix("run: "))
    assert output[-2] == f"same numbers as {first} (epochs: 4, recorded steps: 8)"
    assert again.resolve() != first.resolve()
    assert recorded(again) == recorded(first) != []
    assert {path: path.read_bytes() for path in first.rglob("*") if path.is_file()} == before
    assert json.loads((again / "provenance.json").read_text())["rerun_of"] == str(first.resolve())
    # And once more from there.
    assert train("--rerun", str(again)).splitlines()[-2].startswith("same numbers")


def test_what_differs_is_said_before_and_after(
    train: Train, line: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    first = line()
    Path("train.jsonl").write_text(Path("train.jsonl").read_text().replace("3.9", "4.1"))
    file = first / "provenance.json"
    provenance = json.loads(file.read_text())
    provenance["numerics"]["threads"] = torch.get_num_threads() + 1
    provenance["packages"]["torch"] = "2.0"
    file.write_text(json.dumps(provenance))
    with caplog.at_level(logging.WARNING):
        caplog.clear()
        output = train("--rerun", str(first), "trainer.max_epochs=2")
    said = [record.message for record in caplog.records if record.name.startswith("rayconvai")]
    assert said[0].startswith(f"threads: {provenance['numerics']['threads']}, as the run had")
    assert [message.partition(":")[0] for message in said[1:]] == ["packages", "data"]
    assert f"torch was 2.0, is {torch.__version__.partition('+')[0]}" in said[1]
    assert f"other numbers than {first}; the first: " in output


def test_overrides_act_as_on_the_recipe(train: Train, line: Callable[..., Path]) -> None:
    first = line("optim.lr=${optim.momentum}", "optim.momentum=0.05")
    output = train("--rerun", str(first), "optim.momentum=0.5")
    again = Path(output.splitlines()[-1].removeprefix("run: "))
    assert "lr: 0.5" in (again / "config.yaml").read_text()


def test_a_rerun_is_no_part_of_the_recorded_wandb_run(train: Train, line: Callable[..., Path]) -> None:
    first = line("exp_manager.wandb_logger_kwargs={id: sweep-t0001, name: t0001, resume: allow, tags: [mine]}")
    again = Path(train("--rerun", str(first)).splitlines()[-1].removeprefix("run: "))
    config = (again / "config.yaml").read_text()
    assert "t0001" not in config
    assert "mine" in config


def test_what_cannot_be_compared_is_no_hindrance(
    train: Train, line: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    first = line()
    (first / "provenance.json").write_text("{")
    (first / "metrics.jsonl").unlink()
    output = train("--rerun", str(first))
    assert "provenance.json cannot be read: code, packages, machine and data are not compared" in caplog.text
    assert f"{first} has recorded no numbers to compare with" in output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        pytest.param(["--rerun"], "--rerun: name a run's directory", id="nothing"),
        pytest.param(["--rerun", "nowhere"], "--rerun: there is no directory nowhere", id="nowhere"),
        pytest.param(["--rerun", "runs"], "runs in it: runs/first", id="parent"),
        pytest.param(["--rerun", "sweep"], "runs in it: sweep/trials/t0000", id="sweep"),
        pytest.param([*RUN, "--config-name", "x"], "leave out --config-name", id="config_name"),
        pytest.param([*RUN, "optim=adam"], "has no groups to choose 'optim=adam'", id="group"),
        pytest.param([*RUN, "optim.lrr=1"], "nearest: optim.lr", id="key"),
        pytest.param([*RUN, "exp_manager.explicit_log_dir=./runs/../runs/first"], "name another", id="explicit"),
        pytest.param([*RUN, "exp_manager.name=.", "exp_manager.version=first"], "name another", id="version"),
        pytest.param(["--rerun", "torn"], "torn/config.yaml:1: not valid YAML", id="torn"),
        pytest.param(["--rerun", "taken"], "python -m rayconvai replay", id="taken_over"),
    ],
)
def test_wrong_command_line(train: Train, arguments: list[str], says: str) -> None:
    config = compose("line/line", ["~data.corpus.test"], [CONFIGS])
    for directory in ("runs/first", "sweep/trials/t0000", "taken"):
        Path(directory, "run_0").mkdir(parents=True)
        Path(directory, "provenance.json").write_text("{}")
        OmegaConf.save(config, Path(directory, "config.yaml"), resolve=True)
    Path("taken/run_0/provenance.json").write_text('{"resumed_from": "/x/from-t0001-epochs=2-last.ckpt"}')
    Path("torn").mkdir()
    Path("torn/config.yaml").write_text("name: [1")
    with pytest.raises(ConfigError) as caught:
        train(*arguments)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


HERE = {
    "python": "3.11",
    "directory": "/here",
    "packages": {"torch": "2.9"},
    "hardware": {"processor": "one", "gpus": [], "host": "a"},
    "training": {"world_size": 1},
    "numerics": {"threads": 1},
    "environment": {},
    "git": {"commit": "a" * 40, "diff": "", "untracked_files": {"model.py": "1", "runs/config.yaml": "2"}},
    "rayconvai_sha256": "3",
    "data": {"train": {"sha256": "4" * 64, "hours": 2.0}},
}


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        pytest.param({}, [], id="nothing"),
        pytest.param({"hardware": {"processor": "one", "gpus": [], "host": "b"}}, [], id="host"),
        pytest.param({"git": {**HERE["git"], "commit": "b" * 40}}, ["code: commit was aaaa"], id="commit"),
        pytest.param({"git": {**HERE["git"], "diff": "+x"}}, ["code: the uncommitted changes"], id="diff"),
        pytest.param({"git": None}, ["code: cannot be compared; here has no git"], id="no_git"),
        pytest.param(
            {"git": {**HERE["git"], "untracked_files": {"model.py": "9", "new.yaml": "9"}}},
            ["code: untracked files are not those of the run: model.py"],
            id="untracked",
        ),
        pytest.param(
            {"environment": {"OMP_NUM_THREADS": "2"}, "numerics": {"threads": 2}},
            ["numerics: threads was 1, is 2", "environment: OMP_NUM_THREADS was unset, is 2"],
            id="threads",
        ),
        pytest.param(
            {"data": {"train": {"sha256": "5" * 64, "hours": 2.0}}},
            ["data: train was (sha256 444444444444, hours 2.0), is (sha256 555555555555, hours 2.0)"],
            id="data",
        ),
        pytest.param({"directory": "/there"}, ["directory: relative paths in the config began in /here"], id="cwd"),
    ],
)
def test_differences(change: dict[str, Any], lines: list[str]) -> None:
    found = differences(HERE, {**HERE, **change})
    assert len(found) == len(lines)
    assert all(said.startswith(line) for said, line in zip(found, lines, strict=True))


def test_numbers_differ_by_the_last_bit(tmp_path: Path) -> None:
    lines = [{"kind": "step", "epoch": 1, "step": step, "time": step, "train_loss": 0.1} for step in range(3)]
    for name, loss in (("one", 0.1), ("two", 0.1 + 2**-56)):
        (tmp_path / name).mkdir()
        lines[1] |= {"train_loss": loss, "time": loss}
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    one, two = (tmp_path / name / "metrics.jsonl" for name in ("one", "two"))
    assert compare_numbers(one, one) == f"same numbers as {tmp_path / 'one'} (epochs: 0, recorded steps: 3)"
    said = compare_numbers(one, two)
    assert said.startswith(f"other numbers than {tmp_path / 'one'}; the first: train_loss was 0.1, is 0.1000000000")
    assert said.endswith("(step line of epoch 1, step 1)")
