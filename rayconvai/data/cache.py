"""Directories that are made once and then kept: whole or not there at all."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rayconvai.errors import StorageError

MARKER = "complete.json"


def make_once(directory: Path, make: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Let ``make`` fill ``directory``, unless it has already been filled and is still whole.

    ``make`` writes into a temporary directory beside, which takes its name at the end: nobody ever sees a half-made
    one. Of several processes one makes it and the others wait. A directory whose files are not the ones that were
    written (one is gone, one is short) is made again.

    Args:
        directory: where the files shall be.
        make: fills the directory that it is given, and returns a record to be kept with it.

    Returns:
        The record.

    Raises:
        StorageError: the place cannot be written, or the disk is full.
    """
    if (record := read_marker(directory)) is not None:
        return record
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with (directory.parent / f".{directory.name}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if (record := read_marker(directory)) is not None:
                return record
            return _make(directory, make)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        reason = error.strerror or str(error)
        fix = "free some space there, or name another directory by cache_dir or $RAYCONVAI_CACHE"
        raise StorageError(f"{directory.parent}: cannot write the cache: {reason}; {fix}") from error


def read_marker(directory: Path) -> dict[str, Any] | None:
    """Return the record of a whole directory, or None."""
    try:
        marker = json.loads((directory / MARKER).read_text(encoding="utf-8"))
        whole = marker["sizes"] == _sizes(directory)
        return dict(marker["record"]) if whole else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _make(directory: Path, make: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    aside = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        made = aside / "made"
        made.mkdir()
        record = make(made)
        marker = json.dumps({"record": record, "sizes": _sizes(made)}, indent=1)
        with (made / MARKER).open("w", encoding="utf-8") as file:
            file.write(marker + "\n")
            file.flush()
            os.fsync(file.fileno())
        if directory.exists():
            directory.rename(aside / "damaged")
        made.rename(directory)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return record


def _sizes(directory: Path) -> dict[str, int]:
    """Return the bytes of every file but the marker, by its path in ``directory``."""
    found = {}
    for folder, _, files in os.walk(directory):
        for name in files:
            path = Path(folder, name)
            found[path.relative_to(directory).as_posix()] = path.stat().st_size
    found.pop(MARKER, None)
    return dict(sorted(found.items()))
