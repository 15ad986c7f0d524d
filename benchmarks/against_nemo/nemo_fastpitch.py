"""Train the peer's FastPitch with its learnt aligner on a manifest; print its dev mel loss by step as JSON lines.

Runs in an environment of its own: ``pip install 'nemo_toolkit[tts]' pyworld-prebuilt kitten-text-processing`` (3.0).
What it is compared with:

    python -m rayconvai.train --config-name tts/fastpitch_small data=voice data.corpus.manifest=MANIFEST \\
        tokenizer=characters data.batch_size=8 data.num_buckets=1 data.checks.max_duration=4 data.checks.on_bad=skip \\
        trainer.max_epochs=-1 trainer.max_steps=300 trainer.check_val_every_n_epoch=null \\
        trainer.val_check_interval=30 artefact=false

Sizes, dropout, mel parameters, texts, pitch, optimizer, schedule and measures are the same on both sides. What remains
the peer's own: initial weights (those of the aligner are twice as wide), a floor of 1e-8 under the alignments' prior,
means over a batch's frames and tokens (ours: over utterances), a weight of binarization that grows by epochs, zeros
beyond an utterance's ends (ours: its mirror image), no masks between convolutions, and the logarithm of energy behind a
token's mean.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numba
import numpy as np
import pyworld
import soundfile
import torch
from kitten_text_processing import normalize_text
from nemo.collections.tts.models import FastPitchModel
from nemo.collections.tts.parts.utils.tts_dataset_utils import beta_binomial_prior_distribution
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

RATE, HOP, WINDOW, BANDS, WIDTH = 16_000, 256, 1024, 80, 128
BINARIZATION_STEPS = 1000
Example = dict[str, Any]


class Peer(FastPitchModel):
    """Measured as ours is: with the aligner's durations, and the true pitch and energy."""

    def setup_training_data(self, cfg: DictConfig) -> None:
        """Make none: the trainer is given the loaders."""

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        mel_BDT, lengths_B = self.preprocessor(input_signal=batch["audio"], length=batch["audio_lens"])
        predicted_BDT, _, _, _, _, soft_B1TU, _, hard_B1TU, *_ = self(
            text=batch["text"],
            pitch=batch["pitch"],
            energy=batch["energy"],
            spec=mel_BDT,
            attn_prior=batch["align_prior_matrix"],
            mel_lens=lengths_B,
            input_lens=batch["text_lens"],
        )
        inside_BT = torch.arange(mel_BDT.shape[2]) < lengths_B[:, None]
        errors_B = ((predicted_BDT - mel_BDT).square().mean(1) * inside_BT).sum(1) / lengths_B
        sharpness_B = (soft_B1TU * hard_B1TU).sum((1, 2, 3)) / lengths_B
        self.validation_step_outputs.append(torch.stack([errors_B, sharpness_B]))

    def on_validation_epoch_end(self) -> None:
        mel_loss, sharpness = torch.cat(self.validation_step_outputs, 1).mean(1).tolist()
        self.validation_step_outputs.clear()
        figures = {"val_mel_loss": round(mel_loss, 4), "val_sharpness": round(sharpness, 4)}
        cpu = round(time.process_time(), 1)
        print(json.dumps({"step": self.trainer.global_step, **figures, "cpu_seconds": cpu}), flush=True)


