"""Checkpoints written in the background: what they hold, in which order things are done, and what a failure costs."""

from __future__ import annotations

import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from rayconvai.errors import StorageError
from rayconvai.experiment import Interrupted, find_last
from rayconvai.experiment.background import BackgroundCheckpointIO, on_host
from rayconvai.experiment.storage import AtomicCheckpointIO
from tests.unit.experiment.test_checkpoint import die, in_fork

Run = Callable[..., Any]


class Gate:
    """Lets no checkpoint be written until it is opened; knows which were."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened = threading.Event()
        self.written: list[str] = []
        write = AtomicCheckpointIO.save_checkpoint

        def write_when_open(io: AtomicCheckpointIO, checkpoint: Any, path: Path, storage_options: Any = None) -> None:
            assert self.opened.wait(60)
            write(io, checkpoint, path, storage_options)
            self.written.append(Path(path).name)

        monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", write_when_open)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


@pytest.fixture
def io() -> Iterator[BackgroundCheckpointIO]:
    made = BackgroundCheckpointIO()
    with made.in_background():
        yield made
    made.teardown()


def state(step: int = 0) -> dict[str, Any]:
    return {"global_step": step, "epoch": 0, "state_dict": {"w": torch.full((99,), float(step))}}


def fail(*_: Any) -> None:
    raise OSError(28, "No space left on device")


def test_what_is_written_is_what_was_there_when_it_was_saved(
    io: BackgroundCheckpointIO, gate: Gate, tmp_path: Path
) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 3, bias=False))
    model[2].weight = model[0].weight
    optimizer = torch.optim.Adam(model.parameters(), 0.1)

    def step() -> None:
        optimizer.zero_grad()
        model(torch.randn(5, 3)).sum().backward()
        optimizer.step()

    step()
    live = {"state_dict": model.state_dict(), "optimizer_states": [optimizer.state_dict()], "seen": [1, {2: 3}]}
    before = on_host(live)
    io.save_checkpoint(live, tmp_path / "a.ckpt")
    step()
    live["seen"][1][2] = 4
    assert gate.written == []
    gate.opened.set()
    saved = io.load_checkpoint(tmp_path / "a.ckpt")
    torch.testing.assert_close(saved, before, rtol=0, atol=0)
    assert not torch.equal(saved["state_dict"]["0.weight"], model[0].weight)
    assert saved["state_dict"]["0.weight"].data_ptr() == saved["state_dict"]["2.weight"].data_ptr()
    assert saved["state_dict"]._metadata == live["state_dict"]._metadata


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_copies_of_what_is_on_a_gpu_are_on_the_host(io: BackgroundCheckpointIO, gate: Gate, tmp_path: Path) -> None:
    weights = torch.randn(1 << 20, device="cuda")
    before = weights.cpu()
    io.save_checkpoint({"state_dict": {"w": weights, "tied": weights.view(-1)}}, tmp_path / "a.ckpt")
    weights.zero_()
    torch.cuda.empty_cache()
    gate.opened.set()
    saved = io.load_checkpoint(tmp_path / "a.ckpt", map_location=None)["state_dict"]
    assert saved["w"].device.type == "cpu"
    assert torch.equal(saved["w"], before)
    assert saved["w"].data_ptr() == saved["tied"].data_ptr()


def test_one_copy_waits_at_most(
    io: BackgroundCheckpointIO, gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: queue.Queue[int] = queue.Queue()

    def copy(checkpoint: Any) -> Any:
        copied.put(len(gate.written))
        return checkpoint

    monkeypatch.setattr("rayconvai.experiment.background.on_host", copy)
    names = [f"{step}.ckpt" for step in range(3)]
    saving = threading.Thread(target=lambda: [io.save_checkpoint(state(), tmp_path / name) for name in names])
    saving.start()
    assert [copied.get(timeout=60) for _ in range(2)] == [0, 0]
    gate.opened.set()
    assert copied.get(timeout=60) >= 1
    saving.join()
    io.wait()
    assert gate.written == names


def test_what_is_ordered_counts_as_done(io: BackgroundCheckpointIO, gate: Gate, tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    assert not io.has(path)
    io.save_checkpoint(state(), path)
    assert (io.has(path), path.exists()) == (True, False)
    io.remove_checkpoint(path)
    assert not io.has(path)
    gate.opened.set()
    io.wait()
    assert list(tmp_path.iterdir()) == []


def test_after_a_failure_nothing_older_goes_and_it_is_said_once(
    io: BackgroundCheckpointIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    io.save_checkpoint(state(1), tmp_path / "1.ckpt")
    io.wait()
    with monkeypatch.context() as patched:
        patched.setattr("rayconvai.experiment.storage._HashingFile.write", fail)
        io.save_checkpoint(state(2), tmp_path / "2.ckpt")
        io.remove_checkpoint(tmp_path / "1.ckpt")
        with pytest.raises(StorageError, match=r"2\.ckpt cannot be written .* No space left"):
            io.wait()
    io.wait()
    assert find_last(tmp_path) == tmp_path / "1.ckpt"
    io.save_checkpoint(state(3), tmp_path / "3.ckpt")
    io.wait()
    assert find_last(tmp_path) == tmp_path / "3.ckpt"


def test_the_record_is_on_the_disk_before_a_checkpoint_that_counts_its_lines(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def note(handle: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name.split("--")[0])
        fsync(handle)

    monkeypatch.setattr("os.fsync", note)
    run(tmp_path, checkpoint_callback_params={"save_top_k": 0})
    files = [name for name in synced if name in ("metrics.jsonl", ".default")]
    # At the end of each epoch and of the training; the first of the two is the checkpoint, the other its stamp.
    assert files == 3 * ["metrics.jsonl", ".default", ".default"]


def test_kill_in_a_background_write_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = tmp_path / "1.ckpt"
    BackgroundCheckpointIO().save_checkpoint(state(1), older)

    def save_and_die() -> None:
        monkeypatch.setattr("rayconvai.experiment.storage._HashingFile.write", die)
        io = BackgroundCheckpointIO()
        with io.in_background():
            io.save_checkpoint(state(2), tmp_path / "2.ckpt")
        io.remove_checkpoint(older)
        io.wait()

    assert in_fork(save_and_die) == signal.SIGKILL
    assert find_last(tmp_path) == older


def test_a_failure_does_not_hide_what_ended_the_run(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class FailsAfterSaving(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
            if trainer.global_step == 2:
                raise ZeroDivisionError

    monkeypatch.setattr("rayconvai.experiment.storage._HashingFile.write", fail)
    options = {"checkpoint_callback_params": {"every_n_train_steps": 2}}
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, trainer={"callbacks": [FailsAfterSaving()]}, **options)
    assert "No space left on device" in caplog.text


def test_sigterm_while_a_checkpoint_is_being_written(run: Run, tmp_path: Path, gate: Gate) -> None:
    class Terminates(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
            if trainer.global_step == 2:
                assert gate.written == []
                os.kill(os.getpid(), signal.SIGTERM)
                gate.opened.set()

    options = {"checkpoint_callback_params": {"every_n_train_steps": 1}}
    with pytest.raises(Interrupted) as raised:
        run(tmp_path, trainer={"callbacks": [Terminates()]}, **options)
    last = raised.value.checkpoint
    assert last == find_last(tmp_path / "checkpoints")
    assert AtomicCheckpointIO().load_checkpoint(last)["global_step"] == 3
    assert [path.name for path in last.parent.glob("*.ckpt")] == [last.name]
