"""What takes long to find out about a corpus, found once and kept in the cache: its pitch, its pronunciations."""

from __future__ import annotations

import hashlib
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.progress import track

from rayconvai.data.audio import read_utterance
from rayconvai.data.cache import make_once
from rayconvai.data.loader import end_with_the_starter
from rayconvai.data.manifest import Manifest, sounds_digest
from rayconvai.data.soundcheck import open_sound
from rayconvai.errors import DataError
from rayconvai.places import cache_root
from rayconvai.tokenizers import Tokenizer
from rayconvai.tts.pitch import PitchRange, pitch_of

VERSION = 1
"""Of what is kept here: a change to how it is found is a new version."""
_MANY = 2000
Values = npt.NDArray[Any]


@dataclass
class Rows:
    """A sequence of values for each row of a manifest, read from disk as it is needed."""

    directory: Path
    record: dict[str, Any]
    """What was found of all rows."""

    @property
    def problems(self) -> dict[int, str]:
        """What is wrong with a row, and the way out."""
        return {int(row): text for row, text in self.record["problems"].items()}

    @cached_property
    def ends(self) -> npt.NDArray[np.int64]:
        """Where the values of each row end among all."""
        found: npt.NDArray[np.int64] = np.load(self.directory / "ends.npy")
        return found

    @cached_property
    def _values(self) -> Values:
        found: Values = np.load(self.directory / "values.npy", mmap_mode="r")
        return found

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """How many values each row has."""
        return np.diff(self.ends, prepend=0)

    def __getitem__(self, row: int) -> Values:
        return np.array(self._values[self.ends[row - 1] if row else 0 : self.ends[row]])

    def __getstate__(self) -> dict[str, Any]:
        return {"directory": self.directory, "record": self.record}


def pronunciations(manifest: Manifest, tokenizer: Tokenizer) -> Rows:
    """Return the tokens of each row.

    A row has a problem if the tokenizer cannot write its text, or nothing in it is spoken.
    """
    with tempfile.TemporaryDirectory() as place:
        tokenizer.save(Path(place))
        files = sorted(Path(place).iterdir())
        digest = hashlib.sha256(b"".join(file.read_bytes() for file in files))
    digest.update(repr((VERSION, manifest.fingerprint()["sha256"])).encode())
    return _kept(f"tokens-{digest.hexdigest()[:16]}", partial(_tokens, manifest, tokenizer), len(manifest))


def pitches(manifest: Manifest, *, sample_rate: int, hop_length: int, within: PitchRange) -> Rows:
    """Return the pitch of each frame of each row; the record has ``mean`` and ``deviation`` of the voiced ones, in Hz.

    A row has a problem if its sound has a lower rate than ``sample_rate``: the voice would lack the upper frequencies.
    """
    digest = sounds_digest(manifest, repr((VERSION, sample_rate, hop_length, within)))
    find = partial(_pitch, manifest, sample_rate, hop_length, within)
    return _kept(f"pitch-{digest[:16]}", find, len(manifest))


def _tokens(manifest: Manifest, tokenizer: Tokenizer, row: int) -> tuple[Values, str]:
    try:
        tokens = tokenizer.encode(manifest[row].text)
    except DataError as error:
        return np.zeros(0, np.int32), str(error)
    empty = "text has nothing to say; write what is said or remove the line"
    return np.asarray(tokens, dtype=np.int32), "" if tokens else empty


def _pitch(manifest: Manifest, sample_rate: int, hop_length: int, within: PitchRange, row: int) -> tuple[Values, str]:
    path = manifest[row].audio_filepath
    try:
        with open_sound(path) as file:
            rate = file.samplerate
        audio = read_utterance(manifest, row, sample_rate=sample_rate)
    except DataError as error:
        return np.zeros(0, np.float32), str(error).removeprefix(f"{manifest.where(row)}: ")
    fix = f"take a recording of {sample_rate} Hz or more, or set model.preprocessor.sample_rate={rate}"
    problem = f"{path}: has {rate} Hz, but the voice {sample_rate} Hz; {fix}" if rate < sample_rate else ""
    return pitch_of(audio, sample_rate=sample_rate, hop_length=hop_length, within=within), problem


def _kept(name: str, find: Callable[[int], tuple[Values, str]], total: int) -> Rows:
    def make(place: Path) -> dict[str, Any]:
        values, problems = [], {}
        for row, (value, problem) in enumerate(_each(find, total, f"finding {name.partition('-')[0]}")):
            values.append(value)
            if problem:
                problems[row] = problem
        joined = np.concatenate(values)
        np.save(place / "values.npy", joined)
        np.save(place / "ends.npy", np.cumsum([len(value) for value in values], dtype=np.int64))
        voiced = joined[joined > 0].astype(np.float64)
        figures = {"mean": float(voiced.mean()), "deviation": float(voiced.std())} if len(voiced) else {}
        return {"problems": problems, **figures}

    directory = cache_root() / "tts" / name
    return Rows(directory, make_once(directory, make))


def _each(find: Callable[[int], tuple[Values, str]], total: int, title: str) -> Iterator[tuple[Values, str]]:
    """Call ``find`` on every row; in processes where there are many, as it is busy in Python itself."""
    if total < _MANY:
        yield from map(find, range(total))
        return
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(mp_context=context, initializer=end_with_the_starter) as pool:
        yield from track(pool.map(find, range(total), chunksize=16), title, total=total, transient=True)
