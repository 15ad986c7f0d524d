"""The journal of a sweep: the append-only record that is the truth about it.

One JSON object a line, in segments: ``<sweep>/journal/NNNN.jsonl`` in a directory, for buckets see bucket.py. The
driver alone writes, and each record is safe before it goes on. It begins a segment when it starts, and after each
20,000 records. A line that is torn (the last of a segment: the driver was killed while it wrote) is left out.
``snapshot.json`` is the state that the segments before the current one add up to: a cache, which may be deleted.

Every record has ``kind`` and ``time`` (seconds since 1970). Format 2:

========  =====================================================================================================
kind      fields
========  =====================================================================================================
sweep     ``version``, ``identity`` (all that makes two sweeps the same: recipe, overrides, space, metric, search,
          scheduler), ``spec`` (the whole file as it was read), ``command``. A session begins with it.
warm      ``source`` (a sweep's directory), ``trial``, ``point``, ``values`` (metric -> number): a result of
          another sweep that the searcher was told
point     ``trial`` (number), ``group`` and ``repeat`` (number = group * repeats + repeat), ``point`` (space key ->
          value), ``overrides`` (the point as Hydra overrides), ``notes`` (the searcher's own)
attempt   ``trial``, ``attempt`` (from 1): a process begins to work on the trial
result    ``trial``, ``attempt``, ``epoch`` (from 1), ``metrics`` (name -> number or null), ``cost``; newer ones
          have ``step`` (the last of the epoch, from 0) and, where it is not that of the trial's result before,
          ``node`` (the host) and ``parameters`` (how many the model has). One per trial and epoch: what an attempt
          repeats of an earlier one is left out.
pause     ``trial``, ``epoch``, maybe ``cost``: it waits there for others
release   ``trial``: it may go on
exploit   ``trial``, ``epoch``, ``donor``, ``point``, ``overrides``: it goes on from the checkpoint that trial
          ``donor`` has of that epoch, with a new point
lost      ``trial``, ``attempt``, ``reason``, maybe ``cost``: the process or its machine died; the trial will be tried
          again
end       ``trial``, ``status`` (finished, stopped: by the scheduler or the budget, infeasible, failed), ``reason``,
          maybe ``cost`` and ``parameters``
reopen    ``trial``: it goes on, as the budget of epochs has grown or the whole sweep had failed. Before the
          ``sweep`` of its session
close     ``reason``: why the driver went (done, interrupted, failed, or budget.KEY that was used up)
========  =====================================================================================================

``cost`` is what the attempt took since it began: ``wall``, ``cpu`` and ``gpu`` seconds; ``memory`` and ``gpu_memory``,
the most bytes at once; ``seen``, name -> amount (``audio_seconds``). Format 1 had no groups, notes or costs: a result
had ``seconds``.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from typing_extensions import Self

from rayconvai.errors import StorageError, SweepError
from rayconvai.sweep import snapshot
from rayconvai.sweep.state import SweepState
from rayconvai.sweep.store import Segment, Store, open_store

VERSION = 2
SEGMENT = 20_000
"""Records of a segment."""
_CHUNK = 1000
"""Lines that are parsed at once: faster than one by one."""
_RETRIES = 5
T = TypeVar("T")


class Journal:
    """The writing end. One at a time: a second driver of the same sweep is refused.

    Raises:
        SweepError: another driver is at work on this sweep.
        StorageError: the place cannot be written.
    """

    def __init__(self, place: Path | str) -> None:
        self.place = place
        self.store = open_store(place)
        self.store.lock()
        try:
            self.state = load(self.store)
        except BaseException:
            self.store.release()
            raise
        self._room = 0

    def part(self) -> tuple[str, bytes]:
        """Return where a part of it is, and what that holds: who finds it there has the same place."""
        segment = self.store.segments()[-1]
        return f"{self.place}/journal/{segment.name}", next(iter(self.store.read([segment])))

    def open(self, identity: dict[str, Any], spec: dict[str, Any]) -> None:
        """Say what this session is for."""
        self.append("sweep", version=VERSION, identity=identity, spec=spec, command=sys.argv)

    def append(self, kind: str, **fields: Any) -> None:
        """Write one record; it is safe when this returns.

        Raises:
            StorageError: the disk is full or gone.
            SweepError: another driver has taken over this sweep in a bucket.
        """
        if not self._room:
            self._begin()
        record = {"kind": kind, "time": round(time.time(), 3), **fields}
        line = json.dumps(record, allow_nan=False, ensure_ascii=False)
        self.store.append(line.encode() + b"\n")
        self._room -= 1
        self.state.apply(json.loads(line))  # as it will be read

    def _begin(self) -> None:
        earlier = self.store.begin()
        self._room = SEGMENT
        if earlier:
            with suppress(StorageError):  # a disk that is full is found out by the next record
                self.store.write_snapshot(snapshot.take(self.state, earlier))

    def close(self) -> None:
        self.store.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_journal(place: Path | str) -> SweepState:
    """Read the state of the sweep in a directory or bucket; an empty state if there is none.

    Raises:
        SweepError: written by a newer version, or damaged elsewhere than at a torn end; with file and line.
        StorageError: it cannot be read.
    """
    return load(open_store(place))


def iter_records(place: Path | str) -> Iterator[dict[str, Any]]:
    """Read all records, one after the other.

    Raises:
        SweepError: as for ``read_journal``.
        StorageError: it cannot be read.
    """
    store = open_store(place)

    def contents() -> tuple[list[Segment], Iterator[bytes]]:
        segments = store.segments()
        return segments, store.read(segments)

    for _, _, record in _records(store, *_settled(contents)):
        yield record


def load(store: Store) -> SweepState:
    """Read the state of the sweep in a store, as ``read_journal`` does."""

    def contents() -> tuple[SweepState, Sequence[Segment], Iterator[bytes]]:
        data = store.snapshot()  # before the list, which may only have become longer
        segments = store.segments()
        state, covered = snapshot.restore(data, segments)
        return state, segments[covered:], store.read(segments[covered:])

    state, segments, texts = _settled(contents)
    for name, number, record in _records(store, segments, texts):
        try:
            state.apply(record)
        except (KeyError, TypeError) as error:
            raise SweepError(f"{name}:{number}: not a record of a journal: {error}") from error
    return state


def _settled(contents: Callable[[], T]) -> T:
    """List segments and open them again where a driver has merged some in between."""
    for left in reversed(range(_RETRIES)):
        try:
            return contents()
        except FileNotFoundError as error:
            if not left:
                raise SweepError(f"a part of the journal is missing: {error}") from error
    raise AssertionError


def _records(
    store: Store, segments: Sequence[Segment], texts: Iterator[bytes]
) -> Iterator[tuple[str, int, dict[str, Any]]]:
    for segment, text in zip(segments, texts, strict=True):
        name = f"{store.place}/journal/{segment.name}"
        lines = text.split(b"\n")
        lines.pop()  # nothing, or what is torn
        for start in range(0, len(lines), _CHUNK):
            for number, record in enumerate(_parse(lines[start : start + _CHUNK], name, start + 1), start + 1):
                if type(record) is not dict or "kind" not in record:
                    raise SweepError(f"{name}:{number}: not a record of a journal")
                if record["kind"] == "sweep" and record["version"] > VERSION:
                    raise SweepError(
                        f"{name}:{number}: written in format {record['version']}, this rayconvai knows {VERSION}; "
                        "update rayconvai"
                    )
                yield name, number, record


def _parse(lines: list[bytes], name: str, first: int) -> list[dict[str, Any]]:
    try:
        records: list[dict[str, Any]] = json.loads(b"[" + b",".join(lines) + b"]")
        if len(records) == len(lines):
            return records
    except ValueError:
        pass
    for number, line in enumerate(lines, first):
        try:
            json.loads(line)
        except ValueError as error:
            raise SweepError(f"{name}:{number}: not JSON; the journal is damaged") from error
    raise AssertionError
