"""A journal in a bucket: objects that never change, merged without loss, under a lease that ends by itself."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from rayconvai.errors import StorageError, SweepError
from rayconvai.sweep import bucket
from rayconvai.sweep.journal import Journal, iter_records, read_journal
from rayconvai.sweep.state import SweepState

URL = "memory://bucket/runs/demo"
OBJECTS = "/bucket/runs/demo/journal"


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> MemoryFileSystem:
    monkeypatch.setattr(bucket, "MERGE", 4)
    monkeypatch.setattr(bucket, "SEALED", 10)
    monkeypatch.setattr("rayconvai.sweep.journal.SEGMENT", 10)
    monkeypatch.setattr(MemoryFileSystem, "store", {})
    return MemoryFileSystem()


def session(points: int, start: int = 0) -> SweepState:
    with Journal(URL) as journal:
        journal.open({}, {"metric": {"name": "loss", "mode": "min"}})
        for number in range(start, start + points):
            journal.append("point", trial=number, group=number, repeat=0, point={"x": 1}, overrides=[], notes={})
    return journal.state


def objects(memory: MemoryFileSystem) -> list[str]:
    names = (path.rpartition("/")[2] for path in memory.find(OBJECTS))
    return [f"{int(name[:10])}-{int(name[11:21])}" for name in sorted(names) if name.endswith("jsonl")]


def put_lease(memory: MemoryFileSystem, host: str, pid: int, renewed: float) -> None:
    lease = {"holder": {"host": host, "pid": pid, "since": renewed}, "token": "another", "renewed": renewed}
    memory.pipe_file(f"{OBJECTS}/lease.json", json.dumps(lease).encode())


def test_small_objects_are_merged(memory: MemoryFileSystem) -> None:
    session(points=5)
    assert objects(memory) == ["0-3", "4-4", "5-5"]
    assert read_journal(URL).trials == session(points=0).trials
    assert objects(memory) == ["0-5", "6-6"]
    state = session(points=14, start=5)
    assert objects(memory) == ["0-16", "17-20", "21-21"]
    assert read_journal(URL) == state
    memory.rm_file(f"{OBJECTS}/snapshot.json")
    assert read_journal(URL) == state
    assert [record["kind"] for record in iter_records(URL)].count("point") == 19


def test_a_merge_that_a_crash_cut_short_neither_loses_nor_doubles(
    memory: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(bucket.Bucket, "_remove", lambda *_: None)
        state = session(points=4)
    assert objects(memory) == ["0-0", "0-3", "1-1", "2-2", "3-3", "4-4"]
    assert read_journal(URL) == state
    memory.rm_file(f"{OBJECTS}/lease.json")
    session(points=0)
    assert objects(memory) == ["0-4", "5-5"]


def test_a_reader_lists_again_what_was_merged_meanwhile(
    memory: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    session(points=5)
    cat = MemoryFileSystem.cat

    def merged_meanwhile(self: MemoryFileSystem, *arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(MemoryFileSystem, "cat", cat)
        session(points=0)
        return cat(self, *arguments, **options)

    monkeypatch.setattr(MemoryFileSystem, "cat", merged_meanwhile)
    assert len(read_journal(URL).trials) == 5


def test_a_record_that_is_missing_is_said(memory: MemoryFileSystem) -> None:
    session(points=5)
    memory.rm_file(f"{OBJECTS}/0000000004-0000000004.jsonl")
    with pytest.raises(SweepError, match=f"a part of the journal is missing: record 4 of the journal in {URL}"):
        read_journal(URL)


def test_a_second_driver_is_refused_until_the_lease_ends(memory: MemoryFileSystem) -> None:
    put_lease(memory, "elsewhere", 12, time.time())
    with pytest.raises(SweepError, match=r"process 12 on elsewhere, since .*; if it is dead, come back in (60|59) s"):
        Journal(URL)
    put_lease(memory, "elsewhere", 12, time.time() - 61)
    session(points=1)
    assert not memory.exists(f"{OBJECTS}/lease.json")


def test_a_process_of_this_host_that_is_dead_holds_nothing(memory: MemoryFileSystem) -> None:
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    put_lease(memory, socket.gethostname(), child, time.time())
    session(points=1)


def test_who_lost_the_lease_writes_no_more(memory: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    with Journal(URL) as journal:
        journal.open({}, {})
        put_lease(memory, "elsewhere", 12, time.time())
        monkeypatch.setattr(bucket, "EXPIRE_SECONDS", 0.0)  # it slept for longer than that
        with pytest.raises(SweepError, match=r"process 12 on elsewhere, .* and has lost it"):
            journal.append("close", reason="done")
    assert memory.exists(f"{OBJECTS}/lease.json")


def test_no_object_is_written_over(memory: MemoryFileSystem) -> None:
    with Journal(URL) as journal:
        journal.open({}, {})
        memory.pipe_file(f"{OBJECTS}/0000000001-0000000001.jsonl", b"another's\n")
        with pytest.raises(SweepError, match="it has written where this one would have"):
            journal.append("close", reason="done")


def test_the_lease_is_renewed(memory: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket, "RENEW_SECONDS", 0.01)
    written: list[bytes] = []
    monkeypatch.setattr(bucket.Bucket, "_put", lambda self, name, data: written.append(data))
    with Journal(URL):
        while len(written) < 3:
            time.sleep(0.001)
    renewed = [json.loads(data)["renewed"] for data in written]
    assert renewed == sorted(renewed)


def test_what_the_cloud_says_is_one_line(memory: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("403\nForbidden")

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", refuse)
    with pytest.raises(StorageError, match=f"the journal in {URL} cannot be written: 403 Forbidden"):
        Journal(URL)
    with pytest.raises(StorageError, match="nowhere://x: Protocol not known"):
        read_journal("nowhere://x")
    assert read_journal(f"file://{Path(__file__).parent}/none").trials == {}