def examples(manifest: Path, split: str, longest: float) -> list[Example]:
    """Read a split's sounds and texts, and find the pitch (Hz) in the middle of each frame."""
    found = []
    for row in map(json.loads, filter(str.strip, manifest.open())):
        if row["split"] != split or row["duration"] > longest:
            continue
        audio, rate = soundfile.read(manifest.parent / row["audio_filepath"], dtype="float32")
        if rate != RATE or audio.ndim > 1:
            raise SystemExit(f"{row['audio_filepath']}: {rate} Hz; give a manifest of {RATE} Hz, one channel")
        samples = np.pad(audio.astype(np.float64)[HOP // 2 :], (0, HOP))
        rough, at = pyworld.dio(samples, RATE, f0_floor=65.0, f0_ceil=600.0, frame_period=1000 * HOP / RATE)
        pitch = pyworld.stonemask(samples, rough, at, RATE)[: len(audio) // HOP]
        text = re.sub(r"[-/]", " ", re.sub(r'["()\[\]_*]', "", normalize_text(row["text"], locale="en").lower()))
        found.append({"audio": torch.from_numpy(audio), "pitch": torch.from_numpy(pitch).float(), "text": text})
    return found


def complete(found: list[Example], model: Peer, mean: float, deviation: float) -> None:
    """Add what the model learns from, by its own preprocessor and tokenizer."""
    for example in found:
        audio, pitch = example["audio"], example["pitch"]
        # With exact_pad it counts one frame fewer than it makes.
        example["audio_lens"] = torch.tensor(len(audio) + HOP)
        mel_1DT, _ = model.preprocessor(input_signal=audio[None], length=example["audio_lens"][None])
        example["pitch"] = torch.where(pitch > 0, (pitch - mean) / deviation, 0.0)
        example["energy"] = torch.linalg.vector_norm(mel_1DT[0].exp(), dim=0)
        example["text"] = torch.tensor(model.vocab.encode(example["text"]))
        example["text_lens"] = torch.tensor(len(example["text"]))
        prior_TU = beta_binomial_prior_distribution(len(example["text"]), mel_1DT.shape[2])
        example["align_prior_matrix"] = torch.as_tensor(prior_TU)


def collate(batch: list[Example], padding: int) -> dict[str, Tensor]:
    columns = {name: [example[name] for example in batch] for name in batch[0]}
    priors = columns.pop("align_prior_matrix")
    joined = {
        name: pad_sequence(values, True, padding if name == "text" else 0) if values[0].ndim else torch.stack(values)
        for name, values in columns.items()
    }
    frames, tokens = joined["pitch"].shape[1], joined["text"].shape[1]
    padded = [torch.nn.functional.pad(prior, (0, tokens - prior.shape[1], 0, frames - len(prior))) for prior in priors]
    return {**joined, "align_prior_matrix": torch.stack(padded)}


def config(steps: int, steps_per_epoch: float) -> DictConfig:
    modules = "nemo.collections.tts.modules"
    blocks = {"n_layer": 3, "n_head": 2, "d_model": WIDTH, "d_head": 64, "d_inner": 512, "kernel_size": 3}
    blocks |= {"dropout": 0.1, "dropatt": 0.0, "dropemb": 0.1}
    predictor = {"input_size": WIDTH, "filter_size": WIDTH, "kernel_size": 3, "dropout": 0.1, "n_layers": 2}
    predictor |= {"_target_": f"{modules}.fastpitch.TemporalPredictor"}
    return OmegaConf.create({
        "learn_alignment": True, "n_mel_channels": BANDS, "symbols_embedding_dim": WIDTH, "max_token_duration": 200,
        "pitch_embedding_kernel_size": 3, "energy_embedding_kernel_size": 3,
        "bin_loss_warmup_epochs": max(1, round(BINARIZATION_STEPS / steps_per_epoch)),
        # Never made, but it says that batches are dicts.
        "train_ds": {"dataset": {"_target_": "nemo.collections.tts.data.text_to_speech_dataset.TextToSpeechDataset"}},
        "text_tokenizer": {
            "_target_": "nemo.collections.common.tokenizers.text_to_speech.tts_tokenizers.EnglishCharsTokenizer",
            "pad_with_space": True, "non_default_punct_list": list(",.;:?!"),
        },
        "preprocessor": {
            "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
            "sample_rate": RATE, "features": BANDS, "n_fft": WINDOW, "lowfreq": 0, "highfreq": 8000,
            "n_window_size": WINDOW, "n_window_stride": HOP, "window_size": False, "window_stride": False,
            "pad_to": 1, "exact_pad": True, "mag_power": 1.0, "log_zero_guard_type": "clamp",
            "log_zero_guard_value": 1e-5, "normalize": None, "preemph": None, "dither": 0.0,
        },
        "alignment_module": {
            "_target_": f"{modules}.aligner.AlignmentEncoder", "n_mel_channels": BANDS, "n_text_channels": WIDTH,
        },
        "input_fft": {"_target_": f"{modules}.transformer.FFTransformerEncoder", **blocks},
        "output_fft": {"_target_": f"{modules}.transformer.FFTransformerDecoder", **blocks},
        "duration_predictor": predictor, "pitch_predictor": predictor, "energy_predictor": predictor,
        "optim": {
            "name": "adamw", "lr": 2e-3, "betas": [0.9, 0.98], "weight_decay": 1e-6,
            "sched": {"name": "CosineAnnealing", "warmup_ratio": 0.02, "min_lr": 1e-5, "max_steps": steps},
        },
    })  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, required=True, help="whose rows have a split")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--every", type=int, default=30, help="steps between measurements")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--max-seconds", type=float, default=4.0, help="longer utterances are left out")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    numba.set_num_threads(1)  # that search for alignments, and wait for each other where cores are busy
    train, dev = (examples(args.manifest, split, args.max_seconds) for split in ("train", "dev"))
    voiced = torch.cat([example["pitch"][example["pitch"] > 0] for example in train])
    pl.seed_everything(args.seed)
    trainer = pl.Trainer(
        max_steps=args.steps, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, gradient_clip_val=1.0, num_sanity_val_steps=0,
        val_check_interval=args.every, check_val_every_n_epoch=None,
    )  # fmt: skip
    model = Peer(cfg=config(args.steps, len(train) / args.batch_size), trainer=trainer)
    for found in (train, dev):
        complete(found, model, float(voiced.mean()), float(voiced.std()))
    weights = sum(weight.numel() for weight in model.parameters())
    print(json.dumps({"peer": "nemo 3.0", "weights": weights, "train": len(train), "dev": len(dev)}), flush=True)
    options: dict[str, Any] = {"batch_size": args.batch_size, "collate_fn": lambda b: collate(b, model.vocab.pad)}
    trainer.fit(model, DataLoader(train, shuffle=True, **options), DataLoader(dev, **options))


if __name__ == "__main__":
    main()
