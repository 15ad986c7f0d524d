"""Whether sound files are what a manifest says they are, found before training. Needs no torch."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile
from rich.progress import track

from rayconvai.errors import DataError
from rayconvai.places import cache_root

SILENT_PEAK = 2.0**-14
"""Two steps of 16-bit audio: dither and codec noise stay below, the quietest usable recording far above."""
DURATION_TOLERANCE = 0.1
"""Seconds by which a file may end before what its manifest declares: codecs pad and tools round."""
_CHUNK = 64
_SHORT_WORK = 2000


def open_sound(path: str | Path) -> soundfile.SoundFile:
    """Open a sound file that has samples.

    Raises:
        DataError: no such file, not a sound file, or of zero length.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        # To open a pipe would wait for its writer.
        raise DataError(f"{path}: is not a file; name a sound file")
    try:
        file = soundfile.SoundFile(os.fspath(path))
    except (OSError, soundfile.SoundFileError, TypeError, ValueError) as error:
        if not os.path.exists(path):
            raise DataError(f"{path}: sound file not found") from error
        if os.path.getsize(path) == 0:
            raise DataError(f"{path}: zero-length sound file; remove it or record it again") from error
        reason = str(error).rsplit("': ", 1)[-1].rstrip(".")
        raise DataError(f"{path}: cannot be read as sound ({reason}); use wav, flac, ogg, opus or mp3") from error
    if file.frames <= 0:
        file.close()
        raise DataError(f"{path}: zero-length sound file; remove it or record it again")
    return file


def sound_problem(path: Path, duration: float, offset: float | None, *, decode: bool) -> str | None:
    """Return what is wrong with the sound of a row and the way out, or None.

    Args:
        path: the sound file.
        duration: declared seconds.
        offset: declared seconds into the file, or None where the row has none: then the file must be no longer than
            declared, or the text would go with a part of the sound.
        decode: read the samples too; only so is silence found, or damage behind a good header.
    """
    try:
        with open_sound(path) as file:
            actual = file.frames / file.samplerate
            end = (offset or 0.0) + duration
            tolerance = DURATION_TOLERANCE + 0.01 * duration
            if end > actual + DURATION_TOLERANCE:
                return f"{path}: ends at {actual:.2f} s, but the line declares {end:.2f} s; correct the duration"
            if offset is None and actual > end + tolerance:
                part = "correct the duration, or give an offset for a part"
                return f"{path}: lasts {actual:.2f} s, but the line declares {duration:.2f} s; {part}"
            return _samples_problem(file, path, duration, offset or 0.0) if decode else None
    except DataError as error:
        return str(error)


def _samples_problem(file: soundfile.SoundFile, path: Path, duration: float, offset: float) -> str | None:
    rate, peak, read = file.samplerate, 0.0, 0
    try:
        file.seek(min(round(offset * rate), file.frames))
        wanted = round(duration * rate)
        for block in file.blocks(blocksize=30 * rate, frames=min(wanted, file.frames - file.tell()), dtype="float32"):
            peak, read = max(peak, float(np.abs(block).max(initial=0.0))), read + len(block)
            if not np.isfinite(block).all():
                return f"{path}: holds NaN or infinite samples; write it again"
    except soundfile.SoundFileError as error:
        return f"{path}: damaged sound file ({error}); replace it"
    if read < wanted - DURATION_TOLERANCE * rate:
        return f"{path}: damaged: only {read / rate:.2f} of {duration:.2f} s can be decoded; replace it"
    return f"{path}: all-silent; remove the line" if peak < SILENT_PEAK else None


def scan(total: int, problem: Callable[[int], str | None], title: str) -> dict[int, str]:
    """Call ``problem`` on 0 ... total-1 in threads (files are slow, codecs free the interpreter lock).

    Returns the problems found, in order. Long work shows a progress bar.
    """

    def work(first: int) -> list[tuple[int, str]]:
        found = ((index, problem(index)) for index in range(first, min(first + _CHUNK, total)))
        return [(index, text) for index, text in found if text]

    chunks = range(0, total, _CHUNK)
    with ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1))) as pool:
        results = pool.map(work, chunks)
        shown = track(results, title, total=len(chunks), transient=True, disable=total < _SHORT_WORK)
        return {index: text for found in shown for index, text in found}


def remembered(key: str, check: Callable[[], dict[int, str]]) -> dict[int, str]:
    """Return what ``check`` found, from the cache where the same was checked before: trials share one corpus.

    A cache that cannot be read or written only costs time.
    """
    path = cache_root() / "checks" / f"{key}.json"
    with contextlib.suppress(OSError, ValueError):
        return {int(index): str(text) for index, text in json.loads(path.read_text()).items()}
    found = check()
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(f".{os.getpid()}")
        aside.write_text(json.dumps(found))
        aside.replace(path)
    return found
