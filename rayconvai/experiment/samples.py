"""Samples on the disk: ``NAME.jsonl``, one sample a line, and beside it in ``NAME/`` signals as flac, arrays as npy.

Nothing is pickled.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from rayconvai.core.sample import Curve, Marked, Matrix, Part, Sample, Sound, Text
from rayconvai.experiment.layout import write_atomically


def write_samples(directory: Path, name: str, samples: Sequence[Sample], *, copy_sounds: bool = False) -> None:
    """Write samples, in the place of others of that name.

    Args:
        directory: made if it is not there.
        name: of the set.
        samples: in the order that they are shown in.
        copy_sounds: those that lie in files are copied too, so that the directory says all by itself.

    Raises:
        OSError: it cannot be written.
    """
    beside = directory / name
    beside.mkdir(parents=True, exist_ok=True)
    for old in beside.iterdir():
        old.unlink()
    lines = []
    for number, sample in enumerate(samples):
        parts = {
            label: _pack(part, f"{name}/{number}-{place}", directory, copy_sounds)
            for place, (label, part) in enumerate(sample.parts.items())
        }
        score = sample.score if sample.score is not None and math.isfinite(sample.score) else None
        lines.append(json.dumps({"where": sample.where, "score": score, "parts": parts}, ensure_ascii=False) + "\n")
    if not any(beside.iterdir()):
        beside.rmdir()
    write_atomically(directory / f"{name}.jsonl", "".join(lines))


def read_samples(directory: Path, name: str = "") -> list[Sample]:
    """Read a set of samples, the newest unless named; nothing where there is none.

    A part whose sound or array is gone is left out.

    Raises:
        ValueError: a file is damaged.
    """
    names = sorted(path.stem for path in directory.glob("*.jsonl"))
    if not names:
        return []
    samples = []
    for line in (directory / f"{name or names[-1]}.jsonl").read_text(encoding="utf-8").splitlines():
        fields = json.loads(line)
        parts = {label: _unpack(packed, directory) for label, packed in fields["parts"].items()}
        found = {label: part for label, part in parts.items() if part is not None}
        samples.append(Sample(fields["where"], fields["score"], found))
    return samples


def load_sound(sound: Sound) -> tuple[np.ndarray[Any, Any], int] | None:
    """Return the signal (S,), float32, and its sample rate; None where the file cannot be read."""
    if sound.signal is not None:
        return np.asarray(sound.signal, dtype=np.float32), sound.sample_rate
    try:
        with soundfile.SoundFile(sound.path) as file:
            rate = file.samplerate
            file.seek(round(sound.offset * rate))
            frames = -1 if sound.duration is None else round(sound.duration * rate)
            return file.read(frames, dtype="float32", always_2d=True).mean(axis=1), rate
    except (OSError, soundfile.SoundFileError):
        return None


def _pack(part: Part, file: str, directory: Path, copy_sounds: bool) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"kind": "text", "text": part.text}
    if isinstance(part, Marked):
        return {"kind": "marked", "pieces": part.pieces}
    if isinstance(part, Sound):
        clip = load_sound(part) if copy_sounds or part.signal is not None else None
        if clip is None:
            path = str(Path(part.path).absolute())
            return {"kind": "sound", "path": path, "offset": part.offset, "duration": part.duration}
        soundfile.write(directory / f"{file}.flac", clip[0].clip(-1, 1), clip[1])
        return {"kind": "sound", "file": f"{file}.flac"}
    if isinstance(part, Matrix):
        np.save(directory / f"{file}.npy", np.asarray(part.values, dtype=np.float32), allow_pickle=False)
        return {"kind": "matrix", "file": f"{file}.npy", "rows": part.rows, "columns": part.columns}
    lines = {name: np.asarray(values, dtype=np.float32) for name, values in part.lines.items()}
    longest = max(map(len, lines.values()), default=0)
    padded = [np.pad(values, (0, longest - len(values)), constant_values=np.nan) for values in lines.values()]
    np.save(directory / f"{file}.npy", np.array(padded, dtype=np.float32), allow_pickle=False)
    lengths = {name: len(values) for name, values in lines.items()}
    return {"kind": "curve", "file": f"{file}.npy", "lines": lengths, "columns": part.columns, "unit": part.unit}


def _unpack(packed: Mapping[str, Any], directory: Path) -> Part | None:
    if packed["kind"] == "text":
        return Text(packed["text"])
    if packed["kind"] == "marked":
        return Marked(tuple((text, mark) for text, mark in packed["pieces"]))
    if "path" in packed:
        return Sound(packed["path"], packed["offset"], packed["duration"])
    file = directory / packed["file"]
    if not file.is_file():
        return None
    if packed["kind"] == "sound":
        return Sound(str(file))
    values = np.load(file, allow_pickle=False)
    if packed["kind"] == "matrix":
        return Matrix(values, packed["rows"], packed["columns"])
    lines = {name: row[:length] for row, (name, length) in zip(values, packed["lines"].items(), strict=True)}
    return Curve(lines, packed["columns"], packed["unit"])
