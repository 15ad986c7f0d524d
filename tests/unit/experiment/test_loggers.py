"""What the loggers wrote is read back with the tools that users read it with; none of them may stop a training."""

from __future__ import annotations

import json
import resource
import struct
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wandb
from lightning.pytorch.loggers import CSVLogger

from rayconvai.core.sample import Curve, Marked, Matrix, Sample, Sound, Text
from rayconvai.errors import StorageError
from rayconvai.experiment import RunLayout, close, exp_manager, read_metrics
from rayconvai.experiment.loggers import RunTensorBoardLogger, RunWandbLogger
from rayconvai.experiment.record import MetricsRecord
from rayconvai.experiment.samples import load_sound, read_samples

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
    """The records of the only offline run in a run's directory."""
    wandb.teardown()  # its service may still be writing when a run has ended
    (attempt,) = root.glob("wandb/offline-run-*")
    return records_of(attempt)


def records_of(attempt: Path) -> list[Any]:
    """The records of an offline run: LevelDB's log format after a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    (path,) = attempt.glob("*.wandb")
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
    tone = np.sin(np.arange(800) / 5).astype(np.float32)
    parts = {
        "reference": Marked((("one", ""), ("two", "sub"))),
        "said": Text("né"),
        "audio": Sound(signal=tone, sample_rate=8000),
        "mel": Matrix(np.arange(12.0).reshape(3, 4), "mel", "frames"),
        "pitch": Curve({"true": np.array([1.0, np.nan, 3.0]), "predicted": np.array([1.0, 2.0])}, unit="Hz"),
    }
    samples = [Sample("dev.jsonl:2", 0.5, parts), Sample("dev.jsonl:1", None, {"said": Text("ne")})]
    record, board = MetricsRecord(RunLayout(tmp_path)), RunTensorBoardLogger(tmp_path, {})
    record.kind = "validation"
    for logger in (record, board, RunWandbLogger(tmp_path, {"offline": True}, "p")):
        logger.log_samples(samples, step=5)
        logger.close()

    first, second = read_samples(tmp_path / "samples", "validation-00000005")
    assert (first.where, first.score, first.texts) == ("dev.jsonl:2", 0.5, {"reference": "one two", "said": "né"})
    assert first.parts["reference"] == parts["reference"]
    heard, rate = load_sound(first.parts["audio"])
    assert rate == 8000
    np.testing.assert_allclose(heard, tone, atol=1e-4)
    np.testing.assert_equal(first.parts["mel"].values, parts["mel"].values)
    np.testing.assert_equal(dict(first.parts["pitch"].lines), dict(parts["pitch"].lines))
    assert second == samples[1]

    events = tensorboard(tmp_path)
    assert b"| dev.jsonl:2 | 0.5 | one two |" in events.Tensors("samples/text_summary")[0].tensor_proto.string_val[0]
    assert events.Audio("samples/1_audio")[0].sample_rate == 8000
    assert (events.Images("samples/1_mel")[0].width, events.Images("samples/1_pitch")[0].width) == (4, 640)
    [table] = tmp_path.glob("wandb/offline-run-*/files/media/table/samples_*.json")
    rows = json.loads(table.read_text(encoding="utf-8"))
    assert rows["columns"] == ["where", "score", "reference", "said"]
    assert rows["data"] == [["dev.jsonl:2", 0.5, "one two", "né"], ["dev.jsonl:1", None, "", "ne"]]
    [media] = tmp_path.glob("wandb/offline-run-*/files/media")
    assert {path.name.rsplit("_", 2)[0] for path in media.glob("*/samples/*")} == {"1_audio", "1_mel", "1_pitch"}
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


def curves(root: Path) -> dict[str, list[tuple[int, float]]]:
    events = tensorboard(root)
    return {tag: [(p.step, p.value) for p in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.mark.slow
@pytest.mark.parametrize("trainer", [{}, {"val_check_interval": 0.5}, {"accumulate_grad_batches": 2}], ids=str)
def test_curves_of_a_run_killed_anywhere_are_those_of_one_that_was_not(
    run: Run, tmp_path: Path, copies: list[Path], trainer: dict[str, Any]
) -> None:
    options = {"checkpoint_callback_params": {"every_n_train_steps": 1}, "trainer": trainer}
    _, _, root = run(tmp_path / "unstopped", **options)
    whole = curves(root)
    steps = 4 if "accumulate_grad_batches" in trainer else 8
    assert [step for step, _ in whole["train_loss_step"]] == list(range(steps))
    assert [step for step, _ in whole["train_loss"]] == [steps // 2 - 1, steps - 1]
    for copy in copies:
        run(copy, seed=99, resume_if_exists=True, **options)
        # What was logged between a checkpoint's copy and its file is logged again: the same points.
        assert {name: list(dict.fromkeys(points)) for name, points in curves(copy).items()} == {
            name: list(dict.fromkeys(points)) for name, points in whole.items()
        }, copy


def test_wandb_reads_as_one_run_over_restarts(run: Run, tmp_path: Path) -> None:
    options = {"create_wandb_logger": True, "wandb_logger_kwargs": {"offline": True, "tags": ["small"]}}
    for epochs in (1, 2, 3):
        run(tmp_path, trainer={"max_epochs": epochs}, resume_if_exists=epochs > 1, **options)
    wandb.teardown()
    found = [records_of(path) for path in sorted(tmp_path.glob("wandb/offline-run-*"))]
    starts = [next(record.run for record in records if record.HasField("run")) for records in found]
    assert len(starts) == 3
    assert {(start.run_id, *start.tags) for start in starts} == {(json_of(tmp_path / "loggers.json")["wandb"], "small")}
    rows = [row for records in found for row in history(records)]
    steps = [int(row["trainer/global_step"]) for row in rows if "train_loss_step" in row]
    assert steps == list(range(12))
    validated = [float(row["val_loss"]) for row in rows if "val_loss" in row]
    best = [u.value_json for r in found[-1] for u in r.summary.update if "best/val_loss" in (u.key, *u.nested_key)]
    assert float(best[-1]) == min(validated)

    run(tmp_path, **options)
    assert json_of(tmp_path / "loggers.json") != json_of(next(tmp_path.glob("run_*/loggers.json")))


def test_mlflow_reads_as_one_run_over_restarts(run: Run, tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    for epochs in (1, 3):
        run(tmp_path, trainer={"max_epochs": epochs}, resume_if_exists=epochs > 1, create_mlflow_logger=True)
    client = mlflow.MlflowClient(f"file:{tmp_path / 'mlruns'}")
    [kept] = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert (kept.info.status, kept.data.params) == ("FINISHED", {"width": "8"})
    assert [m.step for m in client.get_metric_history(kept.info.run_id, "train_loss_step")] == list(range(12))


@pytest.mark.parametrize("broken", ["log_metrics", "log_hyperparams", "save", "finalize", "after_save_checkpoint"])
def test_a_logger_that_raises_does_not_stop_the_training(
    make_trainer: Callable[..., Any], net_class: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("the server is on fire")

    logger = type("Broken", (CSVLogger,), {broken: fail})(tmp_path / "own")
    trainer = make_trainer(logger=logger)
    exp_manager(trainer, {"create_tensorboard_logger": False})
    trainer.fit(net_class())
    close(trainer)
    assert trainer.global_step == 8
    assert caplog.text.count("Broken failed (the server is on fire)") == 1


@pytest.mark.slow
@pytest.mark.parametrize("answer", ["nothing", "refusal"])
def test_a_wandb_server_that_is_no_use(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, answer: str
) -> None:
    """Nobody answers, or the key is wrong."""

    class Refuses(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(401)
            self.end_headers()

        do_GET = do_POST

    server = HTTPServer(("127.0.0.1", 0), Refuses)
    if answer == "refusal":
        threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    kwargs = {"settings": {"init_timeout": 2.0, "x_graphql_timeout_seconds": 2.0}}
    trainer, _, root = run(tmp_path, create_wandb_logger=True, wandb_logger_kwargs=kwargs)
    if answer == "refusal":
        server.shutdown()
    server.server_close()
    assert trainer.global_step == 8
    assert caplog.text.count("W&B cannot be had") == 1
    assert sum("val_loss" in row for row in history(wandb_records(root))) == 2


def json_of(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
