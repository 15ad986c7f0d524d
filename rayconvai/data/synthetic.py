"""The embedded corpus: digits and sentences, spoken by eSpeak NG on the user's own machine."""

from __future__ import annotations

import hashlib
import json
import random
import wave
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import numpy as np
from rich.console import Console
from rich.progress import track

from rayconvai.data.cache import make_once
from rayconvai.data.corpus import Splits
from rayconvai.data.espeak import SAMPLE_RATE, Samples, Synthesizer, to_int16, wheel_version
from rayconvai.data.manifest import Manifest
from rayconvai.data.sentences import Kind, Split, pick, texts
from rayconvai.errors import ConfigError, nearest
from rayconvai.places import cache_root

VERSION = 2
"""Of what is made here: a change to any byte of the corpus is a new version."""

ACCENTS = ("en-us", "en", "en-gb-x-rp", "en-gb-scotland", "en-gb-x-gbcwmd", "en-us-nyc")
VARIANTS: dict[Split, tuple[str, ...]] = {
    "train": (
        *("m1", "m2", "m3", "m5", "m8", "klatt2", "adam", "Gene", "max", "paul", "robert", "quincy"),
        *("f4", "linda", "steph", "shelby", "grandma", "michel", "Denis", "Alex"),
    ),
    "dev": ("m6", "Mario", "Annie", "edward"),
    "test": ("m4", "m7", "f1", "travis"),
}
"""eSpeak's variants are the voices proper: formants, pitch, source. Any of them speaks with any accent.

Left out: variants with ``breath`` (not reproducible), robots, whispers, hurried ones; in dev and test those that differ
from a training variant in little but their name.
"""
RATES = tuple(range(125, 166, 5))
PITCHES = tuple(range(35, 66, 5))
RATE, PITCH = 145, 50
"""Of a single voice."""
MARGIN = SAMPLE_RATE // 10
SILENCE = 200
"""Below this a sample at either end is not speech."""


@dataclass(frozen=True)
class _Line:
    """What one utterance is to be."""

    name: str
    text: str
    accent: str
    variant: str
    rate: int
    pitch: int
    noise: int
    """Seed of the noise floor."""


