"""What exp_manager gives a run, and what it refuses."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from omegaconf.errors import OmegaConfBaseException

from rayconvai.errors import ConfigError, StorageError
from rayconvai.experiment import (
    CheckpointMisconfigurationError,
    LoggerMisconfigurationError,
    NotFoundError,
    close,
    exp_manager,
    read_metrics,
)
from rayconvai.experiment.layout import RunLayout
from rayconvai.experiment.manager import run_place
from rayconvai.experiment.options import ExpManagerConfig
from rayconvai.experiment.provenance import record

Make = Callable[..., pl.Trainer]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"unused": 1}, "no option unused", id="unknown"),
        pytest.param({"exp_dirr": "x"}, "nearest: exp_dir", id="misspelt"),
        pytest.param({"checkpoint_callback_params": {"monitr": "x"}}, "nearest: monitor", id="misspelt_below"),
        pytest.param({"resume_if_exists": "perhaps"}, "resume_if_exists", id="wrong_type"),
        pytest.param({"checkpoint_callback_params": {"mode": "least"}}, "must be min or max", id="wrong_mode"),
        pytest.param({"summary_writer_kwargs": {"flush_sec": 1}}, "nearest: flush_secs", id="writer_argument"),
        pytest.param({"summary_writer_kwargs": {"log_dir": "x"}}, "leave out log_dir", id="writer_directory"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str, make_trainer: Make, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        exp_manager(make_trainer(), {"exp_dir": str(tmp_path), **options})
    assert isinstance(raised.value, OmegaConfBaseException)
    assert "\n" not in str(raised.value)


def test_a_log_that_cannot_be_written_is_said_once(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(RunLayout, "log", property(lambda _: Path("/dev/full")))
    trainer, _, _ = run(tmp_path)
    assert trainer.state.finished
    said = [line for line in caplog.messages if "cannot be written" in line]
    assert said == ["/dev/full cannot be written ([Errno 28] No space left on device); the run goes on without"]


@pytest.mark.parametrize(
    ("options", "directory"),
    [
        pytest.param({"exp_dir": "e", "name": "n", "version": 957}, "e/n/957", id="version"),
        pytest.param({"exp_dir": "e", "version": "v"}, "e/default/v", id="no_name"),
        pytest.param({"explicit_log_dir": "here", "exp_dir": "e", "name": "n"}, "here", id="explicit"),
        pytest.param({}, r"runs/default/\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", id="all_defaults"),
        pytest.param({"exp_dir": "e", "use_datetime_version": False}, "e/default/version_0", id="first"),
        pytest.param(
            {"exp_dir": "e", "resume_if_exists": True, "resume_ignore_no_checkpoint": True}, "e/default", id="resuming"
        ),
    ],
)
def test_directory(
    options: dict[str, Any], directory: str, make_trainer: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root = exp_manager(make_trainer(), options)
    assert re.fullmatch(directory, str(root.relative_to(tmp_path)))
    assert root.is_dir()


def test_numbered_versions_count_up(make_trainer: Make, tmp_path: Path) -> None:
    options = {"exp_dir": str(tmp_path), "use_datetime_version": False}
    assert [exp_manager(make_trainer(), options).name for _ in range(3)] == ["version_0", "version_1", "version_2"]


def test_runs_of_the_same_second_have_directories_of_their_own(make_trainer: Make, tmp_path: Path) -> None:
    assert len({exp_manager(make_trainer(), {"exp_dir": str(tmp_path)}) for _ in range(5)}) == 5


def test_nulls_are_defaults(run: Callable[..., Any], tmp_path: Path) -> None:
    """As in the sections of NeMo's users, who must set one null to have the other."""
    nulls = dict.fromkeys(("exp_dir", "version", "summary_writer_kwargs", "wandb_logger_kwargs", "files_to_copy"))
    params = {"every_n_epochs": None, "every_n_train_steps": 3, "save_top_k": 1}
    trainer, _, _ = run(tmp_path, checkpoint_callback_params=params, **nulls)
    assert Path(trainer.checkpoint_callback.best_model_path).is_file()


