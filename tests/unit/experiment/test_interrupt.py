"""Ctrl-C and SIGTERM end a run between two steps, with a checkpoint, and resuming forgets that it happened."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from rayconvai.experiment import Interrupted, find_last, read_metrics

Run = Callable[..., Any]


class SignalAt(pl.Callback):
    """Sends this process a signal in the hook of the given name, at the given step."""

    def __init__(self, number: int, hook: str, step: int, times: int = 1) -> None:
        self.number, self.step, self.times = number, step, times
        setattr(self, hook, self._send)

    def _send(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step and not trainer.sanity_checking:
            for _ in range(self.times):
                self.times -= 1
                os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(
    ("number", "hook", "step", "saved_at"),
    [
        pytest.param(signal.SIGINT, "on_train_batch_start", 1, 2, id="ctrl_c_in_a_batch"),
        pytest.param(signal.SIGTERM, "on_before_optimizer_step", 5, 6, id="sigterm_in_a_step"),
        pytest.param(signal.SIGINT, "on_train_batch_start", 3, 4, id="ctrl_c_in_the_last_batch"),
        pytest.param(signal.SIGINT, "on_validation_batch_start", 4, 4, id="ctrl_c_in_validation"),
        pytest.param(signal.SIGINT, "on_train_epoch_end", 4, 4, id="ctrl_c_at_the_end_of_an_epoch"),
    ],
)
def test_interrupted_run_goes_on_as_if_it_had_not_been(
    number: int, hook: str, step: int, saved_at: int, run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as raised:
        run(tmp_path / "run", trainer={"callbacks": [SignalAt(number, hook, step)]})
    assert raised.value.code == 128 + number
    assert raised.value.checkpoint == find_last(tmp_path / "run" / "checkpoints")
    assert f"step={saved_at}-last" in str(raised.value.checkpoint)
    assert signal.getsignal(number) == before
    assert "stopped; checkpoint: " in caplog.text

    _, resumed, root = run(tmp_path / "run", seed=99, resume_if_exists=True)
    _, unstopped, other = run(tmp_path / "unstopped")
    assert torch.equal(resumed.flat(), unstopped.flat())
    lines = [[{**line, "time": 0} for line in read_metrics(r / "metrics.jsonl")] for r in (root, other)]
    assert lines[0] == lines[1]


def test_second_ctrl_c_stops_at_once(run: Run, tmp_path: Path) -> None:
    with pytest.raises(Interrupted) as raised:
        run(tmp_path, trainer={"callbacks": [SignalAt(signal.SIGINT, "on_train_batch_start", 1, times=2)]})
    assert (raised.value.code, raised.value.checkpoint) == (130, None)
    assert find_last(tmp_path / "checkpoints") is None


def test_an_error_in_a_step_is_no_reason_to_save(run: Run, tmp_path: Path) -> None:
    class Fails(pl.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(tmp_path, trainer={"callbacks": [Fails()]})
    assert find_last(tmp_path / "checkpoints") is None
