"""One run with all that is random or counts, stopped anywhere and again, ends as the run that was never stopped."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.plugins import MixedPrecision
from torch.utils._pytree import keystr, tree_leaves_with_path

from rayconvai.config.compose import compose
from rayconvai.data.audio import write_audio
from rayconvai.experiment import find_last, read_metrics
from rayconvai.experiment.storage import AtomicCheckpointIO
from rayconvai.train.fit import fit
from rayconvai.train.runtime import Runtime
from tests.unit.asr.conftest import RATE, tones
from tests.unit.asr.test_run import SMALL
from tests.unit.tts.tiny import TINY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
HOOKS = ("on_train_batch_start", "on_before_optimizer_step", "on_train_batch_end", "on_train_epoch_end")
STEPS = 16
"""Four epochs of four steps of two batches: then early stopping ends the run."""


class Killed(BaseException):
    """As sudden as can be in a process that goes on."""


class StopAt(Callback):
    """Ends the run in a hook, at a step or as soon after it as the hook is called."""

    def __init__(self, step: int, hook: str, end: Callable[[], None]) -> None:
        self.step, self.end = step, end
        setattr(self, hook, self.stop)

    def stop(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step >= self.step:
            self.end()


def abort() -> None:
    raise Killed


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def write_corpus(root: Path) -> Path:
    chance, rows = random.Random(0), []
    for index in range(16):
        text = "".join(chance.choices("abc", k=2 + index % 8))
        write_audio(root / f"{index}.wav", tones(text), RATE)
        rows.append({"audio_filepath": f"{index}.wav", "duration": len(tones(text)) / RATE, "text": text})
    manifest = root / "train.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest


RECIPES = {
    "asr/conformer_ctc": ("val_loss", [*SMALL, "augment=all", "data.batch_seconds=4.5", "data.num_workers=2"]),
    "tts/hifigan": ("val_mel_loss", [*TINY, "data.batch_size=2", "model.adversarial_from=3", "schedule=cosine"]),
}
"""Of each the metric that patience goes by, and what makes it small: the second steps two optimizers."""


def overrides(run_dir: Path, recipe: str = "asr/conformer_ctc") -> list[str]:
    corpus = run_dir.with_name("train.jsonl")
    return [
        *RECIPES[recipe][1],
        f"data.corpus.train={corpus}",
        f"data.corpus.dev={corpus}",
        "trainer.max_epochs=9",
        "trainer.accumulate_grad_batches=2",
        "trainer.log_every_n_steps=1",
        "exp_manager.resume_if_exists=true",
        "exp_manager.resume_ignore_no_checkpoint=true",
        "exp_manager.checkpoint_callback_params.every_n_train_steps=3",
    ]


def train(run_dir: Path, precision: str, *callbacks: Callback, recipe: str = "asr/conformer_ctc") -> None:
    lines = overrides(run_dir, recipe)
    if precision != "16-mixed":
        lines.append(f"trainer.precision={precision}")
    # Lightning has none for the CPU. The scale is too large at first, so steps are left out, and soon tried again.
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24, growth_interval=3)
    plugins = [MixedPrecision("16-mixed", "cpu", scaler)] if precision == "16-mixed" else []
    patience = EarlyStopping(RECIPES[recipe][0], min_delta=1e6, patience=3)
    runtime = Runtime(run_dir=run_dir, progress=False, plugins=plugins, callbacks=[patience, *callbacks])
    fit(compose(recipe, lines), runtime)


def outcome(run_dir: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What a run leaves: its record, and the state of all that its last checkpoint holds."""
    lines = [{**line, "time": 0} for line in read_metrics(run_dir / "metrics.jsonl")]
    last = find_last(run_dir / "checkpoints")
    assert last is not None
    checkpoint = AtomicCheckpointIO().load_checkpoint(last)
    kept = ("state_dict", "optimizer_states", "lr_schedulers", "MixedPrecision", "global_step", "metrics")
    state = {key: checkpoint.get(key) for key in kept}
    state["random"] = checkpoint["callbacks"]["ExactResume"]
    state["patience"] = next(kept for key, kept in checkpoint["callbacks"].items() if key.startswith("EarlyStopping"))
    return lines, state


