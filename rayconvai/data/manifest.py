"""Manifests: JSON lines, one utterance a line, as NeMo's users have them.

Only byte positions, line numbers and durations are held in memory (20 bytes a row); a row is parsed when it is asked
for. So a corpus of a million utterances opens in seconds and travels to loader workers cheaply.
"""

from __future__ import annotations

import hashlib
import logging
import os
import weakref
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import FileIO
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from rayconvai.data.rows import all_good, parse, parse_many, problem
from rayconvai.data.soundcheck import remembered, scan, sound_problem
from rayconvai.errors import DataError

DECODE_HOURS = 10.0
"""``check_manifest`` decodes all of a corpus up to this size, and a sample of a larger one."""
_SAMPLE = 1000
_CHUNK = 512
_log = logging.getLogger("rayconvai")


@dataclass(frozen=True, slots=True)
class Utterance:
    """One row of a manifest."""

    audio_filepath: Path
    """Where the sound is; relative paths are already joined to the manifest's directory."""
    duration: float
    """Seconds."""
    text: str
    """Empty where the row has none and ``require_text`` is false."""
    offset: float = 0.0
    """Seconds into the sound file."""
    speaker: str | None = None
    line: int = 0
    """1-based line in the manifest."""


@dataclass
class _Index:
    """What is held of each row, in the order of the file."""

    starts: array[int] = field(default_factory=lambda: array("q"))
    sizes: array[int] = field(default_factory=lambda: array("i"))
    lines: array[int] = field(default_factory=lambda: array("i"))
    durations: array[float] = field(default_factory=lambda: array("f"))