def test_conflicts_with_what_the_trainer_has(
    make_trainer: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own = make_trainer(logger=True, enable_checkpointing=True)
    for options in ({"exp_dir": "e"}, {"explicit_log_dir": "e"}, {"resume_if_exists": True}):
        with pytest.raises(LoggerMisconfigurationError):
            exp_manager(own, options)
    with pytest.raises(CheckpointMisconfigurationError):
        exp_manager(own, {"create_tensorboard_logger": False})
    root = exp_manager(own, {"create_tensorboard_logger": False, "create_checkpoint_callback": False})
    assert root == tmp_path / "lightning_logs" / "version_0"
    assert root.is_dir()


def test_nothing_to_resume_from(make_trainer: Make, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="resume_ignore_no_checkpoint"):
        exp_manager(make_trainer(), {"exp_dir": str(tmp_path), "resume_if_exists": True})
    with pytest.raises(NotFoundError, match=r"none\.ckpt"):
        exp_manager(make_trainer(), {"exp_dir": str(tmp_path), "resume_from_checkpoint": str(tmp_path / "none.ckpt")})


def test_ended_run_is_resumed_only_past_its_end(make_trainer: Make, tmp_path: Path) -> None:
    end = tmp_path / "checkpoints" / "mine--end.ckpt"
    end.parent.mkdir()
    end.touch()
    options = {"explicit_log_dir": str(tmp_path), "resume_if_exists": True}
    with pytest.raises(ValueError, match="resume_past_end"):
        exp_manager(make_trainer(), options)
    trainer = make_trainer()
    exp_manager(trainer, {**options, "resume_past_end": True})
    assert trainer.ckpt_path == str(end)


def test_unwritable_directory_is_said_before_training(make_trainer: Make, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be written"):
        exp_manager(make_trainer(), {"exp_dir": str(tmp_path / "file")})


def test_run_directory_holds_what_happened(run: Callable[..., Any], tmp_path: Path) -> None:
    config = tmp_path / "extra.txt"
    config.write_text("kept")
    trainer, model, root = run(tmp_path / "run", files_to_copy=[str(config)])
    assert (root / "extra.txt").read_text() == "kept"
    assert "max_epochs=2" in (root / "log.txt").read_text()
    provenance = json.loads((root / "provenance.json").read_text())
    assert provenance["seed"] == 7
    assert provenance["packages"]["torch"]
    assert {"command", "git", "hardware", "python", "time"} <= set(provenance)

    epochs = [line for line in read_metrics(root / "metrics.jsonl") if line["kind"] == "epoch"]
    assert [line["epoch"] for line in epochs] == [1, 2]
    assert all({"train_loss", "val_loss", "step", "time"} <= set(line) for line in epochs)
    steps = [line["step"] for line in read_metrics(root / "metrics.jsonl") if line["kind"] == "step"]
    assert steps == list(range(8))

    trainer.test(model, verbose=False)
    tests = [line for line in read_metrics(root / "metrics.jsonl") if line["kind"] == "test"]
    assert [line["epoch"] for line in tests] == [2]
    assert "test_loss" in tests[0]
    close(trainer)


def test_facts_join_the_provenance(make_trainer: Make, tmp_path: Path) -> None:
    from rayconvai.experiment import RunLayout

    root = exp_manager(make_trainer(), {"explicit_log_dir": str(tmp_path)})
    record(RunLayout(root), data={"train": {"hours": 1.5}})
    provenance = json.loads((root / "provenance.json").read_text())
    assert provenance["data"] == {"train": {"hours": 1.5}}
    assert provenance["python"]


def test_second_run_takes_over_the_log(run: Callable[..., Any], tmp_path: Path) -> None:
    run(tmp_path / "first")
    before = (tmp_path / "first" / "log.txt").read_text()
    run(tmp_path / "second")
    logging.getLogger("rayconvai").warning("between runs")
    assert (tmp_path / "first" / "log.txt").read_text() == before


def test_new_run_in_an_old_directory_mixes_nothing(run: Callable[..., Any], tmp_path: Path) -> None:
    run(tmp_path)
    run(tmp_path)
    assert [line["epoch"] for line in read_metrics(tmp_path / "metrics.jsonl") if line["kind"] == "epoch"] == [1, 2]
    assert (tmp_path / "run_0" / "log.txt").exists()
    assert list(tmp_path.glob("run_*/metrics.jsonl"))


def test_a_job_keeps_its_runs_where_the_cluster_says(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ExpManagerConfig(exp_dir="runs", name="asr", resume_if_exists=True)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(ConfigError, match=r"exp_manager\.exp_dir: 'runs' is relative, and a Ray job's"):
        run_place(config)
    monkeypatch.setenv("RAYCONVAI_STORAGE", "/shared")
    assert run_place(config) == "/shared/runs/asr"
