"""Train ours on a manifest and print its speed and dev WER as one JSON line, as ``nemo_run.py`` does."""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from rayconvai.config.compose import compose
from rayconvai.train.fit import evaluate, fit
from rayconvai.train.runtime import Runtime

CALIBRATION = 24


class Meter(Callback):
    """Audio seconds and CPU seconds of training steps, the first few left out."""

    def __init__(self, skip: int) -> None:
        self.skip, self.audio, self.cpu, self.padded = skip, 0.0, 0.0, 0.0
        self.ends: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.start = time.process_time()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step > self.skip:
            self.ends.append(time.process_time())
            self.cpu += self.ends[-1] - self.start
            audio, audio_lengths = batch[:2]
            rate = pl_module.preprocessor.sample_rate  # type: ignore[union-attr]
            self.audio += audio_lengths.sum().item() / int(rate)  # type: ignore[arg-type]
            self.padded += audio.numel() / int(rate)  # type: ignore[arg-type]


def train(args: argparse.Namespace, steps: int, folder: Path, *, measure: bool) -> dict[str, Any]:
    """Train for so many steps, reading included, without validation; return what is to be printed."""
    meter = Meter(args.skip)
    config = compose(
        args.recipe,
        [
            "data=manifest",
            f"data.corpus.manifest={args.manifest}",
            f"trainer.max_steps={steps}",
            "trainer.max_epochs=-1",
            "trainer.accelerator=cpu",
            "trainer.limit_val_batches=0",
            "exp_manager.create_tensorboard_logger=false",
            f"seed={args.seed}",
            *args.overrides,
        ],
    )
    started = time.process_time()
    result = fit(config, Runtime(run_dir=folder / f"run{steps}", callbacks=[meter], progress=False))
    cpu = time.process_time() - started
    line = {
        "peer": "rayconvai",
        "steps": steps,
        "cpu_seconds": round(cpu, 1),
        "cpu_seconds_per_step": round((meter.ends[-1] - meter.ends[0]) / (len(meter.ends) - 1), 4),  # reading too
        "audio_seconds_per_cpu_second": round(meter.audio / meter.cpu, 2),
        "padding": round(1 - meter.audio / meter.padded, 3),
    }
    if measure:
        assert result.best_checkpoint is not None
        config.trainer.limit_val_batches = 1.0
        model, metrics = evaluate(config, result.best_checkpoint, "dev", Runtime(progress=False))
        line |= {"parameters": model.num_weights, "val_wer": round(metrics["val_wer"], 4)}
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--recipe", default="asr/conformer_ctc")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--cpu-seconds", type=float, help="instead of steps: as many as fit, by the speed of a few")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--skip", type=int, default=3, help="steps left out of the speed")
    parser.add_argument("--no-eval", action="store_true")
    parser.add_argument("overrides", nargs="*", help="Hydra overrides of the recipe")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        steps = args.steps
        if args.cpu_seconds is not None:
            tried = train(args, CALIBRATION, Path(folder), measure=False)
            steps = int(args.cpu_seconds / tried["cpu_seconds_per_step"])
        print(json.dumps(train(args, steps, Path(folder), measure=not args.no_eval)))


if __name__ == "__main__":
    main()
