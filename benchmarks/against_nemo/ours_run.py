"""Train our Conformer-CTC on a manifest and print its speed and dev WER as one JSON line, as ``nemo_run.py`` does."""

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
from rayconvai.train.fit import fit
from rayconvai.train.runtime import Runtime


class Meter(Callback):
    """Audio seconds and CPU seconds of training steps, the first few left out."""

    def __init__(self, skip: int) -> None:
        self.skip, self.audio, self.cpu, self.padded = skip, 0.0, 0.0, 0.0
        self.started = 0.0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.started = time.process_time()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.start = time.process_time()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step > self.skip:
            self.cpu += time.process_time() - self.start
            audio, audio_lengths = batch[:2]
            self.audio += audio_lengths.sum().item() / 16000
            self.padded += audio.numel() / 16000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--skip", type=int, default=3, help="steps left out of the speed")
    parser.add_argument("--no-eval", action="store_true")
    parser.add_argument("overrides", nargs="*", help="Hydra overrides of asr/conformer_ctc")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        meter = Meter(args.skip)
        config = compose(
            "asr/conformer_ctc",
            [
                "data=manifest",
                f"data.corpus.manifest={args.manifest}",
                f"trainer.max_steps={args.steps}",
                "trainer.max_epochs=-1",
                "trainer.num_sanity_val_steps=0",
                "trainer.accelerator=cpu",
                "exp_manager.create_tensorboard_logger=false",
                *([] if not args.no_eval else ["trainer.limit_val_batches=0"]),
                *args.overrides,
            ],
        )
        result = fit(config, Runtime(run_dir=Path(folder) / "run", callbacks=[meter], progress=False))
        cpu = time.process_time() - meter.started
    line = {
        "peer": "rayconvai",
        "steps": args.steps,
        "cpu_seconds": round(cpu, 1),
        "audio_seconds_per_cpu_second": round(meter.audio / meter.cpu, 2),
        "padding": round(1 - meter.audio / meter.padded, 3),
    }
    if not args.no_eval:
        line["val_wer"] = round(result.metrics["val_wer"], 4)
    print(json.dumps(line))


if __name__ == "__main__":
    main()
