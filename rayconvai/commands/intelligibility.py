"""``python -m rayconvai intelligibility``: how much of what a synthesizer says a recognizer understands."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rayconvai.commands.artefacts import restore


def main(arguments: Sequence[str]) -> int:
    """Speak the texts of a manifest, let a recognizer hear them, and print its word error rate, beside that on the
    recordings."""
    parser = argparse.ArgumentParser(prog="python -m rayconvai intelligibility", description=main.__doc__)
    parser.add_argument("synthesizer", help="artefact of a model that makes spectrograms: runs/tts/best")
    parser.add_argument("recognizer", help="artefact of a model that transcribes: runs/asr/best")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--split", help="train, dev or test, where the manifest's rows say; else all are taken")
    parser.add_argument("--vocoder", help="artefact of a HiFi-GAN; without one, the Griffin-Lim algorithm")
    given = parser.parse_args(arguments)
    from rayconvai.commands.synthesize import load_vocoder  # torch and lightning take seconds: see there
    from rayconvai.data.audio import read_utterance
    from rayconvai.data.manifest import Manifest

    manifest = Manifest.open(given.manifest, split=given.split)
    models = {}
    for name, ability in (("synthesizer", "generate_spectrogram"), ("recognizer", "transcribe")):
        models[name] = restore(getattr(given, name), ability, f"is no {name}")
    vocoder = load_vocoder(given.vocoder, models["synthesizer"].preprocessor)
    rate = models["recognizer"].preprocessor.sample_rate
    texts = list(manifest.texts())
    recordings = (read_utterance(manifest, row, sample_rate=rate) for row in range(len(manifest)))
    made = word_errors(models["recognizer"], spoken(models["synthesizer"], vocoder, texts, rate), texts)
    real = word_errors(models["recognizer"], recordings, texts)
    print(f"{len(texts)} texts: {made:.1%} of the words wrong, of the recordings {real:.1%}")
    return 0


def spoken(synthesizer: Any, vocoder: Any, texts: Sequence[str], sample_rate: int) -> Iterator[Any]:
    """Yield what is said for each text, (S,), at a sample rate.

    Raises:
        DataError: a text that cannot be said.
    """
    from rayconvai.data.audio import resample

    for text in texts:
        mel = synthesizer.generate_spectrogram(synthesizer.parse(text))
        audio = vocoder.convert_spectrogram_to_audio(spec=mel)[0].cpu()
        yield resample(audio, synthesizer.preprocessor.sample_rate, sample_rate)


def word_errors(recognizer: Any, sounds: Iterator[Any], texts: Sequence[str]) -> float:
    """Return a recognizer's word error rate, a share, whatever the case and the punctuation."""
    from rayconvai.asr.metrics import WordErrorRate

    metric = WordErrorRate()
    for sound, text in zip(sounds, texts, strict=True):
        metric.update([_words(heard) for heard in recognizer.transcribe([sound])], [_words(text)])
    return float(metric.compute())


def _words(text: str) -> str:
    return re.sub(r"[^\w' ]", " ", text.lower())
