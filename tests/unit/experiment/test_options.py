"""What the options besides loggers and checkpoints do, and that none of it changes how a run goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from rayconvai.core.model import Model
from rayconvai.errors import ConfigError
from rayconvai.experiment import Interrupted, close, exp_manager, read_metrics
from rayconvai.experiment.storage import AtomicCheckpointIO, find_last

Run = Callable[..., tuple[pl.Trainer, Any, Path]]
BARE = {"create_tensorboard_logger": False}
EVERY_STEP = {**BARE, "checkpoint_callback_params": {"every_n_train_steps": 1}}


def lines(root: Path, kind: str) -> list[dict[str, Any]]:
    return [line for line in read_metrics(root / "metrics.jsonl") if line["kind"] == kind]


def weights(path: Path, key: str = "state_dict") -> torch.Tensor:
    return torch.cat([w.flatten() for w in AtomicCheckpointIO().load_checkpoint(path)[key].values()])


@pytest.mark.slow
@pytest.mark.parametrize("every", [1, 3])
def test_the_average_is_exact_over_any_restart(run: Run, tmp_path: Path, copies: list[Path], every: int) -> None:
    options = {**EVERY_STEP, "ema": {"enable": True, "decay": 0.9, "every_n_steps": every}}
    _, unstopped, root = run(tmp_path / "unstopped", **options)
    assert len(copies) > 4
    for copy in copies:
        _, resumed, _ = run(copy, seed=99, resume_if_exists=True, **options)
        assert torch.equal(resumed.flat(), unstopped.flat()), copy
        for key in ("state_dict", "current_model_state"):
            last = [find_last(at / "checkpoints") for at in (copy, root)]
            assert torch.equal(*(weights(path, key) for path in last if path)), (copy, key)


def test_the_average_is_what_is_validated_and_kept(run: Run, tmp_path: Path) -> None:
    ema = {"enable": True, "decay": 0.9}
    _, plain, plain_root = run(tmp_path / "plain", **BARE)
    _, average, root = run(tmp_path / "average", ema=ema, **BARE)
    _, _, original_root = run(tmp_path / "original", ema={**ema, "validate_original_weights": True}, **BARE)
    validated = [[line["val_loss"] for line in lines(at, "epoch")] for at in (plain_root, root, original_root)]
    assert validated[0] == validated[2] != validated[1]

    last = find_last(root / "checkpoints")
    assert last is not None
    assert torch.equal(weights(last, "current_model_state"), plain.flat())
    assert torch.equal(weights(last), average.flat())
    # As the formula has it, from the weights after each step.
    seen: list[torch.Tensor] = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
            seen.append(pl_module.flat())

    run(tmp_path / "watched", trainer={"callbacks": [Watch()]}, **BARE)
    expected = seen[0]
    for after in seen[1:]:
        expected = 0.9 * expected + 0.1 * after
    torch.testing.assert_close(average.flat(), expected)


STOPPING = {"create_early_stopping_callback": True}


def test_early_stopping_ends_a_run_and_keeps_it_ended(run: Run, tmp_path: Path, copies: list[Path]) -> None:
    hopeless = {"min_delta": 100.0, "patience": 2}
    options = {**EVERY_STEP, **STOPPING, "early_stopping_callback_params": hopeless}
    ended, unstopped, _ = run(tmp_path / "unstopped", trainer={"max_epochs": 9}, **options)
    assert ended.current_epoch == 3
    for copy in copies[1::3] + copies[-1:]:
        resumed, model, _ = run(copy, trainer={"max_epochs": 9}, seed=99, resume_if_exists=True, **options)
        assert resumed.global_step == ended.global_step, copy
        assert torch.equal(model.flat(), unstopped.flat())
    patient = {**options, "early_stopping_callback_params": {**hopeless, "patience": 4}}
    resumed, _, _ = run(copies[-1], trainer={"max_epochs": 9}, resume_if_exists=True, **patient)
    assert resumed.current_epoch == 5


def test_early_stopping_by_a_metric_that_is_not_there(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"monitor is val_los, .* nearest: val_loss"):
        run(tmp_path, early_stopping_callback_params={"monitor": "val_los"}, **STOPPING, **BARE)


@pytest.mark.parametrize(
    ("callback", "options"),
    [
        pytest.param(pl.callbacks.EarlyStopping("val_loss"), STOPPING, id="early_stopping"),
        pytest.param(pl.callbacks.EMAWeightAveraging(), {"ema": {"enable": True}}, id="ema"),
    ],
)
def test_what_the_trainer_has_already_is_refused(
    callback: pl.Callback, options: dict[str, Any], make_trainer: Callable[..., pl.Trainer], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="the trainer already has"):
        exp_manager(make_trainer(callbacks=[callback]), {"explicit_log_dir": str(tmp_path), **options})


def test_runs_cut_by_time_equal_one_that_is_not(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, uncut, root = run(tmp_path / "uncut", **BARE)
    clock = iter(range(10_000))
    options = {**BARE, "resume_if_exists": True, "resume_ignore_no_checkpoint": True, "max_time_per_run": "0:0:0:6"}
    cuts = 0
    while True:
        monkeypatch.setattr("rayconvai.experiment.deadline.time", type("Clock", (), {"monotonic": lambda: next(clock)}))
        try:
            _, model, _ = run(tmp_path / "cut", seed=7 + cuts, **options)
            break
        except Interrupted:
            cuts += 1
    assert cuts > 1
    assert torch.equal(model.flat(), uncut.flat())
    without_time = [
        [{k: v for k, v in line.items() if k != "time"} for line in read_metrics(at / "metrics.jsonl")]
        for at in (root, tmp_path / "cut")
    ]
    assert without_time[0] == without_time[1]


def test_a_run_cut_by_time_needs_a_checkpoint(make_trainer: Callable[..., pl.Trainer], tmp_path: Path) -> None:
    options = {"explicit_log_dir": str(tmp_path), "max_time_per_run": "0:4:0:0"}
    with pytest.raises(ConfigError, match="create_checkpoint_callback=true"):
        exp_manager(make_trainer(), {**options, "create_checkpoint_callback": False})
    with pytest.raises(ConfigError, match="days:hours:minutes:seconds"):
        exp_manager(make_trainer(), {**options, "max_time_per_run": "4 hours"})


def test_steps_are_timed_and_measured_and_train_the_same(run: Run, tmp_path: Path) -> None:
    measured = {"log_step_timing": True, "log_grad_norm": True, "log_throughput": True}
    _, plain, _ = run(tmp_path / "plain", **BARE)
    accumulated = {"accumulate_grad_batches": 2}
    began = time.perf_counter()
    _, model, root = run(tmp_path / "measured", **measured, **BARE)
    took = time.perf_counter() - began
    assert torch.equal(model.flat(), plain.flat())
    steps = lines(root, "step")
    assert len(steps) == 8
    assert all({"train_loss", "train_step_timing", "grad_norm", "steps_per_second"} <= set(line) for line in steps)
    assert 0 < sum(line["train_step_timing"] for line in steps) < took
    assert [line["validation_step_timing"] > 0 for line in lines(root, "validation")] == [True, True]
    _, _, root = run(tmp_path / "accumulated", trainer=accumulated, **measured, **BARE)
    assert [line["step"] for line in lines(root, "step") if line["grad_norm"] > 0] == [0, 1, 2, 3]


class Counted(Model):
    """Says that each batch holds two seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Linear(4, 1)

    from_config = check_graph = None

    def seen(self, batch: Any) -> dict[str, Any]:
        return {"audio_seconds": torch.tensor(2.0)}

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        return self.net(batch[0]).pow(2).mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def test_throughput_is_in_the_units_of_the_model(
    make_trainer: Callable[..., pl.Trainer], net_class: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayconvai.experiment.timing.get_available_flops", lambda *_: 1000)
    trainer = make_trainer(max_epochs=1)
    options = {"explicit_log_dir": str(tmp_path), "log_throughput": True, "create_checkpoint_callback": False, **BARE}
    exp_manager(trainer, options)
    trainer.fit(Counted(), net_class().train_dataloader())
    close(trainer)
    first, *steps = lines(tmp_path, "step")
    assert "mfu" not in first  # its work was being counted
    assert len(steps) == 3
    for line in steps:
        assert line["audio_seconds_per_second"] == pytest.approx(2 * line["steps_per_second"])
        # Forward and the gradient of the weights: each 2 * 4 * 4 operations a batch.
        assert line["mfu"] == pytest.approx(line["steps_per_second"] * 64 / 1000)


def test_gradient_norm_is_that_of_all_weights_before_clipping(run: Run, tmp_path: Path) -> None:
    _, _, free = run(tmp_path / "free", trainer={"max_steps": 1}, log_grad_norm=True, **BARE)
    clip = {"max_steps": 1, "gradient_clip_val": 1e-3}
    _, _, clipped = run(tmp_path / "clipped", trainer=clip, log_grad_norm=True, **BARE)
    norms = [lines(root, "step")[0]["grad_norm"] for root in (free, clipped)]
    assert norms[0] == norms[1] > 1e-3


def test_the_table_is_the_record_over_restarts(run: Run, tmp_path: Path) -> None:
    import pandas as pd

    options = {**BARE, "create_csv_logger": True, "checkpoint_callback_params": {"every_n_train_steps": 3}}
    run(tmp_path, **options)
    for path in (tmp_path / "checkpoints").glob("*step=8*"):
        path.unlink()
    run(tmp_path, resume_if_exists=True, trainer={"max_epochs": 3}, **options)
    table = pd.read_csv(tmp_path / "metrics.csv")
    assert list(table.columns[:4]) == ["kind", "step", "epoch", "time"]
    rows = [{k: v for k, v in row.items() if v == v} for row in json.loads(table.to_json(orient="records"))]
    recorded = list(read_metrics(tmp_path / "metrics.jsonl"))
    assert [{k: v for k, v in row.items() if v is not None} for row in rows] == [pytest.approx(r) for r in recorded]
