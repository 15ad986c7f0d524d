"""A journal in a bucket: objects that are made once and never changed, and a lease that its holder renews.

``journal/FIRST-LAST.jsonl`` holds the records numbered FIRST to LAST. Each append makes an object of one record. Runs
of small objects are merged into one, and deleted when that one is there: who finds both reads the merged one, so a
crash in between loses and doubles nothing. Making an object fails if there is one of that name: even a driver that has
lost its lease without knowing cannot write over another's record.
"""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import chain

from rayconvai.errors import StorageError, SweepError
from rayconvai.places import open_address, patiently, words
from rayconvai.sweep.store import Holder, Segment, refusal

RENEW_SECONDS = 15.0
EXPIRE_SECONDS = 60.0
AWAY_SECONDS = 300.0
"""How long its holder waits for a bucket that is away."""
MERGE = 500
"""So many objects of one record become one."""
SEALED = 20_000
"""An object of so many records, and all before it, are merged no more."""


@dataclass(frozen=True)
class _Lease:
    holder: Holder
    token: str
    renewed: float

    @property
    def left(self) -> float:
        """The seconds that it still holds; none if its process is seen to be dead."""
        if self.holder.host == socket.gethostname() and not _is_alive(self.holder.pid):
            return 0
        return self.renewed + EXPIRE_SECONDS - time.time()


