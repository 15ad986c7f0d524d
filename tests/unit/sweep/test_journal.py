"""The journal: what is written is what is read, also after a torn line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rayconvai.errors import SweepError
from rayconvai.sweep.journal import Journal, finite, read_journal


def write_some(directory: Path) -> None:
    with Journal(directory) as journal:
        journal.open({"recipe": "r"}, {"name": "demo"})
        journal.append("point", trial=0, point={"lr": 0.1}, overrides=["lr=0.1"])
        journal.append("attempt", trial=0, attempt=1)
        for epoch, value in enumerate([0.9, 0.4, float("nan"), 0.6], start=1):
            journal.append(
                "result", trial=0, attempt=1, epoch=epoch, metrics=finite({"val_loss": value}), seconds=epoch
            )
        journal.append("end", trial=0, status="stopped", reason="")
        journal.append("point", trial=1, point={"lr": 0.2}, overrides=["lr=0.2"])
        journal.append("attempt", trial=1, attempt=1)


def segments(directory: Path) -> list[Path]:
    return sorted((directory / "journal").glob("*.jsonl"))


def test_reads_what_was_written(tmp_path: Path) -> None:
    write_some(tmp_path)
    state = read_journal(tmp_path)
    assert state.identity == {"recipe": "r"}
    assert state.trials[0].status == "stopped"
    assert state.trials[0].best("val_loss", "min") == (0.4, 2)
    assert state.trials[0].best("val_loss", "max") == (0.9, 1)
    assert state.trials[0].history[3] == {"val_loss": None}
    assert (state.trials[1].status, state.trials[1].point) == ("running", {"lr": 0.2})
    assert [trial.number for trial in state.ranked("val_loss", "min")] == [0, 1]


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
    for size in range(0, len(whole), 17):
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
    with Journal(tmp_path), pytest.raises(SweepError, match="another process is at work"):
        Journal(tmp_path)
    Journal(tmp_path).close()


def test_an_empty_directory_is_an_empty_sweep(tmp_path: Path) -> None:
    assert read_journal(tmp_path).trials == {}
