"""Runs in a bucket: a real S3 protocol, spoken by a server on this machine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import lightning.pytorch as pl
import pytest
import torch
from moto.server import ThreadedMotoServer

from rayconvai.errors import StorageError
from rayconvai.experiment import mirror as mirrors
from rayconvai.experiment.mirror import Mirror, address_of, fetched_file
from rayconvai.places import working_copy

Run = Callable[..., Any]
RUN = "s3://speech/runs/net"
EVERY_STEP = {"checkpoint_callback_params": {"every_n_train_steps": 1}}


@pytest.fixture
def server(s3: ThreadedMotoServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ThreadedMotoServer:
    monkeypatch.setenv("RAYCONVAI_CACHE", str(tmp_path / "cache"))
    return s3


def names() -> set[str]:
    listed = boto3.client("s3").list_objects_v2(Bucket="speech").get("Contents", [])
    return {entry["Key"].removeprefix("runs/net/") for entry in listed}


def lines(root: Path) -> list[dict[str, Any]]:
    read = [json.loads(text) for text in (root / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "time"} for line in read]


def test_run_goes_on_from_the_bucket(server: ThreadedMotoServer, run: Run) -> None:
    keep_all = {"checkpoint_callback_params": {"save_top_k": -1}}
    _, whole, root = run(RUN, trainer={"max_epochs": 4}, **keep_all)
    assert root == working_copy(RUN)
    assert address_of(root / "checkpoints") == f"{RUN}/checkpoints"
    here = {str(path.relative_to(root)) for path in root.rglob("[!.]*") if path.is_file()}
    assert names() == here
    told = lines(root)
    for name in names():  # as if the machine had gone in the third epoch
        if "last.ckpt" in name or "epoch=2" in name or "epoch=3" in name:
            boto3.client("s3").delete_object(Bucket="speech", Key=f"runs/net/{name}")
    shutil.rmtree(root / "run_0", ignore_errors=True)
    (root / "metrics.jsonl").unlink()
    (root / "stray.txt").write_text("of an attempt that the bucket has not heard of")
    _, resumed, _ = run(RUN, trainer={"max_epochs": 4}, seed=99, resume_if_exists=True, **keep_all)
    assert torch.equal(resumed.flat(), whole.flat())
    assert lines(root) == told
    assert not (root / "stray.txt").exists()
    assert {name for name in names() if name.endswith(".ckpt")} == {
        f"checkpoints/{path.name}" for path in (root / "checkpoints").glob("*.ckpt")
    }


def test_checkpoint_of_another_run(server: ThreadedMotoServer, run: Run, tmp_path: Path) -> None:
    _, _, root = run(RUN)
    newest = next((root / "checkpoints").glob("*last.ckpt")).name
    shutil.rmtree(root)
    trainer, _, _ = run(tmp_path / "next", resume_from_checkpoint=f"{RUN}/checkpoints/{newest}", seed=3)
    assert trainer.global_step == 8


class Outage(pl.Callback):
    """Takes the server away for two epochs."""

    def __init__(self, server: ThreadedMotoServer) -> None:
        self.server, self.port = server, server.get_host_and_port()[1]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == 1:
            self.server.stop()
        if trainer.current_epoch == 3:
            self.server = ThreadedMotoServer(ip_address="127.0.0.1", port=self.port)
            self.server.start()


def test_bucket_that_is_away_for_a_while(server: ThreadedMotoServer, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirrors, "PUSH_SECONDS", 0.01)
    outage = Outage(server)
    try:
        _, _, root = run(RUN, trainer={"max_epochs": 4, "callbacks": [outage]}, **EVERY_STEP)
        found = names()
    finally:
        outage.server.stop()
    assert found == {str(path.relative_to(root)) for path in root.rglob("[!.]*") if path.is_file()}


def test_bucket_that_does_not_answer_is_said_once(
    server: ThreadedMotoServer, run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mirrors, "PUSH_SECONDS", 0.01)
    monkeypatch.setattr(mirrors, "MOST_SECONDS", 0.1)
    push, tries = Mirror.push, []

    def away(self: Mirror) -> None:
        tries.append(1)
        if len(tries) < 4:
            raise ConnectionError("no route to host")
        push(self)

    monkeypatch.setattr(Mirror, "push", away)
    run(RUN)
    said = [record.message for record in caplog.records if "tries again" in record.message]
    assert said == [f"{RUN} cannot be written (no route to host); the run goes on and tries again"]


def test_bucket_that_stays_away(server: ThreadedMotoServer, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirrors, "CLOSE_SECONDS", 0.0)

    def away(self: Mirror) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(Mirror, "push", away)
    with pytest.raises(StorageError, match=r"no route to host; \d+ files are only in .*/buckets/s3/speech/runs/net"):
        run(RUN)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        pytest.param("s3://nowhere/runs/net", "s3://nowhere/runs/net cannot be written: .*bucket", id="no_bucket"),
        pytest.param("nosuch://bucket/net", "nosuch://bucket/net: .*nosuch", id="no_file_system"),
    ],
)
def test_bad_address_is_said_before_the_run(server: ThreadedMotoServer, run: Run, address: str, words: str) -> None:
    with pytest.raises(StorageError, match=f"(?i){words}"):
        run(address)


def test_order_in_which_files_go(server: ThreadedMotoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = Mirror(RUN)
    mirror.pull()
    for name in ("checkpoints/a.ckpt", "checkpoints/a.ckpt.json", "metrics.jsonl", "run_0/log.txt", ".lock"):
        (mirror.local / name).parent.mkdir(parents=True, exist_ok=True)
        (mirror.local / name).write_text(name)
    sent: list[str] = []
    put = mirror.fs.put_file
    monkeypatch.setattr(mirror.fs, "put_file", lambda here, there: (sent.append(Path(there).name), put(here, there)))
    mirror.push()
    assert sent == ["metrics.jsonl", "log.txt", "a.ckpt.json", "a.ckpt"]
    (mirror.local / "checkpoints/a.ckpt").unlink()
    mirror.push()
    assert sent[4:] == []
    assert names() == {"metrics.jsonl", "run_0/log.txt", "checkpoints/a.ckpt.json"}
    shutil.rmtree(mirror.local)
    with pytest.raises(StorageError, match="has been removed"):
        mirror.push()
    assert names() == {"metrics.jsonl", "run_0/log.txt", "checkpoints/a.ckpt.json"}


def test_checkpoints_that_come_faster_than_they_are_sent(
    server: ThreadedMotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is replaced by the next one before it has left."""
    mirror = Mirror(RUN)
    put = mirror.fs.put_file
    mirror.local.mkdir(parents=True)
    steps = iter(range(100))

    def write() -> None:
        step = next(steps)
        for name in (f"{step}.ckpt", f"{step}.ckpt.json"):
            (mirror.local / name).write_text(str(step))
            (mirror.local / name.replace(str(step), str(step - 1), 1)).unlink(missing_ok=True)

    def put_slowly(here: str, there: str) -> None:
        write()
        put(here, there)

    monkeypatch.setattr(mirror.fs, "put_file", put_slowly)
    write()
    for _ in range(3):
        mirror.push()
        [checkpoint] = names() - {name for name in names() if name.endswith(".json")}
        assert f"{checkpoint}.json" in names()


@pytest.mark.parametrize("name", ["a.ckpt", "a.ckpt/.metadata"], ids=["file", "shard"])
def test_a_checkpoint_that_another_machine_has_written_anew(name: str, server: ThreadedMotoServer) -> None:
    """Of the same name and size, as a run that moved there and back may leave it."""
    mirror = Mirror(RUN)
    path, stamp = mirror.local / name, mirror.local / "a.ckpt.json"
    path.parent.mkdir(parents=True)
    for content in ("old", "new"):
        path.write_text(content)
        stamp.write_text(f"the stamp of {content}")
        mirror.push()
    path.write_text("old")
    stamp.write_text("the stamp of old")
    mirror.pull(whole=False)
    assert (path.read_text(), stamp.read_text()) == ("new", "the stamp of new")
    shutil.rmtree(mirror.local)
    assert fetched_file(f"{RUN}/a.ckpt") == mirror.local / "a.ckpt"
    assert (path.read_text(), stamp.read_text()) == ("new", "the stamp of new")
    boto3.client("s3").delete_object(Bucket="speech", Key=f"runs/net/{name}")
    mirror.pull()
    assert not (mirror.local / "a.ckpt").exists()
