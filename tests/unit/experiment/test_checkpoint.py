"""Checkpoints: which are kept, and that a damaged, half-written or impossible one costs nothing but itself."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rayconvai.errors import CheckpointError, ConfigError, StorageError
from rayconvai.experiment import NotFoundError, find_last
from rayconvai.experiment.storage import AtomicCheckpointIO
from rayconvai.experiment.weights import check_weights
from tests.unit.experiment.conftest import Net

Run = Callable[..., Any]


def names(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "checkpoints").glob("*.ckpt"))


def save(path: Path, step: int) -> Path:
    AtomicCheckpointIO().save_checkpoint({"global_step": step, "epoch": 0, "state_dict": {"w": torch.ones(99)}}, path)
    return path


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_best_k_and_last_are_kept(run: Run, tmp_path: Path) -> None:
    trainer, _, root = run(
        tmp_path, trainer={"max_epochs": 5}, name="mine", checkpoint_callback_params={"save_top_k": 2}
    )
    kept = names(root)
    assert len(kept) == 3
    assert kept[0] == "mine--epoch=5-step=20-last.ckpt"
    assert all(name.startswith("mine--val_loss=") for name in kept[1:])
    callback = trainer.checkpoint_callback
    assert Path(callback.best_model_path).exists()
    best = min(float(name.split("=")[1].split("-")[0]) for name in kept[1:])
    assert float(callback.best_model_score) == pytest.approx(best, abs=1e-4)
    assert len(list((root / "checkpoints").iterdir())) == 2 * len(kept)  # each with its stamp, and nothing else


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        pytest.param({"save_top_k": 0}, {"default--epoch=2-step=8-last.ckpt"}, id="last_alone"),
        pytest.param({"save_last": False, "save_top_k": 1, "monitor": "epoch", "mode": "max", "filename": "{epoch}"},
                     {"epoch=1.ckpt"}, id="newest_by_epoch"),
        pytest.param({"save_top_k": -1, "save_last": False, "monitor": "step", "filename": "{step}",
                      "every_n_train_steps": 3},
                     {"step=3.ckpt", "step=4.ckpt", "step=6.ckpt", "step=8.ckpt"}, id="every_third_step"),
        pytest.param({"filename": "{epoch}", "save_top_k": 0}, {"epoch=2-last.ckpt"}, id="own_name"),
    ],
)  # fmt: skip
def test_params(params: dict[str, Any], expected: set[str], run: Run, tmp_path: Path) -> None:
    _, _, root = run(tmp_path, checkpoint_callback_params=params)
    assert set(names(root)) == expected


def test_unlogged_monitor_names_the_nearest(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nearest: val_loss"):
        run(tmp_path, checkpoint_callback_params={"monitor": "val_los"})


@pytest.mark.parametrize("damage", [truncate, empty, flip])
def test_damaged_checkpoint_is_set_aside_and_the_one_before_used(
    damage: Callable[[Path], None], run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, _, root = run(tmp_path)
    last = find_last(root / "checkpoints")
    assert last is not None
    damage(last)
    trainer, _, _ = run(tmp_path, trainer={"max_epochs": 3}, resume_if_exists=True)
    assert f"{last.name} is damaged" in caplog.text
    assert last.with_name(last.name + ".damaged").exists()
    assert trainer.global_step == 12
    assert [n for n in names(root) if "last" in n] == ["default--epoch=3-step=12-last.ckpt"]


def test_run_whose_checkpoints_are_all_damaged_does_not_start_over_silently(run: Run, tmp_path: Path) -> None:
    _, _, root = run(tmp_path)
    for path in (root / "checkpoints").glob("*.ckpt"):
        truncate(path)
    with pytest.raises(NotFoundError):
        run(tmp_path, resume_if_exists=True)


def test_damaged_checkpoint_given_by_path_is_refused(run: Run, tmp_path: Path) -> None:
    given = save(tmp_path / "given.ckpt", step=1)
    flip(given)
    with pytest.raises(CheckpointError, match=r"given\.ckpt is damaged: its checksum"):
        run(tmp_path / "run", resume_from_checkpoint=str(given))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"hello\n", "cannot be read as a checkpoint: it holds something else", id="text"),
        pytest.param(b"", "cannot be read as a checkpoint: it holds something else", id="empty"),
        pytest.param({"w": torch.ones(3)}, "is no checkpoint of a run: it has no state_dict", id="weights"),
        pytest.param(torch.ones(3), "is no checkpoint of a run: it has no state_dict", id="tensor"),
        pytest.param({"state_dict": {}}, "it has no pytorch-lightning_version", id="of_another_trainer"),
        pytest.param(torch.nn.Linear(1, 1), "it holds torch.nn.modules.linear.Linear", id="module"),
        pytest.param(
            {"state_dict": Net().state_dict(), "pytorch-lightning_version": "2.6.0"},
            "holds weights alone",
            id="weights_of_a_run",
        ),
    ],
)
def test_a_foreign_file_is_refused(content: Any, message: str, run: Run, tmp_path: Path) -> None:
    given = tmp_path / "given.ckpt"
    given.write_bytes(content) if isinstance(content, bytes) else torch.save(content, given)
    with pytest.raises(CheckpointError, match=rf"given\.ckpt .*{message}") as raised:
        run(tmp_path / "run", resume_from_checkpoint=str(given))
    assert "\n" not in str(raised.value)


def test_a_renamed_weight_is_told_with_the_nearest_name() -> None:
    weights = Net().state_dict()
    weights["net.0.weigth"] = weights.pop("net.0.weight")
    message = "not in it: net.0.weight, nearest: net.0.weigth; not here: net.0.weigth, nearest: net.0.weight. Give"
    with pytest.raises(CheckpointError, match=re.escape(message)):
        check_weights(Net(), weights, "given.ckpt")


def test_find_last(tmp_path: Path) -> None:
    assert find_last(tmp_path) is None
    older = save(tmp_path / "b-last.ckpt", step=2)
    newer = save(tmp_path / "a-last.ckpt", step=1)
    assert find_last(tmp_path) == newer
    truncate(newer)
    assert find_last(tmp_path, set_aside=False) == older
    assert newer.exists()
    for name in ("mine--last.ckpt", "yours--last.ckpt"):
        (tmp_path / "others").mkdir(exist_ok=True)
        (tmp_path / "others" / name).touch()
    with pytest.raises(ValueError, match="several last checkpoints"):
        find_last(tmp_path / "others")
    (tmp_path / "others" / "yours--last.ckpt").unlink()
    (tmp_path / "others" / "mine--val_loss=0.1.ckpt").touch()  # copied after the last
    assert find_last(tmp_path / "others") == tmp_path / "others" / "mine--last.ckpt"


def test_checkpoints_hold_plain_data(run: Run, tmp_path: Path) -> None:
    trainer, _, _ = run(tmp_path)
    assert torch.load(trainer.checkpoint_callback.last_model_path, weights_only=True)["global_step"] == 8


def test_damaged_checkpoint_is_not_among_the_best(run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    newest = {"save_top_k": 2, "monitor": "epoch", "mode": "max", "filename": "{epoch}"}
    _, _, root = run(tmp_path, trainer={"max_epochs": 4}, checkpoint_callback_params=newest)
    truncate(root / "checkpoints" / "epoch=3.ckpt")
    trainer, _, _ = run(tmp_path, trainer={"max_epochs": 5}, checkpoint_callback_params=newest, resume_if_exists=True)
    assert "epoch=3.ckpt is damaged" in caplog.text
    assert {Path(path).name for path in trainer.checkpoint_callback.best_k_models} == {"epoch=2.ckpt", "epoch=4.ckpt"}


def test_ranking_goes_on_where_a_directory_was_moved(run: Run, tmp_path: Path) -> None:
    _, _, root = run(tmp_path / "old", trainer={"max_epochs": 4}, checkpoint_callback_params={"save_top_k": 2})
    shutil.move(root, tmp_path / "new")
    trainer, _, root = run(
        tmp_path / "new", trainer={"max_epochs": 5}, checkpoint_callback_params={"save_top_k": 2}, resume_if_exists=True
    )
    assert len(names(root)) == 3
    assert {Path(path).parent for path in trainer.checkpoint_callback.best_k_models} == {root / "checkpoints"}


def in_fork(action: Callable[[], None]) -> int:
    """Run in a forked process, which is as good as dead afterwards; return its wait status."""
    child = os.fork()
    if child == 0:
        try:
            action()
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1]


def die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param("rayconvai.experiment.storage._HashingFile.write", id="while_writing"),
        pytest.param("rayconvai.experiment.storage.write_stamps", id="before_the_stamp"),
        pytest.param("os.replace", id="before_the_first_rename"),
        pytest.param("rayconvai.experiment.storage.sync_directory", id="after_the_renames"),
    ],
)
def test_kill_while_saving_leaves_a_good_checkpoint(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "last.ckpt", step=1)

    def save_and_die() -> None:
        monkeypatch.setattr(moment, die)
        save(path, step=2)

    assert in_fork(save_and_die) == signal.SIGKILL
    assert find_last(tmp_path) == path
    step = AtomicCheckpointIO().load_checkpoint(path)["global_step"]
    assert step == (2 if "sync" in moment else 1)


def test_kill_between_the_renames_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, replace = save(tmp_path / "last.ckpt", step=1), os.replace

    def replace_stamp_alone(source: Path, target: Path) -> None:
        return replace(source, target) if Path(target).suffix == ".json" else die()

    def save_and_die() -> None:
        monkeypatch.setattr("os.replace", replace_stamp_alone)
        save(path, step=2)

    assert in_fork(save_and_die) == signal.SIGKILL
    assert find_last(tmp_path) == path
    assert AtomicCheckpointIO().load_checkpoint(path)["global_step"] == 1


def test_full_disk_is_said_and_costs_nothing_else(tmp_path: Path) -> None:
    good = save(tmp_path / "good.ckpt", step=1)

    def save_too_much() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        with pytest.raises(StorageError, match=f"large.ckpt cannot be written in {tmp_path}: File too large") as raised:
            AtomicCheckpointIO().save_checkpoint({"w": torch.ones(99_999)}, tmp_path / "large.ckpt")
        if "\n" not in str(raised.value):
            die()

    assert in_fork(save_too_much) == signal.SIGKILL
    assert sorted(p.name for p in tmp_path.iterdir()) == ["good.ckpt", "good.ckpt.json"]
    assert find_last(tmp_path) == good


def test_full_disk_ends_a_run_with_one_line(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rayconvai.experiment.storage._HashingFile.write", full)
    with pytest.raises(StorageError, match="No space left on device") as raised:
        run(tmp_path)
    assert "\n" not in str(raised.value)
    assert names(tmp_path) == []
