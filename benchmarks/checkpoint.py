"""What checkpoints cost a training: python benchmarks/checkpoint.py [--pairs 6] [--device gpu] [--waiting]

A conformer of 10 M parameters (with its optimizer's moments a checkpoint of 120 MB) trains on the embedded corpus. The
clock runs over stretches of 50 steps, every other one with a checkpoint in its midst, as a run writes them, or
(--waiting) written while the training waits. Medians over the stretches in which no epoch ends (which starts the
loader's workers, and writes a checkpoint too). To reach: less than 3 % of the throughput.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer

from rayconvai.config.compose import compose
from rayconvai.experiment.checkpoint import Checkpoints
from rayconvai.experiment.storage import AtomicCheckpointIO
from rayconvai.train.fit import fit
from rayconvai.train.runtime import Runtime

STRETCH = 50

OVERRIDES = [
    "data=digits",
    "model.encoder.num_layers=12",
    "model.encoder.d_model=192",
    "trainer.max_epochs=null",
    "trainer.limit_val_batches=0",
    "exp_manager.create_tensorboard_logger=false",
    "exp_manager.checkpoint_callback_params.save_top_k=0",
    f"exp_manager.checkpoint_callback_params.every_n_train_steps={2 * STRETCH}",
]


class Clock(Callback):
    """Reads seconds of the day, of CPU time, and the epoch at the ends of the stretches; and how long saves held up."""

    def __init__(self) -> None:
        self.read: list[tuple[float, float, int]] = []
        self.held: list[float] = []

    def setup(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        checkpoints = next(callback for callback in trainer.callbacks if isinstance(callback, Checkpoints))
        save = checkpoints._save

        def timed(trainer: Trainer, *, rank: bool) -> None:
            began = time.perf_counter()
            save(trainer, rank=rank)
            self.held.append(time.perf_counter() - began)

        checkpoints._save = timed

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step % STRETCH == STRETCH // 2:
            self.read.append((time.perf_counter(), time.process_time(), trainer.current_epoch))


def main() -> None:
    """Train, and print what the stretches took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=6, help="of stretches")
    parser.add_argument("--device", default="cpu", choices=("cpu", "gpu"))
    parser.add_argument("--batch-seconds", type=float, default=20.0, help="audio in a step")
    parser.add_argument("--waiting", action="store_true", help="write as the training waits")
    arguments = parser.parse_args()
    clock = Clock()
    steps = (2 * arguments.pairs + 1) * STRETCH + STRETCH // 2
    overrides = [*OVERRIDES, f"trainer.max_steps={steps}", f"data.batch_seconds={arguments.batch_seconds}"]
    with tempfile.TemporaryDirectory() as directory:
        plugins = [AtomicCheckpointIO()] if arguments.waiting else []
        place = {"accelerator": arguments.device, "devices": 1, "progress": False}
        runtime = Runtime(run_dir=Path(directory), callbacks=[clock], plugins=plugins, **place)
        fit(compose("asr/conformer_ctc", overrides), runtime)
    # The first stretch warms up; the second is the first with a checkpoint.
    stretches = list(enumerate(itertools.pairwise(clock.read)))[1:]
    for index, name in enumerate(("seconds", "seconds of CPU time")):
        took: tuple[list[float], list[float]] = [], []
        for number, (before, after) in stretches:
            if before[2] == after[2]:
                took[number % 2].append(after[index] - before[index])
        without, with_checkpoint = map(statistics.median, took)
        cost = with_checkpoint / without - 1
        print(f"{STRETCH} steps: {without:.2f} {name}, {with_checkpoint:.2f} with a checkpoint ({cost:+.1%})")
    print(
        f"a checkpoint holds the training up for {statistics.median(clock.held):.3f} s (longest: {max(clock.held):.3f})"
    )


if __name__ == "__main__":
    main()
