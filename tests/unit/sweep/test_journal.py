"""The journal: what is written is what is read, also after a torn line."""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from unittest.mock import ANY

import pytest

from rayconvai.errors import StorageError, SweepError
from rayconvai.sweep.journal import Journal, iter_records, read_journal
from rayconvai.sweep.state import SweepState
from rayconvai.sweep.store import Holder, open_store

SPEC = {"name": "demo", "metric": {"name": "val_loss", "mode": "min"}}


def write_some(directory: Path) -> None:
    with Journal(directory) as journal:
        journal.open({"recipe": "r"}, SPEC)
        journal.append("point", trial=0, group=0, repeat=0, point={"lr": 0.1}, overrides=["lr=0.1"], notes={"n": 1})
        journal.append("attempt", trial=0, attempt=1)
        for epoch, value in enumerate([0.9, 0.4, None, 0.6], start=1):
            metrics = {"val_loss": value, "other": 1.0}
            journal.append("result", trial=0, attempt=1, epoch=epoch, metrics=metrics, cost={"wall": epoch})
        journal.append("end", trial=0, status="stopped", reason="")
        journal.append("point", trial=1, group=1, repeat=0, point={"lr": "ü"}, overrides=["lr=ü"], notes={})
        journal.append("attempt", trial=1, attempt=1)


def write_many(place: Path | str, results: int) -> SweepState:
    with Journal(place) as journal:
        journal.open({"recipe": "r"}, SPEC)
        point = {"trial": len(journal.state.trials), "group": 0, "repeat": 0, "point": {}, "overrides": [], "notes": {}}
        journal.append("point", **point)
        for epoch in range(1, results + 1):
            metrics = {"val_loss": None if epoch == 2 else 1 / epoch}
            journal.append(
                "result", trial=point["trial"], attempt=1, epoch=epoch, metrics=metrics, cost={"wall": epoch}
            )
    return journal.state


def segments(directory: Path) -> list[Path]:
    return sorted((directory / "journal").glob("*.jsonl"))


def test_reads_what_was_written(tmp_path: Path) -> None:
    write_some(tmp_path)
    state = read_journal(tmp_path)
    assert state.identity == {"recipe": "r"}
    assert (state.trials[0].status, state.trials[0].notes) == ("stopped", {"n": 1})
    assert state.trials[0].last == {"val_loss": 0.6, "other": 1.0}
    assert (state.trials[1].status, state.trials[1].point) == ("running", {"lr": "ü"})
    results = [record["metrics"]["val_loss"] for record in iter_records(tmp_path) if record["kind"] == "result"]
    assert results == [0.9, 0.4, None, 0.6]


