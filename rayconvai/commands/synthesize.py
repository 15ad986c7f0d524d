"""``python -m rayconvai synthesize``: a text as speech, in a sound file."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayconvai.commands.artefacts import restore
from rayconvai.errors import ArtefactError, ConfigError

if TYPE_CHECKING:
    from rayconvai.tts.features import MelSpectrogram


def main(arguments: Sequence[str]) -> int:
    """Speak a text into a sound file."""
    parser = argparse.ArgumentParser(prog="python -m rayconvai synthesize", description=main.__doc__)
    parser.add_argument("artefact", help="of a model that makes spectrograms: runs/tts/best")
    parser.add_argument("text")
    parser.add_argument("-o", "--output", type=Path, required=True, help="out.wav, or .flac, .ogg, .mp3")
    parser.add_argument("--vocoder", help="artefact of a HiFi-GAN; without one, the Griffin-Lim algorithm")
    parser.add_argument("--pace", type=float, default=1.0, help="2 is twice as fast")
    parser.add_argument("--pitch-shift", type=float, default=0.0, help="semitones")
    given = parser.parse_args(arguments)
    if not 0.1 <= given.pace <= 10:
        raise ConfigError(f"--pace is {given.pace:g}; it must be from 0.1 to 10")
    import torch  # torch and lightning take seconds: a wrong call does not pay for them

    from rayconvai.data.audio import write_audio

    model = restore(given.artefact, "generate_spectrogram", "does not speak text")
    front = model.preprocessor
    vocoder = load_vocoder(given.vocoder, front)
    tokens = model.parse(given.text)
    torch.manual_seed(0)
    mel = model.generate_spectrogram(tokens, pace=given.pace, pitch_shift=given.pitch_shift)
    audio = vocoder.convert_spectrogram_to_audio(spec=mel)[0]
    write_audio(given.output, audio / audio.abs().amax().clamp(min=1), front.sample_rate)
    by = given.vocoder or "the Griffin-Lim algorithm, as no --vocoder is given"
    print(f"{given.output}: {len(audio) / front.sample_rate:.2f} s by {by}")
    return 0


def load_vocoder(artefact: str | None, front: MelSpectrogram) -> Any:
    """Return what makes audio of the spectrograms of ``front``.

    Raises:
        ArtefactError: it is no vocoder, or was trained on other spectrograms.
    """
    from rayconvai.tts.griffin_lim import GriffinLim

    if artefact is None:
        return GriffinLim(front)
    vocoder = restore(artefact, "convert_spectrogram_to_audio", "is no vocoder")
    for name, has in front.sizes.items():
        wants = vocoder.preprocessor.sizes[name]
        if wants != has:
            raise ArtefactError(f"{artefact} was trained on spectrograms with {name}={wants}, the voice has {has}")
    return vocoder
