"""A run that was stopped anywhere and went on ends as the run that was never stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rayconvai.experiment import read_metrics

EVERY_STEP = {"checkpoint_callback_params": {"every_n_train_steps": 1}, "create_tensorboard_logger": False}


def lines(root: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k != "time"} for line in read_metrics(root / "metrics.jsonl")]


@pytest.mark.slow
@pytest.mark.parametrize(
    "trainer",
    [
        pytest.param({}, id="validation_each_epoch"),
        pytest.param({"val_check_interval": 0.5}, id="validation_twice_an_epoch"),
        pytest.param({"check_val_every_n_epoch": 2}, id="validation_every_other_epoch"),
        pytest.param({"accumulate_grad_batches": 2}, id="accumulated"),
        pytest.param({"limit_val_batches": 0}, id="no_validation"),
        pytest.param({"max_epochs": -1, "max_steps": 7}, id="by_steps"),
    ],
)
def test_resumed_from_any_checkpoint_equals_unstopped(
    trainer: dict[str, Any], run: Callable[..., Any], tmp_path: Path, copies: list[Path]
) -> None:
    _, unstopped, root = run(tmp_path / "unstopped", trainer=trainer, **EVERY_STEP)
    assert len(copies) > 4
    for copy in copies:
        _, resumed, _ = run(copy, trainer=trainer, seed=99, resume_if_exists=True, **EVERY_STEP)
        assert torch.equal(resumed.flat(), unstopped.flat()), copy
        assert lines(copy) == lines(root), copy
