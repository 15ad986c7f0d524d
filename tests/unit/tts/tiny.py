"""A HiFi-GAN that trains in seconds, and sounds for it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from rayconvai.data.audio import write_audio

RATE = 8000
TINY = (
    "trainer=cpu",
    "trainer.check_val_every_n_epoch=1",
    "model.preprocessor={sample_rate: 8000, n_fft: 64, win_length: 64, hop_length: 16, num_mels: 8, fmax: null}",
    "model.generator={channels: 8, upsample_rates: [4, 4], upsample_kernels: [8, 8]}",
    "model.generator={blocks: [{kernel: 3, dilations: [1, 2], paired: false}]}",
    "model.discriminators={periods: [2], period_channels: 1, scales: 1, scale_channels: 16}",
    "data.segment_frames=16",
    "optim.lr=2e-3",
    "exp_manager.create_tensorboard_logger=false",
)


def hum(index: int, samples: int = 1500) -> Tensor:
    """A voice of a few harmonics, rising."""
    time = torch.arange(samples) / RATE
    phase = 2 * torch.pi * (100 + 10 * index + 100 * time) * time
    return 0.1 * torch.stack([(k * phase).sin() / k for k in (1, 2, 3, 5)]).sum(0)


def write_hums(root: Path, count: int = 16, rate: int = RATE) -> Path:
    """Return a manifest of as many, without texts, which a vocoder does not read."""
    rows = []
    for index in range(count):
        samples = 200 if index == 0 else 1500 + 37 * index  # the first one is shorter than a stretch
        write_audio(root / f"{index}.wav", hum(index, samples), rate)
        rows.append({"audio_filepath": f"{index}.wav", "duration": samples / rate})
    manifest = root / "hums.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest
