"""``python -m rayconvai.train``: Hydra's own flags, one-line errors, one directory for each run."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

import rayconvai
from rayconvai.config.compose import compose, config_root
from rayconvai.errors import ConfigError, DataError
from rayconvai.experiment.interrupt import Interrupted
from rayconvai.train import __main__ as door
from rayconvai.train import finish

RECIPE = ["--config-name", "asr/conformer_ctc"]


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[DictConfig, Any]]]:
    """The command, in this process, with what trains replaced by a record of what it was called with."""
    runs: list[tuple[DictConfig, Any]] = []

    def fake_fit(config: DictConfig, runtime: Any) -> SimpleNamespace:
        if config.name == "bad":
            raise DataError("train.json:3: no such sound")
        if config.name == "stopped" and not config.exp_manager.resume_if_exists:
            stop = Interrupted(signal.SIGINT)
            stop.run_dir = tmp_path / "a b=c"
            stop.checkpoint = stop.run_dir / "last.ckpt"
            stop.run_dir.mkdir()
            OmegaConf.save(config, stop.run_dir / "config.yaml", resolve=True)
            raise stop
        runs.append((config, runtime))
        return SimpleNamespace(run_dir=tmp_path, metrics={"val_wer": 0.5}, best_checkpoint=None)

    def run(*arguments: str) -> list[tuple[DictConfig, Any]]:
        monkeypatch.setattr(sys, "argv", ["rayconvai.train", *arguments])
        door.main()
        return runs

    monkeypatch.setattr(finish, "fit", fake_fit)
    monkeypatch.setattr(finish, "finish", lambda *_: {})
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.chdir(tmp_path)
    return run


def test_one_run(train: Callable[..., Any], tmp_path: Path) -> None:
    [(config, runtime)] = train(*RECIPE, "data=digits", "seed=7", "+trainer.max_time=00:00:01:00")
    assert config == compose(RECIPE[1], ["data=digits", "seed=7", "trainer.max_time=00:00:01:00"])
    assert runtime.overrides == ["data=digits", "seed=7", "trainer.max_time=00:00:01:00"]
    assert runtime.run_dir is None
    assert list(tmp_path.iterdir()) == []  # Hydra leaves nothing behind


def test_several_runs_have_directories_of_their_own(train: Callable[..., Any], tmp_path: Path) -> None:
    runs = train(*RECIPE, "seed=1,2", "-m", "data=digits,sentences", "exp_manager.exp_dir=out")
    points = [(config.seed, config.data.corpus.kind) for config, _ in runs]
    assert sorted(points) == [(1, "digits"), (1, "sentences"), (2, "digits"), (2, "sentences")]
    directories = {runtime.run_dir for _, runtime in runs}
    assert len(directories) == 4
    assert all(path.resolve().is_relative_to(tmp_path / "out" / "conformer_ctc") for path in directories)


def test_no_run_starts_before_all_are_checked(train: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="num_layers must be int, not 'x'"):
        train(*RECIPE, "-m", "model.encoder.num_layers=2,x")
    assert train(*RECIPE) != []  # the record holds this run alone
    assert len(train(*RECIPE)) == 2


def test_errors_of_a_run_come_through(train: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match=r"train.json:3"):
        train(*RECIPE, "name=bad")
    assert capsys.readouterr().err == ""


def test_an_interrupted_run_says_how_to_go_on(
    train: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Interrupted):
        train(*RECIPE, "name=stopped", "seed=7")
    said, _, line = capsys.readouterr().err.partition("to go on: python -m rayconvai.train ")
    assert said == "interrupted; "
    [(config, _)] = train(*shlex.split(line))
    assert (config.seed, config.exp_manager.explicit_log_dir) == (7, str(tmp_path / "a b=c"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        pytest.param([], "no recipe: give --config-name; recipes: asr/conformer_ctc", id="no_recipe"),
        pytest.param(["--config-name", "asr/conformer"], "nearest: asr/conformer_ctc", id="recipe"),
        pytest.param([*RECIPE, "model.encoder.num_layer=3"], "nearest: model.encoder.num_layers", id="key"),
        pytest.param([*RECIPE, "--cfg", "job", "model.encoder.num_layer=3"], "nearest: model.encoder", id="key_cfg"),
        pytest.param([*RECIPE, "-m", "seed=1,2", "optim=adamv,adam"], "nearest: adam", id="option_multirun"),
        pytest.param([*RECIPE, "--config-dir", "nowhere"], "config directory not found", id="config_dir"),
        pytest.param([*RECIPE, "--config-path", "."], "--config-dir", id="config_path"),
        pytest.param([*RECIPE, "--info", "config", "data=digts"], "nearest: digits", id="info"),
        pytest.param([*RECIPE, "-m", "--cfg", "job"], "-m and --cfg exclude each other", id="multirun_cfg"),
        pytest.param([*RECIPE, "--resolve"], "--resolve goes with --cfg", id="resolve_alone"),
    ],
)
def test_wrong_command_line(train: Callable[..., Any], arguments: list[str], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        train(*arguments)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rayconvai.train", *arguments],
        cwd=cwd, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_help_names_recipes_and_groups(tmp_path: Path) -> None:
    done = command("--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--config-name RECIPE" in done.stdout
    assert "asr/conformer_ctc" in done.stdout
    assert "model/encoder: conformer, conformer_image, " in done.stdout


def test_info_alone_shows_all(tmp_path: Path) -> None:
    done = command(*RECIPE, "data=digits", "--info", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "data/digits" in done.stdout


def test_cfg_job_prints_a_config_that_composes_again(tmp_path: Path) -> None:
    done = command(*RECIPE, "--cfg", "job", "--resolve", "trainer.max_epochs=3", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    (tmp_path / "config.yaml").write_text(done.stdout)
    assert yaml.safe_load(done.stdout)["trainer"]["max_epochs"] == 3
    assert compose("config", [], [tmp_path]) == compose(RECIPE[1], ["trainer.max_epochs=3"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        pytest.param([*RECIPE, "optim.lrr=1"], "error: override 'optim.lrr=1': optim.lrr is not a key", id="key"),
        pytest.param(["--config-dir", ".", "--config-name", "mine"], "error: mine.yaml:2: not valid YAML", id="yaml"),
    ],
)
def test_errors_are_one_line_and_status_2(tmp_path: Path, arguments: list[str], says: str) -> None:
    (tmp_path / "mine.yaml").write_text("name: [1\n")
    done = command(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(says)
    assert done.stderr.count("\n") == 1


def test_the_wheel_carries_the_configs() -> None:
    project = (Path(rayconvai.__file__).parents[1] / "pyproject.toml").read_text()
    assert '"configs" = "rayconvai/configs"' in project
    assert (config_root() / "asr" / "conformer_ctc.yaml").is_file()
