"""Manifests: JSON lines, one utterance a line, as NeMo's users have them.

Only byte positions, line numbers and durations are held in memory (20 bytes a row); a row is parsed when it is asked
for. So a corpus of a million utterances opens in seconds and travels to loader workers cheaply.
"""

from __future__ import annotations

import hashlib
import json
import os
import weakref
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import FileIO
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from rayconvai.errors import DataError, nearest

KEYS = ("audio_filepath", "duration", "text", "offset", "speaker", "split")
_BOM = b"\xef\xbb\xbf"
_MAX_SECONDS = 1e9
_CHUNK = 512
_scan = json.JSONDecoder().raw_decode


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
        return self._utterance(_parse(self._read(index), self.path, line), line)

    def __iter__(self) -> Iterator[Utterance]:
        return (self._utterance(row, line) for line, row in self._rows())

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
                seen = (row["audio_filepath"], row["duration"], row.get("offset") or 0, row.get("text") or "")
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
            for line, row in zip(lines, _parse_many(read, self.path, lines), strict=True):
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
            rows = _parse_many(lines, path, range(before + 1, before + len(lines) + 1))
            sizes = [len(line) for line in lines]
            starts = list(accumulate(sizes, initial=position))
            kept = [i for i, row in enumerate(rows) if row is not None]
            if split is not None:
                names = [row.get("split") for row in rows if row is not None]
                splits.update(name for name in names if isinstance(name, str))
                kept = [i for i, name in zip(kept, names, strict=True) if name == split]
            kept_rows = [row for i in kept if (row := rows[i]) is not None]
            if not _all_good(kept_rows, require_text):
                for i, row in zip(kept, kept_rows, strict=True):
                    if problem := _problem(row, require_text):
                        raise DataError(f"{path}:{before + i + 1}: {problem}")
            index.starts.extend([starts[i] for i in kept])
            index.sizes.extend([sizes[i] for i in kept])
            index.lines.extend([before + i + 1 for i in kept])
            index.durations.extend([row["duration"] for row in kept_rows])
            position, before = starts[-1], before + len(lines)
    return index, splits


def _parse_many(lines: list[bytes], path: Path, numbers: Sequence[int]) -> Sequence[dict[str, Any] | None]:
    """Parse lines as one JSON array, three times as fast as one by one; at any doubt one by one. Blank: None."""
    try:
        rows = json.loads("[" + b",".join(lines).decode() + "]")
    except (ValueError, RecursionError):
        rows = []
    if len(rows) == len(lines) and all(type(row) is dict for row in rows):
        return rows  # type: ignore[no-any-return]
    return [None if line.isspace() else _parse(line, path, number) for number, line in zip(numbers, lines, strict=True)]


def _parse(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        text = line.decode().strip()
        row, end = _scan(text)
    except (ValueError, RecursionError) as error:
        _refuse_line(line, path, number, error)
    if end != len(text) or type(row) is not dict:
        _refuse_line(line, path, number, None)
    return row


def _refuse_line(line: bytes, path: Path, number: int, error: Exception | None) -> NoReturn:
    where = f"{path}:{number}"
    if isinstance(error, UnicodeDecodeError):
        raise DataError(f"{where}: not UTF-8 (byte {error.start + 1}); save the manifest as UTF-8") from error
    if line.startswith(_BOM):
        raise DataError(f"{where}: begins with a byte-order mark; save the manifest as UTF-8 without it") from error
    if isinstance(error, json.JSONDecodeError):
        what = f"not valid JSON ({error.msg}, column {error.colno})"
        raise DataError(f"{where}: {what}; write one JSON object a line") from error
    raise DataError(f"{where}: not one JSON object; write one JSON object a line")


def _all_good(rows: list[dict[str, Any]], require_text: bool) -> bool:
    """Return whether no row has a problem; at any doubt False. Runs over millions of rows: whole columns at a time."""
    try:
        durations = [row["duration"] for row in rows]
        audio = [row["audio_filepath"] for row in rows]
        texts = [row["text"] for row in rows] if require_text else []
    except KeyError:
        return False
    return (
        {*map(type, audio), *map(type, texts)} <= {str}
        and {*map(type, durations)} <= {int, float}
        and all(0 < duration <= _MAX_SECONDS for duration in durations)
        and all(audio)
        and (require_text or not any("text" in row for row in rows))
        and not any("offset" in row for row in rows)
    )


def _problem(row: dict[str, Any], require_text: bool) -> str | None:
    """Return what is wrong with a row and the way out, or None."""
    for key in ("audio_filepath", "duration") + (("text",) if require_text else ()):
        if row.get(key) is None:
            return f"key '{key}' is missing{nearest(key, set(row) - set(KEYS)) or '; add it'}"
    for key in ("audio_filepath", "text"):
        if not isinstance(row.get(key) or "", str):
            return f"'{key}' is {row[key]!r}; it must be a string"
    if not row["audio_filepath"]:
        return "'audio_filepath' is empty; name a sound file"
    for key, least in (("duration", "more than 0"), ("offset", "0 or more")):
        value = row.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return f"'{key}' is {value!r}; it must be a number of seconds"
        if not 0 <= value <= _MAX_SECONDS or (key == "duration" and value == 0):  # NaN fails both comparisons
            return f"'{key}' is {value}; it must be {least} seconds"
    return None
