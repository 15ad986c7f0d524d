"""Which checkpoints of a sweep stay: made of a journal and of files that only look like checkpoints."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from rayconvai.sweep.journal import Journal
from rayconvai.sweep.retention import Retention
from rayconvai.sweep.spec import CheckpointsSpec, MetricSpec, SweepSpec

NAMES = ("run--val_loss-epoch=0-step=1.ckpt", "run--val_loss-epoch=0-step=1.ckpt.json", "run--epoch=1-step=1-last.ckpt")
BYTES = 1000
"""Of a trial."""


class Field:
    def __init__(self, directory: Path, repeats: int = 1, **checkpoints: Any) -> None:
        self.directory = directory
        self.spec = SweepSpec(
            name="demo",
            recipe="none",
            space={"x": 1},
            metric=MetricSpec(),
            repeats=repeats,
            checkpoints=CheckpointsSpec(**checkpoints),
        )
        self.journal = Journal(directory)
        self.journal.open({}, dataclasses.asdict(self.spec))
        self.retention = Retention(directory, self.journal.state, self.spec)

    def begin(self, number: int, value: float | None) -> None:
        group, repeat = divmod(number, self.spec.repeats)
        self.journal.append("point", trial=number, group=group, repeat=repeat, point={}, overrides=[])
        self.journal.append("attempt", trial=number, attempt=1)
        if value is not None:
            metrics = {"val_loss": value}
            self.journal.append("result", trial=number, attempt=1, epoch=1, metrics=metrics, cost={"wall": 1})
        self.files(number)

    def files(self, number: int) -> None:
        directory = self.checkpoints(number)
        directory.mkdir(parents=True, exist_ok=True)
        sizes = (BYTES // 2 - 10, 10, BYTES // 2)
        for name, size in zip(NAMES, sizes, strict=True):
            content = b"[]".ljust(size) if name.endswith("json") else bytes(size)
            (directory / name).write_bytes(content)

    def end(self, number: int, status: str = "finished") -> None:
        self.journal.append("end", trial=number, status=status, reason="")
        self.retention.ended(self.journal.state.trials[number])

    def run(self, *values: float | None, status: str = "finished") -> None:
        for value in values:
            number = len(self.journal.state.trials)
            self.begin(number, value)
            self.end(number, status)

    def checkpoints(self, number: int) -> Path:
        return self.directory / "trials" / f"t{number:04d}" / "checkpoints"

    @property
    def kept(self) -> list[int]:
        trials = self.journal.state.trials
        return [
            number for number in trials if self.checkpoints(number).exists() and any(self.checkpoints(number).iterdir())
        ]


def test_the_best_keep_theirs_and_whoever_is_at_work(tmp_path: Path) -> None:
    field = Field(tmp_path, keep=2)
    field.begin(0, 9.0)
    half_written = field.checkpoints(0) / ".run.ckpt.77.tmp"
    half_written.touch()
    field.run(0.5, 0.4, 0.6, None, 0.3)
    assert field.kept == [0, 2, 5]
    assert sorted(path.name for path in field.checkpoints(2).iterdir()) == sorted(NAMES)
    assert half_written.exists()
    field.end(0)
    assert field.kept == [2, 5]


@pytest.mark.parametrize("status", ["infeasible", "failed"])
def test_what_ended_badly_keeps_nothing(tmp_path: Path, status: str) -> None:
    field = Field(tmp_path)
    field.run(0.1, status=status)
    assert field.kept == []


def test_one_that_was_stopped_may_still_be_writing(tmp_path: Path) -> None:
    field = Field(tmp_path, keep=1)
    field.run(0.1)
    field.run(0.2, status="stopped")
    assert field.kept == [0, 1]
    field.retention.finish()
    assert field.kept == [0]


def test_what_was_written_after_the_end_goes_in_the_end(tmp_path: Path) -> None:
    field = Field(tmp_path, keep=1)
    field.run(0.1, 0.2)
    field.files(1)
    field.run(0.3)
    assert field.kept == [0, 1]
    field.retention.finish()
    assert field.kept == [0]


def test_a_point_is_judged_when_all_its_repeats_have_ended(tmp_path: Path) -> None:
    field = Field(tmp_path, repeats=2, keep=1)
    field.run(0.3, 0.3, 0.9)
    assert field.kept == [0, 1, 2]
    field.run(0.1)  # the mean is 0.5, though one of the two is the best of all
    assert field.kept == [0, 1]


def test_a_trial_that_goes_on_is_at_work_again(tmp_path: Path) -> None:
    field = Field(tmp_path, keep=1)
    field.run(0.2)
    field.journal.append("reopen", trial=0)
    field.run(0.1)
    assert field.kept == [0, 1]
    field.end(0)
    assert field.kept == [1]


def test_a_later_session_finds_what_an_earlier_one_left(tmp_path: Path) -> None:
    field = Field(tmp_path, keep=1)
    field.run(0.1, 0.2)
    field.files(1)
    field.retention = Retention(tmp_path, field.journal.state, field.spec)
    field.run(0.3)
    assert field.kept == [0]


def test_a_bound_in_gigabytes_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    field = Field(tmp_path, gigabytes=2.5 * BYTES / 1e9)
    field.run(0.2, 0.1, 0.3)
    assert field.kept == [0, 1]
    field.begin(3, 0.0)
    field.begin(4, 0.0)
    assert not caplog.records
    field.run(0.4)
    assert field.kept == [1, 3, 4]  # the best one's stay, however little room is left
    assert "more than checkpoints.gigabytes=2.5e-06" in caplog.text
    field.end(3)
    field.end(4)
    assert field.kept == [3, 4]


def test_what_cannot_be_deleted_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    field = Field(tmp_path, keep=1)
    field.run(0.1)
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(shutil, "rmtree", refuse)
        field.run(0.2, 0.3)
    assert "the checkpoints of t0001 cannot be deleted: Permission denied" in caplog.text
    assert len(caplog.records) == 2
    field.retention.finish()
    assert field.kept == [0]


def test_each_ended_trial_is_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(shutil, "rmtree", asked.append)
    field = Field(tmp_path, keep=3)
    field.run(*(1 / (1 + number) for number in range(30)))
    assert len(asked) == len(set(asked)) == 27
