from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.utils.data import Dataset

from rayconvai.data.loader import StatefulLoader
from rayconvai.data.sampler import LengthBatchSampler
from rayconvai.errors import CheckpointError, DataError
from rayconvai.experiment.resume import ExactResume

ROOT = Path(__file__).parents[3]
DURATIONS = np.random.default_rng(0).uniform(1, 16, 61)
WORKERS = pytest.mark.parametrize("num_workers", [0, 2], ids=["in_process", "two_workers"])


class Numbers(Dataset):
    """Gives (index, epoch), so that a test sees what was drawn."""

    def __init__(self, bad: int = -1) -> None:
        self.bad = bad

    def __getitem__(self, index: int) -> Tensor:
        if index == self.bad:
            raise DataError("train.jsonl:7: clip.wav: all-silent; remove the line")
        return torch.tensor([index, index.epoch])


def loader(num_workers: int = 0, seed: int = 0, **options) -> StatefulLoader:
    sampler = LengthBatchSampler(DURATIONS, batch_length=48, num_buckets=4, seed=seed)
    return StatefulLoader(Numbers(**options), batch_sampler=sampler, num_workers=num_workers)


def drawn(batches) -> list:
    return [batch.tolist() for batch in batches]


@WORKERS
def test_state_counts_batches_handed_out_not_prefetched(num_workers: int) -> None:
    loading = loader(num_workers)
    loading.batch_sampler.sampler.set_epoch(2)
    whole = drawn(loading)
    iterator = iter(loading)
    before = drawn(next(iterator) for _ in range(3))
    state = loading.state_dict()
    assert state["position"] == 3
    resumed = loader(num_workers)
    resumed.load_state_dict(state)
    assert before + drawn(resumed) == whole
    assert drawn(resumed) == whole, "the next iteration begins at the beginning again"
    assert {epoch for batch in whole for _, epoch in batch} == {2}


def test_epoch_set_after_iter_is_obeyed() -> None:
    early, late = loader(), loader()
    iterator = iter(early)
    for loading in (early, late):
        loading.batch_sampler.sampler.set_epoch(5)
    assert drawn(iterator) == drawn(late)


def test_new_epoch_begins_at_zero_in_the_state_too() -> None:
    loading = loader()
    drawn(loading)
    assert loading.state_dict()["position"] == len(loading)
    loading.batch_sampler.sampler.set_epoch(1)
    assert loading.state_dict() == {**loader().state_dict(), "epoch": 1, "position": 0}


def test_global_random_state_is_untouched() -> None:
    before = torch.get_rng_state()
    drawn(loader())
    assert torch.equal(before, torch.get_rng_state())


@WORKERS
def test_errors_of_the_dataset_are_one_line(num_workers: int) -> None:
    with pytest.raises(DataError) as caught:
        drawn(loader(num_workers, bad=3))
    assert str(caught.value) == "train.jsonl:7: clip.wav: all-silent; remove the line"


