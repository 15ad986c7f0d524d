"""Files of JSON lines, one example a line.

Only byte positions and line numbers are held in memory, and what a subclass adds; a row is parsed when it is asked for.
So a corpus of a million rows opens in seconds and travels to loader workers cheaply.
"""

from __future__ import annotations

import hashlib
import logging
import os
import weakref
from abc import abstractmethod
from array import array
from collections.abc import Iterator, Mapping, Sequence
from io import FileIO
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, overload

import numpy as np
import numpy.typing as npt
from typing_extensions import Self

from rayconvai.data.rows import parse, parse_many
from rayconvai.errors import DataError

T = TypeVar("T", covariant=True)
Row = dict[str, Any]
Columns = dict[str, "array[Any]"]
OnBad = Literal["refuse", "skip"]
_CHUNK = 512
_log = logging.getLogger("rayconvai")


class JsonLines(Sequence[T]):
    """A read-only sequence of examples over a file; see ``open``.

    It can be pickled and shared by threads and processes: each process opens the file for itself.
    """

    columns: ClassVar[Mapping[str, str]] = {"starts": "q", "sizes": "i", "lines": "i"}
    """What is held of each row, with the type code of its array: bytes, and 1-based lines. Subclasses add theirs."""
    noun: ClassVar[str] = "rows"

    def __init__(self, path: Path, columns: Columns) -> None:
        self.path = path
        self._columns = {name: np.frombuffer(column, dtype=column.typecode) for name, column in columns.items()}
        self._file_size = path.stat().st_size
        self._file: FileIO | None = None
        self._digest: str | None = None

    @classmethod
    @abstractmethod
    def open(cls, path: str | Path, split: str | None = None) -> Self:
        """Read a file, keeping the rows whose ``split`` is this; None keeps all.

        Raises:
            DataError: no such file, a line that cannot be used (named with its number), or no rows.
        """

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """Return what identifies the data: ``sha256`` of what training sees of them, and their amount."""

    @abstractmethod
    def portable_rows(self) -> Iterator[Row]:
        """Yield the rows as they would be read from any directory."""

    @abstractmethod
    def _example(self, row: Row, line: int) -> T:
        """Return what a row says."""

    @abstractmethod
    def _seen(self, row: Row) -> Sequence[Any]:
        """Return what training sees of a row: other keys may change without making it other data."""

    @classmethod
    def _scan(cls, path: Path, split: str | None, **options: Any) -> Columns:
        """Read a file once, for ``open``; the options are for ``_check``."""
        if not path.is_file():
            raise DataError(f"{path}: manifest not found; give the path of a JSON-lines file")
        columns = {name: array(code) for name, code in cls.columns.items()}
        splits, position, before = set[str](), 0, 0
        with path.open("rb") as file:
            while lines := list(islice(file, _CHUNK)):
                numbers = range(before + 1, before + len(lines) + 1)
                rows = parse_many(lines, path, numbers)
                sizes = [len(line) for line in lines]
                starts = list(accumulate(sizes, initial=position))
                kept = [i for i, row in enumerate(rows) if row is not None]
                if split is not None:
                    names = [row.get("split") for row in rows if row is not None]
                    splits.update(name for name in names if isinstance(name, str))
                    kept = [i for i, name in zip(kept, names, strict=True) if name == split]
                kept_rows = [row for i in kept if (row := rows[i]) is not None]
                kept_lines = [numbers[i] for i in kept]
                found = cls._check(kept_rows, path, kept_lines, **options)
                places = {"starts": [starts[i] for i in kept], "sizes": [sizes[i] for i in kept], "lines": kept_lines}
                for name, values in {**places, **found}.items():
                    columns[name].extend(values)
                position, before = starts[-1], before + len(lines)
        if not len(columns["starts"]):
            raise DataError(_none_kept(path, split, splits))
        return columns

    @classmethod
    def _check(cls, rows: list[Row], path: Path, lines: Sequence[int], **options: Any) -> Mapping[str, Sequence[Any]]:
        """Check rows, and return the subclass's own columns of them.

        Raises:
            DataError: one that cannot be used, named by its line.
        """
        return {}

    def __len__(self) -> int:
        return len(self._columns["starts"])

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self._example(self.row(index), self.line(index))

    def __iter__(self) -> Iterator[T]:
        return (self._example(row, line) for line, row in self._rows())

    def row(self, index: int) -> Row:
        """Return a row as it was written."""
        return parse(self._read(index), self.path, self.line(index))

    def line(self, index: int) -> int:
        """Return a row's line in the file, the first being 1."""
        return int(self._columns["lines"][index])

    def where(self, index: int) -> str:
        """Return ``path:LINE`` of a row, for messages."""
        return f"{self.path}:{self.line(index)}"

    def select(self, indices: Sequence[int] | npt.NDArray[np.integer[Any]]) -> Self:
        """Return these rows, in this order."""
        rows = np.asarray(indices, dtype=np.int64)
        chosen = object.__new__(type(self))
        chosen.__setstate__({**self.__getstate__(), "_digest": None})
        chosen._columns = {name: column[rows] for name, column in self._columns.items()}
        for column in chosen._columns.values():
            column.flags.writeable = False
        return chosen

    def digest(self) -> str:
        """Return the SHA-256 of what training sees of the rows, in their order."""
        if self._digest is None:
            digest = hashlib.sha256()
            for _, row in self._rows():
                digest.update(repr(tuple(self._seen(row))).encode())
            self._digest = digest.hexdigest()
        return self._digest

    def _read(self, index: int) -> bytes:
        if self._file is None:
            self._file = _open_unchanged(self.path, self._file_size)
            weakref.finalize(self, self._file.close)
        # pread: no shared file position, so threads and forked workers cannot disturb one another
        size, start = (int(self._columns[name][index]) for name in ("sizes", "starts"))
        return os.pread(self._file.fileno(), size, start)

    def _rows(self) -> Iterator[tuple[int, Row]]:
        """Yield line number and row of every example, parsed many at a time."""
        for first in range(0, len(self), _CHUNK):
            lines = self._columns["lines"][first : first + _CHUNK].tolist()
            read = [self._read(first + i) for i in range(len(lines))]
            for line, row in zip(lines, parse_many(read, self.path, lines), strict=True):
                if row is None:
                    raise DataError(f"{self.path}:{line}: changed since it was opened; start again")
                yield line, row

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


