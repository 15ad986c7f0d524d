"""What a recognizer understands of made speech."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from rayconvai.commands.intelligibility import spoken, word_errors

TEXTS = ["One two, three.", "It's four!"]


def test_words_that_were_understood() -> None:
    # Each text is "spoken" as a sound of as many samples as it has letters, at 100 Hz.
    synthesizer = SimpleNamespace(
        preprocessor=SimpleNamespace(sample_rate=100),
        parse=lambda text: torch.zeros(1, len(text)),
        generate_spectrogram=lambda tokens: tokens[:, None],
    )
    vocoder = SimpleNamespace(convert_spectrogram_to_audio=lambda spec: spec[:, 0])
    heard = {30: "one too three", 20: "it's four"}

    def transcribe(sounds: list[Tensor]) -> list[str]:
        return [heard[len(sound)] for sound in sounds]

    sounds = spoken(synthesizer, vocoder, TEXTS, 200)  # twice the rate
    assert word_errors(SimpleNamespace(transcribe=transcribe), sounds, TEXTS) == pytest.approx(1 / 5)
