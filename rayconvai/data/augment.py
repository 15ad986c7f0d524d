"""Augmentation of waveforms: steps that are put together in a config, each repeatable from its generator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from rayconvai.core import AudioSignal, NeuralType
from rayconvai.data.audio import read_audio, resample
from rayconvai.data.manifest import Manifest, check_manifest
from rayconvai.errors import ConfigError, DataError


class Step(ABC):
    """A change of one waveform, (S,) to (S',), at the same sample rate; never in place.

    What is random comes from the generator alone: the same generator state gives the same result, whichever process
    asks. With probability ``1 - prob`` the waveform stays as it is.
    """

    input_types: ClassVar[dict[str, NeuralType]] = {"audio": NeuralType(("T",), AudioSignal())}
    output_types: ClassVar[dict[str, NeuralType]] = {"audio": NeuralType(("T",), AudioSignal())}

    def __init__(self, prob: float = 1.0) -> None:
        if not 0 <= prob <= 1:
            raise ConfigError(f"{type(self).__name__}: prob is {prob}; it must be from 0 to 1")
        self.prob = prob

    def __call__(self, audio: Tensor, sample_rate: int, generator: torch.Generator) -> Tensor:
        """Return the changed waveform, (S',)."""
        if self.prob < 1 and _uniform(0, 1, generator) >= self.prob:
            return audio
        return self.apply(audio, sample_rate, generator)

    @abstractmethod
    def apply(self, audio: Tensor, sample_rate: int, generator: torch.Generator) -> Tensor:
        """Return the changed waveform, (S',)."""


class Augment(Step):
    """Several steps, one after the other."""

    def __init__(self, steps: Sequence[Step], prob: float = 1.0) -> None:
        super().__init__(prob)
        self.steps = tuple(steps)

    def apply(self, audio: Tensor, sample_rate: int, generator: torch.Generator) -> Tensor:
        for step in self.steps:
            audio = step(audio, sample_rate, generator)
        return audio


class Speed(Step):
    """Plays faster or slower, pitch included, by resampling; one of ``factors`` at random.

    A factor of 0.9 makes the audio 1/0.9 times as long, beyond what batches are planned by.

    Source: Ko et al., Audio Augmentation for Speech Recognition, Interspeech 2015.
    """

    def __init__(self, factors: Sequence[float] = (0.9, 1.0, 1.1), prob: float = 1.0) -> None:
        super().__init__(prob)
        if not factors or not all(0.1 <= factor <= 10 for factor in factors):
            raise ConfigError(f"Speed: factors are {list(factors)}; give one or more from 0.1 to 10")
        self.factors = tuple(factors)

    def apply(self, audio: Tensor, sample_rate: int, generator: torch.Generator) -> Tensor:
        chosen = int(torch.randint(len(self.factors), (), generator=generator))
        return resample(audio, round(self.factors[chosen] * 1000), 1000)


class Gain(Step):
    """Makes louder or quieter by a gain in dB, uniform in a range. Nothing is clipped."""

    def __init__(self, min_db: float = -10.0, max_db: float = 6.0, prob: float = 1.0) -> None:
        super().__init__(prob)
        _check_range("Gain", "db", min_db, max_db)
        self.min_db, self.max_db = min_db, max_db

    def apply(self, audio: Tensor, sample_rate: int, generator: torch.Generator) -> Tensor:
        factor: float = 10 ** (_uniform(self.min_db, self.max_db, generator) / 20)
        return audio * factor


class WhiteNoise(Step):
    """Adds Gaussian noise at a signal-to-noise ratio in dB, uniform in a range; a silent input stays silent."""

    def __init__(self, min_snr_db: float = 10.0, max_snr_db: float = 50.0, prob: float = 1.0) -> None:
        super().__init__(prob)
        _check_range("WhiteNoise", "snr_db", min_snr_db, max_snr_db)
        self.min_snr_db, self.max_snr_db = min_snr_db, max_snr_db

    def apply(self, audio: Tensor, sample_rate: int, generator: torch.Generator) -> Tensor:
        snr_db = _uniform(self.min_snr_db, self.max_snr_db, generator)
        return mix(audio, torch.randn(audio.shape, generator=generator, dtype=audio.dtype), snr_db)


class BackgroundNoise(Step):
    """Adds a random part of a random recording at a signal-to-noise ratio in dB, uniform in a range.

    A recording shorter than the speech is repeated.

    Args:
        manifest: of the noises; they need no ``text``.
        min_snr_db: of the range.
        max_snr_db: of the range.
        split: take the rows whose ``split`` is this; None takes all.
        prob: how often.

    Raises:
        DataError: no such manifest, or a noise that cannot be read, by its line.
    """

    def __init__(
        self,
        manifest: str | Path,
        min_snr_db: float = 0.0,
        max_snr_db: float = 30.0,
        split: str | None = None,
        prob: float = 1.0,
    ) -> None:
        super().__init__(prob)
        _check_range("BackgroundNoise", "snr_db", min_snr_db, max_snr_db)
        self.min_snr_db, self.max_snr_db = min_snr_db, max_snr_db
        self.noises = check_manifest(Manifest.open(manifest, split, require_text=False), decode="none")

    def apply(self, audio: Tensor, sample_rate: int, generator: torch.Generator) -> Tensor:
        index = int(torch.randint(len(self.noises), (), generator=generator))
        snr_db = _uniform(self.min_snr_db, self.max_snr_db, generator)
        place = _uniform(0, 1, generator)
        row, needed = self.noises[index], len(audio) / sample_rate
        start = row.offset + place * max(0.0, row.duration - needed)
        try:
            noise = read_audio(
                row.audio_filepath, sample_rate=sample_rate, offset=start, duration=min(needed, row.duration)
            )
        except DataError as error:
            raise DataError(f"{self.noises.where(index)}: {error}") from error
        repeats = -(-len(audio) // len(noise))
        return mix(audio, noise.repeat(repeats)[: len(audio)].to(audio.dtype), snr_db)


class Shift(Step):
    """Moves the sound later or, by a negative number, earlier, by milliseconds uniform in a range.

    The length stays: silence comes in at one end, as much is lost at the other. Audio shorter than the shift stays as
    it is.
    """

    def __init__(self, min_ms: float = -5.0, max_ms: float = 5.0, prob: float = 1.0) -> None:
        super().__init__(prob)
        _check_range("Shift", "ms", min_ms, max_ms)
        self.min_ms, self.max_ms = min_ms, max_ms

    def apply(self, audio: Tensor, sample_rate: int, generator: torch.Generator) -> Tensor:
        samples = round(_uniform(self.min_ms, self.max_ms, generator) * sample_rate / 1000)
        if samples == 0 or abs(samples) >= len(audio):
            return audio
        silence = audio.new_zeros(abs(samples))
        return torch.cat([silence, audio[:-samples]] if samples > 0 else [audio[-samples:], silence])


def mix(speech: Tensor, noise: Tensor, snr_db: float) -> Tensor:
    """Add noise, both (S,), scaled to a ratio of mean powers in dB. If either is silent, return the speech as it is."""
    speech_power, noise_power = float(speech.double().square().mean()), float(noise.double().square().mean())
    if speech_power == 0 or noise_power == 0:
        return speech
    scale: float = (speech_power / noise_power / 10 ** (snr_db / 10)) ** 0.5
    return speech + scale * noise


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))


def _check_range(step: str, what: str, low: float, high: float) -> None:
    if not low <= high:
        raise ConfigError(f"{step}: min_{what} is {low}, max_{what} is {high}; the first must not exceed the second")
