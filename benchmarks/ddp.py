"""What a training step costs beside a plain one with the same model, data and optimizer, in the same processes.

torchrun --nproc-per-node 2 benchmarks/ddp.py      our run beside a plain loop under DistributedDataParallel (gloo)
torchrun --nproc-per-node 1 benchmarks/ddp.py      our run beside plain Lightning

The two take turns of a few steps each, so that whatever else the machine does meets both. A turn's ratio is that of its
times; what is printed are the median and the quartiles of all turns' ratios, of wall-clock and of CPU time. Reading,
logging, the record of metrics and the ends of epochs count, validation and checkpoints do not.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, Trainer
from omegaconf import DictConfig
from torch.nn.parallel import DistributedDataParallel

from rayconvai.config.compose import compose
from rayconvai.core.optim import build_optimizer
from rayconvai.train.fit import build_parts, fit
from rayconvai.train.runtime import Runtime

WARM_UP = 2
"""Turns that are not counted."""


class Turns:
    """Lets two threads go by turns of so many steps, and keeps the time of each turn."""

    def __init__(self, steps: int, turns: int) -> None:
        self.steps, self.turns = steps, turns
        self.times: list[list[tuple[float, float]]] = [[], []]
        self._may_go = [threading.Semaphore(1), threading.Semaphore(0)]
        self._taken = [0, 0]
        self._began = [(0.0, 0.0), (0.0, 0.0)]

    def step(self, who: int) -> bool:
        """Say that a step ends (or, at first, none) and another begins; returns whether it was the last."""
        taken = self._taken[who]
        self._taken[who] += 1
        if taken % self.steps:
            return False
        if taken:
            now = (time.perf_counter(), time.process_time())
            self.times[who].append((now[0] - self._began[who][0], now[1] - self._began[who][1]))
            self._may_go[1 - who].release()
        ended = len(self.times[who]) == self.turns
        if not ended or who == 0:  # the first ends its training when the other has ended
            self._may_go[who].acquire()
        self._began[who] = (time.perf_counter(), time.process_time())
        return ended


class TakeTurns(Callback):
    """Makes a Lightning training one of the two."""

    def __init__(self, turns: Turns, who: int) -> None:
        self.turns, self.who = turns, who

    def on_train_start(self, *_: Any) -> None:
        self.turns.step(self.who)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        trainer.should_stop |= self.turns.step(self.who)


def ours(config: DictConfig, turns: Turns, directory: str) -> None:
    ranks = dist.get_world_size()
    place: dict[str, Any] = {"devices": ranks, "strategy": "ddp" if ranks > 1 else "auto"}
    fit(config, Runtime(run_dir=Path(directory), progress=False, callbacks=[TakeTurns(turns, 0)], **place))


def plain_lightning(config: DictConfig, turns: Turns) -> Callable[[], None]:
    model, data = build_parts(config)
    model.set_optimization(config.optim, None)
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = Trainer(
        accelerator="cpu", devices=1, max_epochs=-1, limit_val_batches=0, gradient_clip_val=1.0,
        use_distributed_sampler=False, callbacks=[TakeTurns(turns, 1)], **quiet,
    )  # fmt: skip
    return partial(trainer.fit, model, datamodule=data)


def plain_loop(config: DictConfig, turns: Turns) -> Callable[[], None]:
    model, data = build_parts(config)
    place = {"global_rank": dist.get_rank(), "world_size": dist.get_world_size(), "accumulate_grad_batches": 1}
    data.trainer = SimpleNamespace(**place)  # type: ignore[assignment]
    loader, optimizer = data.train_dataloader(), build_optimizer(config.optim, model)
    model.forward = model._step  # type: ignore[method-assign]
    parallel = DistributedDataParallel(model)

    def train() -> None:
        turns.step(1)
        for epoch in itertools.count():
            loader.batch_sampler.sampler.set_epoch(epoch)
            for batch in loader:
                loss = parallel(batch)[0]
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                if turns.step(1):
                    return

    return train


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5, help="in a turn")
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("overrides", nargs="*", help="of the recipe asr/conformer_ctc")
    options = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    settings = ("trainer=cpu", "trainer.max_epochs=-1", "trainer.limit_val_batches=0")
    settings += (
        "schedule=none",
        "augment=none",
        "data.batch_seconds=30",
        "exp_manager.create_checkpoint_callback=false",
    )
    config = compose("asr/conformer_ctc", [*settings, *options.overrides])
    turns = Turns(options.steps, options.turns + WARM_UP)
    alone = dist.get_world_size() == 1
    other = (plain_lightning if alone else plain_loop)(config, turns)
    with tempfile.TemporaryDirectory() as directory:
        thread = threading.Thread(target=other)  # waits for its turn
        thread.start()
        ours(config, turns, directory)
        thread.join()
    if not int(os.environ["RANK"]):
        first, second = (times[WARM_UP:] for times in turns.times)
        print(f"ours beside {'plain Lightning' if alone else 'a plain DDP loop'}, {dist.get_world_size()} ranks")
        for at, name in enumerate(("wall", "CPU")):
            ratios = [a[at] / b[at] for a, b in zip(first, second, strict=True)]
            low, _, high = quantiles(ratios, n=4)
            step = median(b[at] for b in second) / options.steps
            print(f"{name}: {median(ratios):.3f} ({low:.3f} to {high:.3f}) of {1000 * step:.0f} ms a step")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
