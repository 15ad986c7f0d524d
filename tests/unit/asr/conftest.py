"""A tiny language whose letters are tones, as sound files with a manifest."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rayconvai.asr.conformer import ConformerEncoder
from rayconvai.asr.ctc import CTCDecoder
from rayconvai.asr.features import LogMel
from rayconvai.asr.models.ctc import CTCModel
from rayconvai.data.audio import write_audio
from rayconvai.tokenizers import CharTokenizer

RATE = 8000
TONES = {"a": 300.0, "b": 900.0, "c": 2700.0}
TEXTS = ("abc", "cab", "bacca", "acabb")


def tones(text: str, seconds: float = 0.2) -> Tensor:
    """Return ``text`` as tones with short gaps, (S,)."""
    time = torch.arange(int(seconds * RATE)) / RATE
    gap = torch.zeros(int(0.05 * RATE))
    parts = [part for letter in text for part in (0.3 * torch.sin(2 * torch.pi * TONES[letter] * time), gap)]
    return torch.cat([gap, *parts])


@pytest.fixture
def write_manifest(tmp_path: Path) -> Callable[..., Path]:
    """Write the sounds of some texts and their manifest; a row can be changed by ``rows``."""

    def write(
        name: str = "train", texts: Sequence[str] = TEXTS, rows: dict[int, dict[str, object]] | None = None
    ) -> Path:
        manifest = tmp_path / f"{name}.jsonl"
        with manifest.open("w") as file:
            for index, text in enumerate(texts):
                audio = tones(text)
                write_audio(tmp_path / f"{name}{index}.wav", audio, RATE)
                row = {"audio_filepath": f"{name}{index}.wav", "duration": len(audio) / RATE, "text": text}
                file.write(json.dumps(row | (rows or {}).get(index, {})) + "\n")
        return manifest

    return write


@pytest.fixture
def model() -> CTCModel:
    """A recognizer of tones."""
    torch.manual_seed(0)
    front = LogMel(sample_rate=RATE, num_mels=20, n_fft=256, win_length=200, hop_length=80)
    encoder = ConformerEncoder(in_features=20, d_model=32, num_layers=1, num_heads=2, conv_kernel_size=5, dropout=0.0)
    tokenizer = CharTokenizer.train(TEXTS)
    decoder = CTCDecoder(in_features=32, num_classes=tokenizer.vocab_size + 1)
    return CTCModel(preprocessor=front, encoder=encoder, decoder=decoder, tokenizer=tokenizer)
