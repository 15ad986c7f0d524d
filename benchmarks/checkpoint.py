"""What checkpoints cost a training: python benchmarks/checkpoint.py [--checkpoints 12] [--device gpu] [--waiting]

A conformer of 10 M parameters (with its optimizer's moments a checkpoint of 120 MB) trains on the embedded corpus, and
a checkpoint is written every 50 steps, as a run writes them, or (--waiting) while the training waits. What one costs:
the 10 steps after it, less as much as the 20 before it took. The median over those with no end of an epoch among their
steps (which starts the loader's workers, and writes a checkpoint too). To reach: less than 3 % of 50 steps.
"""

from __future__ import annotations

import argparse
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

EVERY, BEFORE, AFTER = 50, 20, 10
"""Steps."""

OVERRIDES = [
    "data=digits",
    "model.encoder.num_layers=12",
    "model.encoder.d_model=192",
    "trainer.max_epochs=null",
    "trainer.limit_val_batches=0",
    "exp_manager.create_tensorboard_logger=false",
    "exp_manager.checkpoint_callback_params.save_top_k=0",
    f"exp_manager.checkpoint_callback_params.every_n_train_steps={EVERY}",
]


class Clock(Callback):
    """Reads seconds of the day, of CPU time, and the epoch after each step; and how long saves held up."""

    def __init__(self) -> None:
        self.read: list[tuple[float, float, int]] = [(0.0, 0.0, 0)]
        self.held: list[float] = []

    def setup(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        checkpoints = next(callback for callback in trainer.callbacks if isinstance(callback, Checkpoints))
        save = checkpoints._save

        def timed(trainer: Trainer, *, rank: bool) -> None:
            began = time.perf_counter()
            save(trainer, rank=rank)
            self.held.append(time.perf_counter() - began)

        checkpoints._save = timed

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:  # a save comes after it
        self.read.append((time.perf_counter(), time.process_time(), trainer.current_epoch))


def main() -> None:
    """Train, and print what a checkpoint costs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=int, default=12)
    parser.add_argument("--device", default="cpu", choices=("cpu", "gpu"))
    parser.add_argument("--batch-seconds", type=float, default=20.0, help="audio in a step")
    parser.add_argument("--waiting", action="store_true", help="write as the training waits")
    arguments = parser.parse_args()
    clock = Clock()
    steps = arguments.checkpoints * EVERY + AFTER
    overrides = [*OVERRIDES, f"trainer.max_steps={steps}", f"data.batch_seconds={arguments.batch_seconds}"]
    with tempfile.TemporaryDirectory() as directory:
        plugins = [AtomicCheckpointIO()] if arguments.waiting else []
        place = {"accelerator": arguments.device, "devices": 1, "progress": False}
        runtime = Runtime(run_dir=Path(directory), callbacks=[clock], plugins=plugins, **place)
        fit(compose("asr/conformer_ctc", overrides), runtime)
    saves = [
        save
        for save in range(EVERY, steps, EVERY)
        if clock.read[save - BEFORE][2] == clock.read[save + AFTER][2]  # the epoch
    ]
    for index, name in enumerate(("seconds", "seconds of CPU time")):
        at = [reading[index] for reading in clock.read]
        step = statistics.median((at[save] - at[save - BEFORE]) / BEFORE for save in saves)
        cost = statistics.median(
            at[save + AFTER] - at[save] - (at[save] - at[save - BEFORE]) / BEFORE * AFTER for save in saves
        )
        print(f"{EVERY} steps: {step * EVERY:.2f} {name}; a checkpoint: {cost:.2f} more ({cost / step / EVERY:+.1%})")
    print(
        f"a checkpoint holds the training up for {statistics.median(clock.held):.3f} s (longest: {max(clock.held):.3f})"
    )


if __name__ == "__main__":
    main()
