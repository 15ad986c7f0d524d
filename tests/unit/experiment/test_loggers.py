"""What the loggers wrote is read back with the tools that users read it with; none of them may stop a training."""

from __future__ import annotations

import json
import resource
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import wandb

from rayconvai.errors import StorageError
from rayconvai.experiment import RunLayout, read_metrics
from rayconvai.experiment.loggers import RunTensorBoardLogger, RunWandbLogger
from rayconvai.experiment.record import MetricsRecord

Run = Callable[..., Any]


def tensorboard(root: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(root), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    return events


def test_tensorboard_reads_as_one_curve_over_a_restart(run: Run, tmp_path: Path) -> None:
    run(tmp_path, checkpoint_callback_params={"every_n_train_steps": 3})
    for path in (tmp_path / "checkpoints").glob("*step=8*"):
        path.unlink()
    run(tmp_path, resume_if_exists=True, trainer={"max_epochs": 3})
    events = tensorboard(tmp_path)
    assert [point.step for point in events.Scalars("train_loss_step")] == list(range(12))
    assert [point.step for point in events.Scalars("val_loss")] == [3, 7, 11]
    recorded = [line["val_loss"] for line in read_metrics(tmp_path / "metrics.jsonl") if line["kind"] == "epoch"]
    assert [point.value for point in events.Scalars("val_loss")] == pytest.approx(recorded)
    assert b"width: 8" in events.Tensors("config/text_summary")[0].tensor_proto.string_val[0]


def wandb_records(root: Path) -> list[Any]:
    """The records of an offline run: LevelDB's log format after a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    wandb.teardown()  # its service may still be writing when a run has ended
    (path,) = root.glob("wandb/offline-run-*/*.wandb")
    data, at, parts, records = path.read_bytes(), 7, b"", []
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, size, kind = struct.unpack_from("<IHB", data, at)
        parts, at = parts + data[at + 7 : at + 7 + size], at + 7 + size
        if kind in (1, 4):  # whole, or the last part
            records.append(wandb_internal_pb2.Record.FromString(parts))
            parts = b""
    return records


def history(records: list[Any]) -> list[dict[str, str]]:
    """What was logged, call by call."""
    items = (record.history.item for record in records if record.HasField("history"))
    return [{"/".join(item.nested_key) or item.key: item.value_json for item in row} for row in items]


def test_wandb_without_a_key_is_kept_offline(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    kwargs = {"name": "r", "project": "p", "id": "p-t0007", "group": "p"}
    run(tmp_path / "run", create_wandb_logger=True, wandb_logger_kwargs=kwargs)
    assert caplog.text.count("W&B: no API key") == 1
    assert wandb.run is None
    records = wandb_records(tmp_path / "run")
    started = next(record.run for record in records if record.HasField("run"))
    assert (started.run_id, started.project, started.run_group) == ("p-t0007", "p", "p")
    config = {u.key: u.value_json for r in records for u in (*r.run.config.update, *r.config.update)}
    assert config["width"] == "8"
    assert sum("val_loss" in row for row in history(records)) == 2


def test_wandb_that_cannot_be_had_is_replaced_by_files(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    init = wandb.init

    def only_offline(**kwargs: Any) -> Any:
        if kwargs.get("mode") != "offline":
            raise wandb.errors.CommError("no route to host")
        return init(**kwargs)

    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr(wandb, "init", only_offline)
    trainer, _, root = run(tmp_path / "monday", create_wandb_logger=True, name="asr/small")
    assert trainer.global_step == 8
    assert "W&B cannot be had (no route to host)" in caplog.text
    started = next(record.run for record in wandb_records(root) if record.HasField("run"))
    assert (started.display_name, started.project) == ("monday", "asr-small")


def test_tensorboard_on_a_full_disk_lets_the_training_go_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tensorboardX.event_file_writer.EventsWriter.write_event", full)
    trainer, _, _ = run(tmp_path)
    assert trainer.global_step == 8
    assert caplog.text.count("training goes on without") == 1


def test_samples_reach_every_logger(tmp_path: Path) -> None:
    samples = [{"text": "one two", "heard": "one too"}, {"text": "né", "heard": "ne"}]
    record, board = MetricsRecord(RunLayout(tmp_path)), RunTensorBoardLogger(tmp_path, {})
    for logger in (record, board, RunWandbLogger(tmp_path, {"offline": True}, "p")):
        logger.log_samples(samples, step=5)
        logger.close()
    kept = (tmp_path / "samples" / "step-00000005.jsonl").read_text(encoding="utf-8")
    assert [json.loads(line) for line in kept.splitlines()] == samples
    assert b"one too" in tensorboard(tmp_path).Tensors("samples/text_summary")[0].tensor_proto.string_val[0]
    [table] = tmp_path.glob("wandb/offline-run-*/files/media/table/samples_*.json")
    assert json.loads(table.read_text(encoding="utf-8")) == {
        "columns": ["text", "heard"],
        "data": [[*s.values()] for s in samples],
    }
    assert {"trainer/global_step": "5"}.items() <= history(wandb_records(tmp_path))[0].items()


def test_record_survives_a_torn_line(tmp_path: Path) -> None:
    record = MetricsRecord(RunLayout(tmp_path))
    record.log_metrics({"train_loss_step": 1.5, "epoch": 0}, step=0)
    record.log_metrics({"lr": 0.1}, step=0)
    record.log_metrics({"train_loss_step": float("nan")}, step=1)
    record.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "st')
    lines = [{k: v for k, v in line.items() if k != "time"} for line in read_metrics(tmp_path / "metrics.jsonl")]
    assert lines == [
        {"kind": "step", "step": 0, "epoch": 1, "train_loss": 1.5, "lr": 0.1},
        {"kind": "step", "step": 1, "epoch": 1, "train_loss": None},
    ]


def test_record_on_a_full_disk_keeps_every_line_whole(tmp_path: Path) -> None:
    record = MetricsRecord(RunLayout(tmp_path))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for number in range(12):
        record.epoch = number
        record.kind = "epoch"
        record.write({"val_loss": 0.5}, step=number)
        size = record.layout.metrics.stat().st_size
        text = record.layout.metrics.read_bytes()
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + number, before[1]))  # room for a part of what comes
        try:
            with pytest.raises(StorageError, match="cannot be written"):
                record.write({"train_loss": 0.25}, step=number)  # joins the line
            record.kind = "step"
            with pytest.raises(StorageError, match="cannot be written"):
                record.write({"train_loss": 0.25}, step=number)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert record.layout.metrics.read_bytes() == text
    record.close()
    assert [line["epoch"] for line in read_metrics(record.layout.metrics)] == list(range(12))
