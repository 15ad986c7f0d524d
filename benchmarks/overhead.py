"""What `fit`, its experiment manager and default loggers cost beside plain Lightning, on one thread.

    python benchmarks/overhead.py [--rounds 9] [--steps 40] [KEY=VALUE ...]

First a network of one weight, so that what is timed is the loop around it, trained by a bare Trainer, by one with
Lightning's own loggers and checkpoints, and by one that the experiment manager was given: the microseconds that a step
takes more. Then a recipe (asr/conformer_ctc on digits, with the overrides given) trained by `fit` and by a bare Trainer
of the same model and data: what share that is of a real step. The variants take turns; of each step the CPU time counts
from its beginning to that of the next, and of that the median over the rounds. Start-up is what comes before the first
step, the end what comes after the last one (a validation, checkpoints).
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.utils.data import DataLoader

from rayconvai.config.compose import compose
from rayconvai.experiment import close, exp_manager
from rayconvai.train.fit import build_parts, fit
from rayconvai.train.runtime import Runtime

RECIPE = ["data=digits", "trainer=cpu", "trainer.max_epochs=1", "trainer.limit_val_batches=1", "data.num_workers=0"]
WARM_UP = 5
QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "use_distributed_sampler": False}


@dataclass(eq=False)
class Clock(Callback):
    """CPU and wall seconds at the beginning of the run and of each step, and at the end."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    def mark(self) -> None:
        """Note the time."""
        self.cpu.append(time.process_time())
        self.wall.append(time.perf_counter())

    def on_train_batch_start(self, *_: Any) -> None:
        """Note the time."""
        self.mark()


class OneWeight(LightningModule):
    """Logs as our models do, and computes next to nothing."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.weight, self.steps = torch.nn.Parameter(torch.zeros(1)), steps

    def training_step(self, batch: Tensor) -> Tensor:
        """Log the loss of a step and, at its end, of the epoch."""
        loss = (self.weight * batch).sum()
        self.log("train_loss", loss, batch_size=8, on_step=True, on_epoch=True, sync_dist=True)
        return loss

    def validation_step(self, batch: Tensor) -> None:
        """Log a loss."""
        self.log("val_loss", (self.weight * batch).sum(), batch_size=8)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the cheapest."""
        return torch.optim.SGD(self.parameters(), 1e-3)

    def train_dataloader(self) -> DataLoader[Tensor]:
        """Return as many batches as there are steps."""
        return DataLoader(torch.ones(self.steps, 1))  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader[Tensor]:
        """Return one batch."""
        return DataLoader(torch.ones(1, 1))  # type: ignore[arg-type]


Variant = Callable[[Path, Clock], None]


def on_one_weight(steps: int) -> dict[str, Variant]:
    """Return the ways to train a network of one weight."""
    options: Any = {"max_epochs": 1, "accelerator": "cpu", "log_every_n_steps": 10, "num_sanity_val_steps": 0, **QUIET}
    bare: Any = {"logger": False, "enable_checkpointing": False, **options}

    def alone(_: Path, clock: Clock) -> None:
        Trainer(**bare, callbacks=[clock]).fit(OneWeight(steps))

    def by_lightning(path: Path, clock: Clock) -> None:
        callbacks = [clock, ModelCheckpoint(path, monitor="val_loss", save_top_k=3, save_last=True)]
        Trainer(**options, callbacks=callbacks, logger=[TensorBoardLogger(path), CSVLogger(path)]).fit(OneWeight(steps))

    def by_manager(path: Path, clock: Clock) -> None:
        trainer = Trainer(**bare, callbacks=[clock])
        exp_manager(trainer, {"explicit_log_dir": str(path)})
        trainer.fit(OneWeight(steps))
        close(trainer)

    return {"plain": alone, "Lightning's own loggers, checkpoints": by_lightning, "exp_manager": by_manager}


def on_recipe(config: DictConfig) -> dict[str, Variant]:
    """Return the ways to train a recipe."""

    def alone(_: Path, clock: Clock) -> None:
        model, data = build_parts(config)
        model.set_optimization(config.optim, config.schedule)
        options: Any = OmegaConf.to_container(config.trainer, resolve=True)
        trainer = Trainer(**options, **QUIET, logger=False, enable_checkpointing=False, callbacks=[clock])
        trainer.fit(model, datamodule=data)

    def by_fit(path: Path, clock: Clock) -> None:
        fit(config, Runtime(run_dir=path, callbacks=[clock], progress=False))

    return {"plain": alone, "fit": by_fit}


def measure(variants: Mapping[str, Variant], rounds: int) -> None:
    """Run the variants in turns and print a line for each."""
    clocks: dict[str, list[Clock]] = {name: [] for name in variants}
    for number in range(rounds + 1):
        for name, train in variants.items():
            with tempfile.TemporaryDirectory() as directory:
                clock = Clock()
                clock.mark()
                train(Path(directory) / "run", clock)
                clock.mark()
            if number:  # the first round warms up
                clocks[name].append(clock)
    first = 0.0
    for name, runs in clocks.items():
        rows = [[after - before for before, after in zip(run.cpu[1:-2], run.cpu[2:-1], strict=True)] for run in runs]
        step = statistics.mean([statistics.median(times) for times in zip(*rows, strict=True)][WARM_UP:])
        start = statistics.median(run.wall[1] - run.wall[0] for run in runs)
        end = statistics.median(run.wall[-1] - run.wall[-2] for run in runs)
        first = first or step
        more = f"{(step - first) * 1e6:12.0f}{step / first - 1:8.1%}"
        print(f"{name:40s}{step * 1e3:10.3f}{more}{start:12.2f}{end:8.2f}")


def main() -> None:
    """Print two tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_intermixed_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "lightning.fabric", "rayconvai"):
        logging.getLogger(name).setLevel(logging.ERROR)
    limit = f"trainer.limit_train_batches={options.steps}"
    config = compose("asr/conformer_ctc", [*RECIPE, limit, *options.overrides])
    parts = {"one weight": on_one_weight(10 * options.steps), "asr/conformer_ctc": on_recipe(config)}
    for title, variants in parts.items():
        print(f"{title:40s}{'ms a step':>10s}{'us more':>12s}{'':8s}{'start-up s':>12s}{'end s':>8s}")
        measure(variants, options.rounds)


if __name__ == "__main__":
    main()
