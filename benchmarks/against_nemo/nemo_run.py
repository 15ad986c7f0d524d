"""Train the peer's Conformer-CTC on a manifest and print its speed and dev WER as one JSON line.

Runs in an environment of its own: ``pip install 'nemo_toolkit[asr]'`` (3.0). See ``compare.py``.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from nemo.collections.asr.models import EncDecCTCModel
from omegaconf import OmegaConf

CALIBRATION = 24


class Meter(pl.Callback):
    """Audio seconds and CPU seconds of training steps, the first few left out."""

    def __init__(self, skip: int) -> None:
        self.skip, self.audio, self.cpu, self.padded = skip, 0.0, 0.0, 0.0
        self.ends: list[float] = []

    def on_train_batch_start(self, trainer, module, batch, index) -> None:
        self.start = time.process_time()

    def on_train_batch_end(self, trainer, module, outputs, batch, index) -> None:
        if trainer.global_step > self.skip:
            self.ends.append(time.process_time())
            self.cpu += self.ends[-1] - self.start
            self.audio += batch[1].sum().item() / 16000
            self.padded += batch[0].numel() / 16000


def split_manifest(manifest: Path, split: str, folder: Path) -> tuple[str, str]:
    rows = [json.loads(line) for line in manifest.open() if line.strip()]
    rows = [row for row in rows if row["split"] == split]
    for row in rows:
        row["audio_filepath"] = str(manifest.parent / row["audio_filepath"])
    path = folder / f"{split}.json"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path), "".join(row["text"] for row in rows)


def config(args: argparse.Namespace, steps: int, folder: Path) -> OmegaConf:
    train, text = split_manifest(args.manifest, "train", folder)
    dev, _ = split_manifest(args.manifest, "dev", folder)
    labels = sorted(set(text))
    loader = {"sample_rate": 16000, "labels": labels, "num_workers": 0, "pin_memory": False}
    return OmegaConf.create({
        "sample_rate": 16000,
        "labels": labels,
        "log_prediction": False,
        "train_ds": {**loader, "manifest_filepath": train, "batch_size": args.batch_size, "shuffle": True},
        "validation_ds": {**loader, "manifest_filepath": dev, "batch_size": 16, "shuffle": False},
        "preprocessor": {
            "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
            "sample_rate": 16000, "normalize": "per_feature", "window_size": 0.025, "window_stride": 0.01,
            "window": "hann", "features": 80, "n_fft": 512, "dither": 1e-5, "pad_to": 0,
        },
        "spec_augment": {
            "_target_": "nemo.collections.asr.modules.SpectrogramAugmentation",
            "freq_masks": 2, "time_masks": args.time_masks, "freq_width": 27, "time_width": 0.05,
        },
        "encoder": {
            "_target_": "nemo.collections.asr.modules.ConformerEncoder",
            "feat_in": 80, "n_layers": args.num_layers, "d_model": args.d_model, "n_heads": 4,
            "subsampling": args.subsampling, "subsampling_factor": 4, "subsampling_conv_channels": args.d_model,
            "ff_expansion_factor": 4, "self_attention_model": "rel_pos", "conv_kernel_size": args.conv_kernel_size,
            "dropout": 0.1, "dropout_pre_encoder": 0.1, "dropout_emb": 0.0, "dropout_att": 0.1,
        },
        "decoder": {
            "_target_": "nemo.collections.asr.modules.ConvASRDecoder",
            "feat_in": None, "num_classes": len(labels), "vocabulary": labels,
        },
        "optim": {
            "name": "adamw", "lr": args.lr, "betas": [0.9, 0.98], "weight_decay": 1e-3,
            "sched": {"name": "CosineAnnealing", "warmup_steps": steps // 10, "min_lr": 1e-6},
        },
    })  # fmt: skip


def train(args: argparse.Namespace, steps: int, folder: Path, *, measure: bool) -> dict[str, Any]:
    """Train for so many steps, reading included, without validation; return what is to be printed."""
    pl.seed_everything(args.seed)
    meter = Meter(args.skip)
    trainer = pl.Trainer(
        max_steps=steps, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, callbacks=[meter], limit_val_batches=0, num_sanity_val_steps=0,
        gradient_clip_val=1.0,
    )  # fmt: skip
    model = EncDecCTCModel(cfg=config(args, steps, folder), trainer=trainer)
    started = time.process_time()
    trainer.fit(model)
    line = {
        "peer": "nemo 3.0",
        "steps": trainer.global_step,
        "cpu_seconds": round(time.process_time() - started, 1),
        "cpu_seconds_per_step": round((meter.ends[-1] - meter.ends[0]) / (len(meter.ends) - 1), 4),  # reading too
        "audio_seconds_per_cpu_second": round(meter.audio / meter.cpu, 2),
        "padding": round(1 - meter.audio / meter.padded, 3),
    }
    if measure:
        evaluator = pl.Trainer(accelerator="cpu", devices=1, logger=False, enable_progress_bar=False)
        line |= {
            "parameters": sum(p.numel() for p in model.parameters()),
            "val_wer": round(float(evaluator.validate(model, verbose=False)[0]["val_wer"]), 4),
        }
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--cpu-seconds", type=float, help="instead of steps: as many as fit, by the speed of a few")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--num-layers", type=int, default=5)
    parser.add_argument("--d-model", type=int, default=128)
    parser.add_argument("--conv-kernel-size", type=int, default=31)
    parser.add_argument("--subsampling", default="striding")
    parser.add_argument("--time-masks", type=int, default=5)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--skip", type=int, default=3, help="steps left out of the speed")
    parser.add_argument("--no-eval", action="store_true")
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