class Record(LightningModule):
    """Records the batches it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list = []

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        self.seen.append(batch.tolist())
        return (self.weight * batch.float().mean()).sum()

    def validation_step(self, batch: Tensor, index: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveAt(Callback):
    """Saves a checkpoint in a hook, at a step."""

    def __init__(self, hook: str, step: int, path: Path) -> None:
        self.hook, self.step, self.path = hook, step, path
        self.seen = -1

    def save(self, hook: str, trainer: Trainer, module: Record) -> None:
        if hook == self.hook and trainer.global_step >= self.step and self.seen < 0 and not trainer.sanity_checking:
            self.seen = len(module.seen)
            trainer.save_checkpoint(self.path)

    def on_train_batch_end(self, trainer, module, *_) -> None:
        self.save("on_train_batch_end", trainer, module)

    def on_train_epoch_start(self, trainer, module) -> None:
        self.save("on_train_epoch_start", trainer, module)

    def on_validation_end(self, trainer, module) -> None:
        self.save("on_validation_end", trainer, module)

    def on_train_epoch_end(self, trainer, module) -> None:
        self.save("on_train_epoch_end", trainer, module)


def train(callbacks: list[Callback], num_workers: int, ckpt_path: Path | None = None, seed: int = 0, **options) -> list:
    trainer = Trainer(
        accelerator="cpu",
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **({"max_epochs": 3} | options),
    )
    module = Record()
    trainer.fit(module, loader(num_workers, seed), loader(), ckpt_path=ckpt_path)
    return module.seen


STEPS = len(loader())


@pytest.mark.parametrize(
    ("hook", "step", "num_workers", "options"),
    [
        pytest.param("on_train_batch_end", 2, 0, {}, id="first_epoch"),
        pytest.param("on_train_batch_end", STEPS + 3, 0, {}, id="second_epoch"),
        pytest.param("on_train_batch_end", STEPS + 3, 2, {}, id="second_epoch_two_workers"),
        pytest.param("on_train_batch_end", STEPS, 0, {}, id="last_batch"),
        pytest.param("on_train_epoch_end", STEPS, 0, {}, id="epoch_end"),
        pytest.param("on_train_epoch_end", STEPS, 2, {}, id="epoch_end_two_workers"),
        pytest.param("on_validation_end", STEPS, 0, {}, id="after_validation"),
        pytest.param("on_validation_end", STEPS + 4, 0, {"val_check_interval": 4}, id="validation_in_mid_epoch"),
        pytest.param("on_train_batch_end", 5, 0, {"max_steps": 2 * STEPS, "max_epochs": -1}, id="max_steps"),
        pytest.param("on_train_batch_end", 6, 0, {"limit_train_batches": 4}, id="limit_train_batches"),
    ],
)
def test_lightning_resumes_with_exactly_the_next_batch(
    hook: str, step: int, num_workers: int, options: dict, tmp_path: Path
) -> None:
    path = tmp_path / "mid.ckpt"
    saving = SaveAt(hook, step, path)
    whole = train([saving], num_workers, **options)
    assert train([], num_workers, ckpt_path=path, **options) == whole[saving.seen :]
    per_epoch = options.get("limit_train_batches", STEPS)
    assert [batch[0][1] for batch in whole[::per_epoch]] == list(range(-(-len(whole) // per_epoch)))


def test_an_ended_epoch_counts_once_where_a_run_is_measured_in_steps(tmp_path: Path) -> None:
    path, steps = tmp_path / "end.ckpt", {"max_steps": 2 * STEPS + 4, "max_epochs": -1}
    whole = train([SaveAt("on_train_epoch_end", STEPS, path)], 0, **steps)
    # Lightning alone would go on with epoch 2.
    assert train([ExactResume()], 0, ckpt_path=path, **steps) == whole[STEPS:]


def test_lightning_refuses_another_plan_in_mid_epoch(tmp_path: Path) -> None:
    path = tmp_path / "mid.ckpt"
    train([SaveAt("on_train_batch_end", 3, path)], 0, max_epochs=1)
    with pytest.raises(CheckpointError, match="changed since the checkpoint"):
        train([], 0, ckpt_path=path, seed=1)


KILLS_ITSELF = """
import os, signal
from tests.unit.data.test_loader import loader
if __name__ == "__main__":
    batches = iter(loader(num_workers=2))
    print(next(batches).tolist(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_end_with_a_run_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(KILLS_ITSELF)
    # Workers, their fork server and its resource tracker have its stdout: it is at its end when the last of them is.
    run = subprocess.run(
        [sys.executable, script],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == -signal.SIGKILL
    assert run.stdout.decode().strip() == str(drawn(loader())[0])


def test_workers_draw_as_no_other_and_import_little() -> None:
    command = [sys.executable, "-m", "tests.unit.data.drawing"]
    environment = os.environ | {"PL_SEED_WORKERS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=True)
    draws, imported = zip(*json.loads(done.stdout), strict=True)
    assert len(draws) == len(set(draws)) == 60
    assert not any(imported)