Lines = TypeVar("Lines", bound=JsonLines[Any])


def keep_good(manifest: Lines, problems: Mapping[int, str], on_bad: OnBad) -> Lines:
    """Refuse the bad rows of a manifest, or leave them out and log how many.

    Args:
        manifest: of any size.
        problems: what is wrong and the fix, by the row's index.
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
        raise DataError(f"{message}; or leave bad {manifest.noun} out with data.checks.on_bad=skip")
    if len(problems) == len(manifest):
        raise DataError(f"{manifest.path}: all {len(manifest)} {manifest.noun} are bad; the first: {message}")
    _log.warning("left out %d of %d %s; the first: %s", len(problems), len(manifest), manifest.noun, message)
    return manifest.select(np.setdiff1d(np.arange(len(manifest)), list(problems)))


def _none_kept(path: Path, split: str | None, splits: set[str]) -> str:
    if splits:
        return f"{path}: no row has split {split!r}; splits there are: {', '.join(sorted(splits))}"
    what = "empty manifest" if split is None else f"no row has a 'split', but split {split!r} was asked for"
    return f"{path}: {what}; write one JSON object a line"


def _open_unchanged(path: Path, size: int) -> FileIO:
    try:
        file = FileIO(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); it was there when it was opened") from error
    if os.fstat(file.fileno()).st_size != size:
        file.close()
        raise DataError(f"{path}: changed since it was opened; start again with the new manifest")
    return file
