"""A sweep whose trials have several workers loses nothing either."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import Place, differences, faults, kill, outcome

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SWEEP = ["search.name=optuna", "scheduler.name=asha", "scheduler.reduction=2"]


def test_trials_of_several_workers(tmp_path: Path) -> None:
    workers = [*SWEEP, "budget.trials=1", "resources.workers=2"]
    calm = Place(tmp_path / "calm", *workers)
    assert calm.run() == 0, calm.output
    assert faults(calm, 1) == []
    place = Place(tmp_path / "place", *workers, pause=0.2)
    with place.started() as session:
        assert session.wait_for("result", trial=0, epoch=1)
        assert session.kill_trial()  # its workers' places must be given back: there are no others
        assert session.wait_for("lost", trial=0)
        assert session.wait_for("result", trial=0, epoch=3)
        assert kill(session.processes(r"^ray::RayTrainWorker")[:1])
        assert session.wait_for("lost", trial=0)
        assert session.end() == 0, place.output
    assert faults(place, 1) == []
    assert differences(place, outcome(calm)) == []