@pytest.fixture(scope="module")
def unstopped(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, Any]]:
    """The outcome of the run that was never stopped, by precision and recipe, and where its corpus is."""
    root = tmp_path_factory.mktemp("unstopped")
    write_corpus(root)
    known: dict[str, Any] = {}

    def get(precision: str, recipe: str = "asr/conformer_ctc") -> tuple[Path, Any]:
        name = f"{precision}_{recipe.replace('/', '_')}"
        if name not in known:
            train(root / name, precision, recipe=recipe)
            known[name] = outcome(root / name)
        return root, known[name]

    return get


@pytest.mark.parametrize(
    ("recipe", "precision", "seed"),
    [
        ("asr/conformer_ctc", "32-true", 0),
        ("asr/conformer_ctc", "16-mixed", 3),
        ("tts/hifigan", "16-mixed", 5),
    ],
)
def test_stopped_anywhere(recipe: str, precision: str, seed: int, unstopped: Callable[..., tuple[Path, Any]]) -> None:
    root, expected = unstopped(precision, recipe)
    run_dir, chance = root / f"stopped_{seed}", random.Random(seed)
    stops = [(step, chance.choice(HOOKS)) for step in sorted(chance.sample(range(1, STEPS), 3))]
    for step, hook in stops:
        with pytest.raises(Killed):
            train(run_dir, precision, StopAt(step, hook, abort), recipe=recipe)
    train(run_dir, precision, recipe=recipe)
    check(outcome(run_dir), expected, stops)


def test_killed_by_the_system(unstopped: Callable[..., tuple[Path, Any]]) -> None:
    root, expected = unstopped("32-true")
    run_dir = root / "killed"
    code = f"from tests.crash import test_resume_anywhere as t; t.train(t.Path({str(run_dir)!r}), '32-true', "
    for step in (4, 11):
        command = [sys.executable, "-c", f"{code} t.StopAt({step}, 'on_train_batch_start', t.kill))"]
        killed = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False)
        assert killed.returncode == -signal.SIGKILL
    train(run_dir, "32-true")
    check(outcome(run_dir), expected, [])


def test_another_number_of_processes(tmp_path: Path) -> None:
    write_corpus(tmp_path)
    run_dir = tmp_path / "run"
    base = [*overrides(run_dir), f"exp_manager.explicit_log_dir={run_dir}", "trainer.strategy=ddp"]
    for epochs, processes in enumerate((2, 1), start=1):
        launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m", "rayconvai.train"]
        lines = [*base, f"trainer.max_epochs={epochs}", f"trainer.devices={processes}"]
        command = [sys.executable, "-m", *launcher, "--config-name=asr/conformer_ctc", *lines]
        subprocess.run(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)
        warned = "random states of" in (run_dir / "log.txt").read_text()
        assert warned == (epochs > 1)
    epochs_recorded = [line["epoch"] for line in read_metrics(run_dir / "metrics.jsonl") if line["kind"] == "epoch"]
    assert epochs_recorded == [1, 2]


def check(found: Any, expected: Any, stops: list[tuple[int, str]]) -> None:
    (lines, state), (expected_lines, expected_state) = found, expected
    assert expected_state["global_step"] == STEPS
    steps = [line["step"] for line in lines if line["kind"] == "step"]
    assert steps == list(range(STEPS)), stops
    assert lines == expected_lines, stops
    found_leaves, expected_leaves = (tree_leaves_with_path(tree) for tree in (state, expected_state))
    for (path, value), (_, other) in zip(found_leaves, expected_leaves, strict=True):
        same = torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other
        assert same, (stops, keystr(path), value, other)