def test_the_writer_knows_what_a_reader_reads(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.open({}, SPEC)
        journal.append("point", trial=0, group=0, repeat=0, point={"sizes": (1, 2)}, overrides=[], notes={})
        assert journal.state == read_journal(tmp_path)


def test_format_1_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    (tmp_path / "journal" / "0000.jsonl").write_text(
        '{"kind": "sweep", "time": 1, "version": 1, "identity": {}, "spec": {"metric": {"name": "val_loss"}}}\n'
        '{"kind": "point", "time": 2, "trial": 3, "point": {"lr": 1}, "overrides": ["lr=1"]}\n'
        '{"kind": "attempt", "time": 2, "trial": 3, "attempt": 1}\n'
        '{"kind": "result", "time": 9, "trial": 3, "epoch": 1, "metrics": {"val_loss": 4}, "seconds": 7}\n'
    )
    trial = read_journal(tmp_path).trials[3]
    assert (trial.group, trial.repeat, trial.cost.wall, trial.best("val_loss", "min")) == (3, 0, 7, (4, 1))


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_torn_last_line_is_left_out(tmp_path: Path, cut: int) -> None:
    write_some(tmp_path)
    (segment,) = segments(tmp_path)
    whole = segment.read_bytes()
    segment.write_bytes(whole[:-cut])
    assert read_journal(tmp_path).trials[1].status == "waiting"
    with Journal(tmp_path) as journal:  # the next session writes behind it
        journal.open({"recipe": "r"}, {})
        journal.append("attempt", trial=1, attempt=1)
    assert read_journal(tmp_path).trials[1].status == "running"
    assert len(segments(tmp_path)) == 2


def test_every_cut_can_be_read(tmp_path: Path) -> None:
    write_some(tmp_path)
    (segment,) = segments(tmp_path)
    whole = segment.read_bytes()
    inside = whole.index("ü".encode()) + 1  # half a character
    for size in (*range(0, len(whole), 17), inside):
        segment.write_bytes(whole[:size])
        read_journal(tmp_path)


def test_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    write_some(tmp_path)
    (segment,) = segments(tmp_path)
    lines = segment.read_text().splitlines()
    newer = json.loads(lines[0]) | {"version": 99}
    segment.write_text("\n".join([json.dumps(newer), *lines[1:]]) + "\n")
    with pytest.raises(SweepError, match=r"0000.jsonl:1: written in format 99"):
        read_journal(tmp_path)
    segment.write_text("\n".join([*lines[:2], "{garbage", *lines[2:]]) + "\n")
    with pytest.raises(SweepError, match=r"0000.jsonl:3: not JSON"):
        read_journal(tmp_path)


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with Journal(tmp_path):
        assert open_store(tmp_path).holder() == Holder(socket.gethostname(), os.getpid(), ANY)
        with pytest.raises(
            SweepError, match=rf"at work on the sweep in {tmp_path}: process {os.getpid()} on .*, since"
        ):
            Journal(tmp_path)
    assert open_store(tmp_path).holder() is None
    Journal(tmp_path).close()


def test_an_empty_directory_is_an_empty_sweep(tmp_path: Path) -> None:
    assert read_journal(tmp_path).trials == {}


def test_segments_end_and_a_snapshot_covers_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayconvai.sweep.journal.SEGMENT", 5)
    state = write_many(tmp_path, results=12)
    assert [len(segment.read_bytes().splitlines()) for segment in segments(tmp_path)] == [5, 5, 4]
    covered = segments(tmp_path)[0]
    covered.write_bytes(covered.read_bytes().replace(b"[]", b"{}"))  # nobody reads it again
    assert read_journal(tmp_path) == state
    assert write_many(tmp_path, results=1).trials[0] == state.trials[0]


def test_a_snapshot_holds_all_that_a_state_knows(tmp_path: Path) -> None:
    write_some(tmp_path)
    with Journal(tmp_path) as journal:
        journal.open({"recipe": "r"}, SPEC)
        journal.append("warm", source="runs/other", trial=3, point={"lr": 1}, values={"val_loss": 2.0})
        journal.append("pause", trial=1, epoch=2)
        journal.append("exploit", trial=1, epoch=2, donor=0, point={"lr": 3}, overrides=["lr=3"])
        journal.append("attempt", trial=1, attempt=2)
        journal.append("lost", trial=1, attempt=2, reason="died", cost={"wall": 3, "seen": {"tokens": 5}})
    with Journal(tmp_path) as journal:
        journal.open({"recipe": "r"}, SPEC)
        state = journal.state
    snapshot = tmp_path / "journal" / "snapshot.json"
    assert read_journal(tmp_path) == state
    snapshot.unlink()
    assert read_journal(tmp_path) == state


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: data[:-9], id="torn"),
        pytest.param(lambda data: data.replace(b'"wall": 3', b'"wall": 4'), id="flipped"),
        pytest.param(lambda data: data.replace(b'"format": [1', b'"format": [0'), id="other_format"),
        pytest.param(lambda data: data.replace(b'["0000.jsonl", ', b'["0000.jsonl", 1'), id="other_segments"),
    ],
)
def test_a_bad_snapshot_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[bytes], bytes]
) -> None:
    monkeypatch.setattr("rayconvai.sweep.journal.SEGMENT", 5)
    state = write_many(tmp_path, results=6)
    snapshot = tmp_path / "journal" / "snapshot.json"
    spoiled = spoil(snapshot.read_bytes())
    assert spoiled != snapshot.read_bytes()
    snapshot.write_bytes(spoiled)
    assert read_journal(tmp_path) == state


def test_a_full_disk_leaves_no_half_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_some(tmp_path)
    write = os.write

    def full(file: int, data: bytes) -> int:
        if len(data) < 10:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data[:-5])

    with Journal(tmp_path) as journal:
        journal.open({}, SPEC)
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            with pytest.raises(StorageError, match="No space left"):
                journal.append("attempt", trial=1, attempt=2)
        journal.append("attempt", trial=1, attempt=3)
    assert read_journal(tmp_path).trials[1].attempts == 3