class SyntheticCorpus:
    """Read sentences and digit strings by many clear voices; dev and test have voices and texts of their own.

    Made once, in some ten seconds a thousand utterances, into the cache; the same bytes on every machine with the same
    version of the wheel espeakng-loader (Linux with glibc; other systems' ``rand`` may give other noise).

    Args:
        kind: ``digits`` (strings of three to seven), ``sentences`` (a small household grammar), or ``all``: half each.
        seed: which utterances.
        size: how many: eight tenths for training, a tenth each for dev and test.
        cache_dir: where to keep it; else $RAYCONVAI_CACHE, else ~/.cache/rayconvai.
        voice: one voice for all, at one rate and pitch, to learn to speak from: eSpeak's name, as ``en-us+f4``.

    Raises:
        ConfigError: ``kind`` is unknown, ``size`` is below 10 or beyond the grammar.
    """

    def __init__(
        self,
        kind: Kind = "all",
        seed: int = 0,
        size: int = 1000,
        cache_dir: str | Path | None = None,
        voice: str | None = None,
    ) -> None:
        if kind not in get_args(Kind):
            raise ConfigError(
                f"data.corpus.kind is {kind!r}; use digits, sentences or all{nearest(kind, get_args(Kind))}"
            )
        if size < 10:
            raise ConfigError(f"data.corpus.size is {size}; it takes at least 10 to have a dev and a test set")
        self.kind, self.seed, self.size = kind, seed, size
        self.cache_dir, self.voice = cache_dir, voice

    @property
    def directory(self) -> Path:
        """Where the corpus is, or will be."""
        name = f"{self.kind}-{self.size}-seed{self.seed}-v{VERSION}-espeakng_loader{wheel_version()}"
        return cache_root(self.cache_dir) / "synthetic" / (f"{name}-{self.voice}" if self.voice else name)

    def prepare(self) -> Splits[Manifest]:
        self.fingerprint()
        train, dev, test = (Manifest.open(self.directory / f"{split}.jsonl") for split in get_args(Split))
        return Splits(train, dev, test)

    def fingerprint(self) -> dict[str, Any]:
        """Make the corpus if need be, and return what it is: arguments, versions, sha256 of all its bytes."""
        return make_once(self.directory, self._make)

    def _make(self, directory: Path) -> dict[str, Any]:
        plan = {split: self._plan(split) for split in get_args(Split)}
        digest = hashlib.sha256()
        console = Console(stderr=True)
        (directory / "audio").mkdir()
        rows: dict[Split, list[str]] = {split: [] for split in plan}
        with Synthesizer() as synthesizer:
            work = [(split, line) for split, lines in plan.items() for line in lines]
            shown = track(work, f"Speaking the {self.kind} corpus", console=console, disable=not console.is_terminal)
            for split, line in shown:
                samples = _speak(synthesizer, line)
                _write_wav(directory / line.name, samples)
                digest.update(samples.astype("<i2").tobytes())
                rows[split].append(_row(line, len(samples)))
        for split, lines in rows.items():
            content = "".join(lines).encode()
            (directory / f"{split}.jsonl").write_bytes(content)
            digest.update(content)
        return {
            "corpus": "synthetic",
            "kind": self.kind,
            "voice": self.voice,
            "seed": self.seed,
            "size": self.size,
            "version": VERSION,
            "espeakng_loader": wheel_version(),
            "sha256": digest.hexdigest(),
        }

    def _plan(self, split: Split) -> list[_Line]:
        tenth = self.size // 10
        count = self.size - 2 * tenth if split == "train" else tenth
        lines = list(islice(self._lines(split), count))
        if len(lines) < count:
            raise ConfigError(
                f"data.corpus.size={self.size}: the grammar of kind {self.kind!r} has only {len(lines)} texts for "
                f"{split}, not {count}; take a smaller size, or kind digits"
            )
        return lines

    def _lines(self, split: Split) -> Iterator[_Line]:
        rng = random.Random(f"{split} {self.seed}")
        variants = VARIANTS[split]
        for i, text in enumerate(texts(self.kind, split, self.seed)):
            # in turn, and shifted by one each round: else `all` would have half the voices say digits only
            variant = variants[(i + i // len(variants)) % len(variants)]
            line = _Line(
                name=f"audio/{split}-{i:05d}.wav",
                text=text,
                accent=pick(rng, ACCENTS),
                variant=variant,
                rate=pick(rng, RATES),
                pitch=pick(rng, PITCHES),
                noise=int(rng.random() * 2**32),
            )
            if self.voice is None:
                yield line
            else:
                accent, _, variant = self.voice.partition("+")
                yield replace(line, accent=accent, variant=variant, rate=RATE, pitch=PITCH)


def _speak(synthesizer: Synthesizer, line: _Line) -> Samples:
    voice = f"{line.accent}+{line.variant}".rstrip("+")
    samples = _trim(synthesizer.speak(line.text, voice, rate=line.rate, pitch=line.pitch))
    return _add_noise(samples, random.Random(line.noise))


def _trim(samples: Samples) -> Samples:
    """Leave a tenth of a second of silence at either end."""
    speech = np.flatnonzero(np.abs(samples.astype(np.int32)) >= SILENCE)
    assert len(speech), "eSpeak said nothing"
    return np.pad(samples[speech[0] : speech[-1] + 1], MARGIN)


def _add_noise(samples: Samples, rng: random.Random) -> Samples:
    """Add a faint noise floor (35 to 55 dB below the speech), in whole numbers: the same on every machine."""
    shift = pick(rng, (1, 2, 3, 4))
    draws = np.frombuffer(rng.randbytes(2 * len(samples)), dtype=np.int8).reshape(2, -1)
    return to_int16(samples + (draws.sum(0, dtype=np.int64) >> shift))


def _write_wav(path: Path, samples: Samples) -> None:
    """By the standard library: a FLAC encoder's output may change with its version."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(samples.astype("<i2").tobytes())


def _row(line: _Line, samples: int) -> str:
    row = {
        "audio_filepath": line.name,
        "duration": round(samples / SAMPLE_RATE, 4),
        "text": line.text,
        "speaker": f"{line.accent}+{line.variant}".rstrip("+"),
    }
    return json.dumps(row) + "\n"
