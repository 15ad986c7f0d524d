"""Where a journal lies: in a directory, local or NFS, or in a bucket (bucket.py). And who may write it."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from rayconvai.errors import StorageError, SweepError

_TRIES = 5
_TRY_SECONDS = 0.1


@dataclass(frozen=True)
class Segment:
    """A part of a journal. What follows it is in the next one."""

    name: str
    size: int


@dataclass(frozen=True)
class Holder:
    """The process that may write."""

    host: str
    pid: int
    since: float

    @classmethod
    def here(cls) -> Holder:
        return cls(socket.gethostname(), os.getpid(), round(time.time(), 3))

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"process {self.pid} on {self.host}, since {since}"


class Store(Protocol):
    """What a journal needs of the place where it lies."""

    @property
    def place(self) -> object:
        """The sweep's directory or address."""

    def segments(self) -> list[Segment]:
        """List them in order."""

    def read(self, segments: Sequence[Segment]) -> Iterator[bytes]:
        """Return what they hold; the last line of each may be torn.

        Raises:
            FileNotFoundError: one has been merged with others since it was listed.
        """

    def snapshot(self) -> bytes | None: ...

    def holder(self) -> Holder | None:
        """Who holds the place now."""

    def lock(self) -> None:
        """Hold the place until ``release``, or until this process dies.

        Raises:
            SweepError: another process holds it.
            StorageError: the place cannot be written.
        """

    def begin(self) -> list[Segment]:
        """Begin a new segment, for the holder; return those before it, which stay as they are."""

    def append(self, line: bytes) -> None:
        """Add a line to the segment; it is safe when this returns, and not there at all when this raises."""

    def write_snapshot(self, data: bytes) -> None: ...

    def release(self) -> None: ...


def refusal(place: object, holder: Holder | None, hint: str = "wait for it or end it") -> SweepError:
    who = f": {holder}" if holder else ""
    return SweepError(f"another process is at work on the sweep in {place}{who}; {hint}")


class Directory:
    """``NNNN.jsonl``, appended to and synced; a lock of the kernel's, which goes when its process goes."""

    def __init__(self, place: Path) -> None:
        self.place, self.root = place, place / "journal"
        self._lock = self._file = -1
        self._size = 0

    def segments(self) -> list[Segment]:
        return [Segment(path.name, path.stat().st_size) for path in self._paths()]

    def _paths(self) -> list[Path]:
        return sorted(self.root.glob("*.jsonl"), key=lambda path: int(path.stem))

    def read(self, segments: Sequence[Segment]) -> Iterator[bytes]:
        return ((self.root / segment.name).read_bytes() for segment in segments)

    def snapshot(self) -> bytes | None:
        try:
            return (self.root / "snapshot.json").read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def holder(self) -> Holder | None:
        try:
            with (self.root / "lock").open("rb") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return Holder(**json.loads(lock.read()))
        except (FileNotFoundError, NotADirectoryError):
            pass
        return None

    def lock(self) -> None:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT, 0o644)
            self._flock()
            # Of one length: no reader sees a half of it, or the rest of a longer one.
            os.pwrite(self._lock, json.dumps(asdict(Holder.here())).encode().ljust(512), 0)
        except OSError as error:
            raise self._unwritable(error) from error

    def _flock(self) -> None:
        for left in reversed(range(_TRIES)):
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if not left:
                    raise refusal(self.place, self.holder()) from None
            time.sleep(_TRY_SECONDS)  # a reader who asks for the holder holds it for a moment

    def begin(self) -> list[Segment]:
        earlier = self.segments()
        number = int(Path(earlier[-1].name).stem) + 1 if earlier else 0
        self._close()
        segment = self.root / f"{number:04d}.jsonl"
        try:
            self._file = os.open(segment, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o644)
            self._size = 0
            self._sync_names()
        except OSError as error:
            raise self._unwritable(error) from error
        return earlier

    def append(self, line: bytes) -> None:
        rest = line
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
            os.fsync(self._file)
        except OSError as error:
            with suppress(OSError):  # the half that was written would spoil what comes after it
                os.ftruncate(self._file, self._size)
            raise self._unwritable(error) from error
        self._size += len(line)

    def write_snapshot(self, data: bytes) -> None:
        aside = self.root / "snapshot.json.tmp"
        try:
            aside.write_bytes(data)
            os.replace(aside, self.root / "snapshot.json")
        except OSError as error:
            raise self._unwritable(error) from error

    def release(self) -> None:
        self._close()
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = -1

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def _sync_names(self) -> None:
        directory = os.open(self.root, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _unwritable(self, error: OSError) -> StorageError:
        return StorageError(f"the journal in {self.root} cannot be written: {error.strerror}")


def open_store(place: str | Path) -> Store:
    """Return the store of the sweep in a directory, or at a bucket's address (``s3://...``, ``gs://...``).

    Raises:
        ConfigError: the package that knows such addresses is not installed.
    """
    if "://" not in str(place):
        return Directory(Path(place))
    from rayconvai.sweep.bucket import Bucket  # fsspec and a cloud's client, which nobody else pays for

    return Bucket(str(place))