class Manifest(Sequence[Utterance]):
    """A read-only sequence of utterances over a JSON-lines file; see ``Manifest.open``.

    It can be pickled and shared by threads and processes: each process opens the file for itself.
    """

    def __init__(self, path: Path, index: _Index, *, require_text: bool) -> None:
        self.path = path
        self.require_text = require_text
        self._starts = np.frombuffer(index.starts, dtype=np.int64)
        self._sizes = np.frombuffer(index.sizes, dtype=np.int32)
        self._lines = np.frombuffer(index.lines, dtype=np.int32)
        self._durations = np.frombuffer(index.durations, dtype=np.float32)
        self._file_size = path.stat().st_size
        self._file: FileIO | None = None
        self._digest: str | None = None

    @classmethod
    def open(cls, path: str | Path, split: str | None = None, *, require_text: bool = True) -> Manifest:
        """Read a manifest, checking every row that is kept.

        A row has ``audio_filepath`` (relative ones are relative to the manifest), ``duration`` in seconds and ``text``;
        it may have ``offset`` (seconds), ``speaker`` and ``split``. Other keys are ignored.

        Args:
            path: the JSON-lines file.
            split: keep the rows whose ``split`` is this; None keeps all.
            require_text: rows must have ``text``. Give False for sounds without words, such as noises.

        Raises:
            DataError: no such file, a line that is not such a row (named with its number), or no rows.
        """
        path = Path(path).expanduser().absolute()
        if not path.is_file():
            raise DataError(f"{path}: manifest not found; give the path of a JSON-lines file")
        index, splits = _index(path, split, require_text)
        if not len(index.starts):
            if splits:
                names = ", ".join(sorted(splits))
                raise DataError(f"{path}: no row has split {split!r}; splits there are: {names}")
            what = "empty manifest" if split is None else f"no row has a 'split', but split {split!r} was asked for"
            raise DataError(f"{path}: {what}; write one JSON object a line")
        return cls(path, index, require_text=require_text)

    @property
    def durations(self) -> npt.NDArray[np.float32]:
        """Seconds of each utterance, (N,), read-only."""
        return self._durations

    @property
    def hours(self) -> float:
        """Hours of speech in all rows."""
        return float(self._durations.sum(dtype=np.float64)) / 3600

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> Utterance:  # type: ignore[override]
        line = int(self._lines[index])
        return self._utterance(parse(self._read(index), self.path, line), line)

    def __iter__(self) -> Iterator[Utterance]:
        return (self._utterance(row, line) for line, row in self._rows())

    def has_offset(self, index: int) -> bool:
        """Return whether a row says where in its sound file it begins (``offset``), be it 0."""
        return parse(self._read(index), self.path, int(self._lines[index])).get("offset") is not None

    def where(self, index: int) -> str:
        """Return ``path:LINE`` of a row, for messages."""
        return f"{self.path}:{self._lines[index]}"

    def texts(self) -> Iterator[str]:
        """Iterate over the text of each row."""
        return (row.get("text") or "" for _, row in self._rows())

    def select(self, indices: Sequence[int] | npt.NDArray[np.integer[Any]]) -> Manifest:
        """Return a manifest of these rows, in this order."""
        rows = np.asarray(indices, dtype=np.int64)
        chosen = object.__new__(type(self))
        chosen.__setstate__(self.__getstate__())
        for name in ("_starts", "_sizes", "_lines", "_durations"):
            column = getattr(self, name)[rows]
            column.flags.writeable = False
            setattr(chosen, name, column)
        chosen._digest = None
        return chosen

    def fingerprint(self) -> dict[str, Any]:
        """Return ``{"sha256", "utterances", "hours"}``.

        The digest is over what training sees of each row (path as written, duration, offset, text, speaker), in order.
        Moving the corpus, or adding keys that are not read, does not change it.
        """
        if self._digest is None:
            digest = hashlib.sha256()
            for _, row in self._rows():
                seen = (row["audio_filepath"], row["duration"], row.get("offset"), row.get("text") or "")
                digest.update(repr((*seen, row.get("speaker"))).encode())
            self._digest = digest.hexdigest()
        return {"sha256": self._digest, "utterances": len(self), "hours": round(self.hours, 4)}

    def _read(self, index: int) -> bytes:
        if self._file is None:
            self._file = _open_unchanged(self.path, self._file_size)
            weakref.finalize(self, self._file.close)
        # pread: no shared file position, so threads and forked workers cannot disturb one another
        return os.pread(self._file.fileno(), int(self._sizes[index]), int(self._starts[index]))

    def _rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield line number and row of every utterance, parsed many at a time."""
        for first in range(0, len(self), _CHUNK):
            lines = self._lines[first : first + _CHUNK].tolist()
            read = [self._read(first + i) for i in range(len(lines))]
            for line, row in zip(lines, parse_many(read, self.path, lines), strict=True):
                if row is None:
                    raise DataError(f"{self.path}:{line}: changed since it was opened; start again")
                yield line, row

    def _utterance(self, row: dict[str, Any], line: int) -> Utterance:
        return Utterance(
            audio_filepath=self.path.parent / os.path.expanduser(row["audio_filepath"]),
            duration=float(row["duration"]),
            text=row.get("text") or "",
            offset=float(row.get("offset") or 0.0),
            speaker=None if row.get("speaker") is None else str(row["speaker"]),
            line=line,
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def __repr__(self) -> str:
        return f"Manifest({str(self.path)!r}, {len(self)} utterances, {self.hours:.2f} h)"


class Speller(Protocol):
    """What a tokenizer must be able to say of a text."""

    def unknown(self, text: str) -> set[str]:
        """Return the characters of ``text`` that cannot be written."""
        ...


def check_manifest(
    manifest: Manifest,
    *,
    tokenizer: Speller | None = None,
    on_bad: Literal["refuse", "skip"] = "refuse",
    min_duration: float = 0.0,
    max_duration: float | None = None,
    decode: Literal["auto", "all", "none"] = "auto",
) -> Manifest:
    """Check every utterance before training: declared length, text, and that its sound is there and is as declared.

    The sound file's header is always read. Silence, NaN and damage behind a good header are found only by decoding:
    ``auto`` decodes everything up to ``DECODE_HOURS`` of speech (hundreds of times faster than real time, with a
    progress bar), and 1000 utterances spread evenly over a larger corpus; there, ``read_utterance`` names the line when
    training comes to it. What was found is kept in the cache until the manifest or a sound file changes.

    Args:
        manifest: of any size; its rows are not held.
        tokenizer: texts must have no characters that it cannot write; None leaves texts unchecked.
        on_bad: "refuse" raises at any bad utterance; "skip" leaves them out and logs how many.
        min_duration: seconds; shorter utterances are bad.
        max_duration: seconds; longer utterances are bad. None: no limit.
        decode: "auto", "all" or "none".

    Returns:
        The manifest, or one of the good utterances.

    Raises:
        DataError: the first bad line and how many more there are, or, with "skip", no good one is left.
    """
    problems = _length_problems(manifest, min_duration, max_duration)
    for found in (text_problems(manifest, tokenizer), _sound_problems(manifest, decode)):
        problems = {**found, **problems}
    return keep_good(manifest, problems, on_bad)


def keep_good(manifest: Manifest, problems: Mapping[int, str], on_bad: Literal["refuse", "skip"]) -> Manifest:
    """Refuse the bad utterances of a manifest, or leave them out and log how many.

    Args:
        manifest: of any size.
        problems: what is wrong and the fix, by the utterance's index.
        on_bad: "refuse" or "skip".

    Raises:
        DataError: the first bad line and how many more there are, or, with "skip", no good one is left.
    """
    if not problems:
        return manifest
    first = min(problems)
    others = f" (and {len(problems) - 1} more bad lines)" if len(problems) > 1 else ""
    message = f"{manifest.where(first)}: {problems[first]}{others}"
    if on_bad == "refuse":
        raise DataError(f"{message}; or leave bad utterances out with data.checks.on_bad=skip")
    if len(problems) == len(manifest):
        raise DataError(f"{manifest.path}: all {len(manifest)} utterances are bad; the first: {message}")
    _log.warning("left out %d of %d utterances; the first: %s", len(problems), len(manifest), message)
    return manifest.select(np.setdiff1d(np.arange(len(manifest)), list(problems)))


def _length_problems(manifest: Manifest, least: float, most: float | None) -> dict[int, str]:
    durations = manifest.durations
    limit = np.inf if most is None else most
    bad = np.flatnonzero((durations < np.float32(least)) | (durations > np.float32(limit)))
    fix = "remove the line or change data.checks.min_duration, max_duration"
    return {int(i): f"lasts {durations[i]:.2f} s, not between {least:g} and {limit:g} s; {fix}" for i in bad}


def text_problems(manifest: Manifest, tokenizer: Speller | None) -> dict[int, str]:
    """Return what is wrong with the texts, by index: characters that the tokenizer cannot write, or none at all."""
    problems: dict[int, str] = {}
    if tokenizer is None:
        return problems
    for index, text in enumerate(manifest.texts()):
        if unknown := tokenizer.unknown(text):
            listed = ", ".join(repr(character) for character in sorted(unknown))
            problems[index] = f"text has characters that the tokenizer cannot write: {listed}; correct the text"
        elif not text.strip():
            problems[index] = "text is empty; write what is said or remove the line"
    return problems


def _sound_problems(manifest: Manifest, decode: Literal["auto", "all", "none"]) -> dict[int, str]:
    every = {"all": 1, "none": 0}.get(decode, 1 if manifest.hours <= DECODE_HOURS else -(-len(manifest) // _SAMPLE))
    places = hashlib.sha256(f"{manifest.fingerprint()['sha256']} {manifest.path.parent} {every}".encode())
    for row in manifest:
        try:
            stat = os.stat(row.audio_filepath)
            places.update(b"%d %d " % (stat.st_size, stat.st_mtime_ns))
        except (OSError, ValueError):
            places.update(b"missing ")

    def problem(index: int) -> str | None:
        row, has_offset = manifest[index], manifest.has_offset(index)
        offset = row.offset if has_offset else None
        return sound_problem(row.audio_filepath, row.duration, offset, decode=every > 0 and index % every == 0)

    return remembered(places.hexdigest(), lambda: scan(len(manifest), problem, "checking sound files"))


def _open_unchanged(path: Path, size: int) -> FileIO:
    try:
        file = FileIO(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); it was there when it was opened") from error
    if os.fstat(file.fileno()).st_size != size:
        file.close()
        raise DataError(f"{path}: changed since it was opened; start again with the new manifest")
    return file


def _index(path: Path, split: str | None, require_text: bool) -> tuple[_Index, set[str]]:
    """Scan the file once. Returns the kept rows' places and the names of all splits seen."""
    index, splits, position, before = _Index(), set[str](), 0, 0
    with path.open("rb") as file:
        while lines := list(islice(file, _CHUNK)):
            rows = parse_many(lines, path, range(before + 1, before + len(lines) + 1))
            sizes = [len(line) for line in lines]
            starts = list(accumulate(sizes, initial=position))
            kept = [i for i, row in enumerate(rows) if row is not None]
            if split is not None:
                names = [row.get("split") for row in rows if row is not None]
                splits.update(name for name in names if isinstance(name, str))
                kept = [i for i, name in zip(kept, names, strict=True) if name == split]
            kept_rows = [row for i in kept if (row := rows[i]) is not None]
            if not all_good(kept_rows, require_text):
                for i, row in zip(kept, kept_rows, strict=True):
                    if found := problem(row, require_text):
                        raise DataError(f"{path}:{before + i + 1}: {found}")
            index.starts.extend([starts[i] for i in kept])
            index.sizes.extend([sizes[i] for i in kept])
            index.lines.extend([before + i + 1 for i in kept])
            index.durations.extend([row["duration"] for row in kept_rows])
            position, before = starts[-1], before + len(lines)
    return index, splits