class Bucket:
    """A store at an address that fsspec knows."""

    def __init__(self, url: str) -> None:
        self.place = url.rstrip("/")
        self.fs, root = open_address(self.place)
        self.root = f"{root}/journal"
        self._token = uuid.uuid4().hex
        self._holder = Holder.here()
        self._renewed = self._patience = 0.0
        self._lost: SweepError | None = None
        self._released = threading.Event()
        self._next = 0
        self._loose: list[bytes] = []

    def segments(self) -> list[Segment]:
        needed, _ = self._listed()
        return needed

    def _listed(self) -> tuple[list[Segment], list[Segment]]:
        """Return the segments in order, and those that were merged into them."""
        with self._said("read"):
            try:
                entries = self.fs.ls(self.root, detail=True)
            except FileNotFoundError:
                return [], []
        found = [Segment(entry["name"].rpartition("/")[2], entry["size"]) for entry in entries]
        needed, merged, next_record = [], [], 0
        for segment in sorted((s for s in found if _RANGE.fullmatch(s.name)), key=lambda s: (_first(s), -_last(s))):
            if _last(segment) < next_record:
                merged.append(segment)
                continue
            if _first(segment) != next_record:
                raise FileNotFoundError(f"record {next_record} of the journal in {self.place}")
            needed.append(segment)
            next_record = _last(segment) + 1
        return needed, merged

    def read(self, segments: Sequence[Segment]) -> Iterator[bytes]:
        tail = _tail(segments)
        with self._said("read"):
            small = self.fs.cat([self._path(segment.name) for segment in tail]) if tail else {}
        large = (self._get(segment.name) for segment in segments[: len(segments) - len(tail)])
        return chain(large, (small[self._path(segment.name)] for segment in tail))

    def snapshot(self) -> bytes | None:
        return self._find("snapshot.json")

    def holder(self) -> Holder | None:
        lease = self._lease()
        return lease.holder if lease and lease.left > 0 else None

    def lock(self) -> None:
        lease = self._lease()
        if lease and lease.left > 0:
            raise refusal(
                self.place, lease.holder, f"wait for it or end it; if it is dead, come back in {lease.left:.0f} s"
            )
        self._write_lease()
        self._patience = AWAY_SECONDS
        threading.Thread(target=self._keep_lease, name="lease", daemon=True).start()

    def begin(self) -> list[Segment]:
        segments, merged = self._listed()
        self._remove([segment.name for segment in merged])
        tail = _tail(segments)
        if len(tail) > 1:
            self._merge(_first(tail[0]), _last(tail[-1]), b"".join(self.read(tail)), [segment.name for segment in tail])
            segments = self.segments()
        self._next = _last(segments[-1]) + 1 if segments else 0
        self._loose = []
        return segments

    def append(self, line: bytes) -> None:
        self._check_lease()
        self._make(_name(self._next, self._next), line)
        self._loose.append(line)
        self._next += 1
        if len(self._loose) == MERGE:
            first = self._next - MERGE
            names = [_name(number, number) for number in range(first, self._next)]
            self._merge(first, self._next - 1, b"".join(self._loose), names)
            self._loose = []

    def write_snapshot(self, data: bytes) -> None:
        self._put("snapshot.json", data)

    def release(self) -> None:
        self._released.set()
        self._patience = 0.0
        lease = self._lease()
        if lease and lease.token == self._token:
            self._remove(["lease.json"])

    def _merge(self, first: int, last: int, data: bytes, names: Sequence[str]) -> None:
        self._make(_name(first, last), data)
        self._remove(names)

    def _make(self, name: str, data: bytes) -> None:
        """Make an object that must not be there yet."""

        def make() -> None:
            try:
                self.fs.pipe_file(self._path(name), data, mode="create")
            except Exception as error:
                there = self._find(name)
                if there is None:
                    raise
                if there != data:  # else a request that was sent twice
                    raise refusal(self.place, None, "it has written where this one would have") from error

        try:
            patiently(make, self._patience)
        except (SweepError, StorageError):
            raise
        except Exception as error:
            raise StorageError(f"the journal in {self.place} cannot be written: {words(error)}") from error

    def _put(self, name: str, data: bytes) -> None:
        with self._said("written"):
            self.fs.pipe_file(self._path(name), data)

    def _get(self, name: str) -> bytes:
        with self._said("read"):
            data: bytes = patiently(lambda: self.fs.cat_file(self._path(name)), self._patience)
        return data

    def _find(self, name: str) -> bytes | None:
        try:
            return self._get(name)
        except FileNotFoundError:
            return None

    def _remove(self, names: Sequence[str]) -> None:
        with suppress(Exception):  # what is left over is passed over, and removed by the next session
            self.fs.rm([self._path(name) for name in names])

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"

    @contextmanager
    def _said(self, done: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if done == "read" and isinstance(error, FileNotFoundError):
                raise
            raise StorageError(f"the journal in {self.place} cannot be {done}: {words(error)}") from error

    def _lease(self) -> _Lease | None:
        data = self._find("lease.json")
        if data is None:
            return None
        fields = json.loads(data)
        return _Lease(Holder(**fields.pop("holder")), **fields)

    def _write_lease(self) -> None:
        began = time.monotonic()
        lease = _Lease(self._holder, self._token, time.time())
        self._put("lease.json", json.dumps(asdict(lease)).encode())
        self._renewed = began

    def _renew(self) -> None:
        lease = self._lease()
        if lease is not None and lease.token != self._token:
            self._lost = refusal(self.place, lease.holder, "this one was not heard of for too long and has lost it")
            return
        self._write_lease()

    def _keep_lease(self) -> None:
        while not self._released.wait(RENEW_SECONDS) and self._lost is None:
            with suppress(StorageError):  # a network that comes back in time does no harm
                self._renew()

    def _check_lease(self) -> None:
        """See that nobody else can have taken over before a record is written."""
        if time.monotonic() - self._renewed > EXPIRE_SECONDS:
            self._renew()
        if self._lost is not None:
            raise self._lost


_RANGE = re.compile(r"(\d{10})-(\d{10})\.jsonl")


def _name(first: int, last: int) -> str:
    return f"{first:010d}-{last:010d}.jsonl"


def _first(segment: Segment) -> int:
    return int(segment.name[:10])


def _last(segment: Segment) -> int:
    return int(segment.name[11:21])


def _tail(segments: Sequence[Segment]) -> Sequence[Segment]:
    """Return the segments at the end that may still be merged."""
    start = len(segments)
    while start and _last(segments[start - 1]) - _first(segments[start - 1]) + 1 < SEALED:
        start -= 1
    return segments[start:]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
