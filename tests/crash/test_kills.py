"""Sweeps that are killed lose nothing: the same command again ends as a sweep does that was never killed."""

from __future__ import annotations

import random
import signal
from pathlib import Path
from typing import Any

import pytest
from harness import (
    Place,
    differences,
    faults,
    fill,
    flip,
    forget_tune,
    kill,
    newest_checkpoint,
    outcome,
    small_disk,
    tear,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SWEEP = ["search.name=optuna", "scheduler.name=asha", "scheduler.reduction=2"]
TRIALS = 3


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    place = Place(tmp_path_factory.mktemp("undisturbed"), *SWEEP)
    assert place.run() == 0, place.output
    assert faults(place, TRIALS) == []
    return outcome(place)


def test_killed_in_every_way(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    place, chance = Place(tmp_path / "place", *SWEEP), random.Random(0)
    with place.started() as first:
        assert first.wait_for("result", trial=0, epoch=2)
        assert first.kill_trial()
        assert first.wait_for("lost", trial=0)
        assert first.wait_for("result", trial=1, epoch=1)
        assert first.wait(lambda: newest_checkpoint(place))  # it is written in the background
        first.kill_driver()
        with place.started() as second:  # Ray has not gone yet
            assert second.wait_for("attempt", trial=1)
            second.kill_all()
    assert flip(place, chance) != "no checkpoint"
    with place.started() as third:
        assert third.wait_for("result")
        kill(third.processes(), signal.SIGINT)  # Ctrl-C goes to all of them
        assert third.end() == 130, place.output
    tear(place, chance)
    forget_tune(place, chance)
    assert place.run() == 0, place.output
    assert faults(place, TRIALS) == []
    assert differences(place, undisturbed) == []


def test_a_full_disk(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    with small_disk(tmp_path / "disk") as disk:
        if disk is None:
            pytest.skip("only root may make a small file system")
        place = Place(tmp_path / "place", *SWEEP, storage=disk)
        with place.started() as session:
            assert session.wait_for("result", trial=0, epoch=1)
            ballast = fill(disk)
            assert session.end() == 2, place.output
        assert "No space left on device" in place.output.splitlines()[-1]
        ballast.unlink()
        assert place.run() == 0, place.output
        assert faults(place, TRIALS) == []
        assert differences(place, undisturbed) == []
