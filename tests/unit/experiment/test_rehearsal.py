"""Loggers are tried before a sweep: what is wrong with them is one line, and nothing is left behind."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import wandb

from rayconvai.errors import ConfigError
from rayconvai.experiment.options import ExpManagerConfig
from rayconvai.experiment.rehearsal import try_loggers


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    return tmp_path


def test_good_loggers_leave_nothing(temporary: Path, capfd: pytest.CaptureFixture[str]) -> None:
    try_loggers(ExpManagerConfig(create_wandb_logger=True, name="asr/small"))
    assert wandb.run is None
    assert list(temporary.iterdir()) == []
    assert capfd.readouterr().err == ""
    assert "WANDB_SILENT" not in os.environ


@pytest.mark.parametrize(
    ("config", "words"),
    [
        pytest.param({"summary_writer_kwargs": {"flush_sec": 3}}, "nearest: flush_secs", id="tensorboard_option"),
        pytest.param({"wandb_logger_kwargs": {"jobtype": "a"}}, "nearest: job_type", id="wandb_option"),
        pytest.param({"wandb_logger_kwargs": {"job_type": 3}}, "wandb_logger_kwargs: .*valid string", id="wandb_type"),
    ],
)
def test_a_wrong_option_is_one_line(temporary: Path, config: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        try_loggers(ExpManagerConfig(create_wandb_logger=True, **config))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("said", "refused"),
    [
        pytest.param("Failed to verify credentials with x: api_key_invalid", True, id="wrong_key"),
        pytest.param("Failed to verify credentials with x: did not respond in time", False, id="no_network"),
    ],
)
def test_a_wrong_key_is_told_from_no_network(
    temporary: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    said: str,
    refused: bool,
) -> None:
    def refuse(**_: Any) -> None:
        raise wandb.errors.AuthenticationError(said)

    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr(wandb, "Api", refuse)
    config = ExpManagerConfig(create_tensorboard_logger=False, create_wandb_logger=True)
    if refused:
        with pytest.raises(ConfigError, match="W&B refuses the key"):
            try_loggers(config)
        return
    with caplog.at_level(logging.WARNING):
        try_loggers(config)
    assert "kept offline" in caplog.text


def test_a_missing_package_is_one_line(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="wandb is not installed; run: pip install wandb"):
        try_loggers(ExpManagerConfig(create_wandb_logger=True))
