"""Sweeps without Ray: their trials are run here, and their journals are written as a driver would."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from rayconvai.experiment.takeover import take_over
from rayconvai.sweep.domains import Point
from rayconvai.sweep.journal import Journal
from rayconvai.sweep.plan import trial_overrides
from rayconvai.sweep.space import to_overrides
from rayconvai.sweep.spec import MetricSpec, SweepFile, SweepSpec
from rayconvai.sweep.trial import Attempt, TrialSettings, run_trial

TESTS = Path(__file__).parents[2] / "sweep"
POINTS = {
    "train": [(1.0, 2.1), (2.0, 3.9), (0.5, 1.2), (1.5, 2.8), (0.8, 1.5), (1.2, 2.5)],
    "dev": [(1.0, 2.0), (2.0, 4.0)],
    "test": [(1.0, 2.2), (3.0, 6.3)],
}


def write_corpus(directory: Path) -> list[str]:
    """Write the points as manifests; return the overrides that name them."""
    for split, points in POINTS.items():
        rows = [{"audio_filepath": "none.wav", "duration": x, "text": str(y)} for x, y in points]
        (directory / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [f"data.corpus.{split}='{directory}/{split}.jsonl'" for split in POINTS]


class SweepByHand:
    """A sweep of lines through points, in a directory."""

    def __init__(self, directory: Path, **keys: Any) -> None:
        corpus = {} if "recipe" in keys else {"overrides": write_corpus(directory)}
        given = {"recipe": "line/line", "space": {"optim.lr": "loguniform(1e-3, 1)"}, **corpus, **keys}
        places = {"config_dirs": [str(TESTS / "configs")], "storage": str(directory)}
        self.spec = SweepSpec(name="demo", metric=MetricSpec(), **places, **given)
        self.directory = self.spec.directory
        self.journal = Journal(self.directory)
        self.journal.open({"recipe": self.spec.recipe}, dataclasses.asdict(self.spec))
        self.settings = TrialSettings(
            recipe=self.spec.recipe,
            config_dirs=tuple(self.spec.config_dirs),
            overrides=tuple(trial_overrides(SweepFile("demo.yaml", self.spec, {}))),
            place=str(self.directory),
            sweep="demo",
            metric=self.spec.metric.name,
            cpus=1,
            gpus=0,
            working_dir=None,
        )

    def point(self, number: int, point: Point, *overrides: str) -> None:
        group, repeat = divmod(number, self.spec.repeats)
        lines = [*to_overrides(point), *overrides]
        self.journal.append("point", trial=number, group=group, repeat=repeat, point=point, overrides=lines)

    def attempt(self, number: int, until: int | None = None) -> None:
        trial = self.journal.state.trials[number]
        self.journal.append("attempt", trial=number, attempt=trial.attempts + 1)

        def hand_over(report: dict[str, Any]) -> bool:
            if not trial.reported(report["epoch"]):
                fields = {key: report[key] for key in ("epoch", "metrics", "cost")}
                self.journal.append("result", trial=number, attempt=trial.attempts, **fields)
            return True

        last = run_trial(self.settings, Attempt(number, tuple(trial.overrides), until), hand_over)
        if last["end"] == "paused":
            self.journal.append("pause", trial=number, epoch=trial.epoch)
        else:
            assert (last["end"], last["reason"]) == ("finished", "")
            self.journal.append("end", trial=number, status="finished", reason="")

    def exploit(self, member: int, donor: int, point: Point) -> None:
        """Let a paused trial go on from another's checkpoint of the same epoch, with a point of its own."""
        epoch = self.journal.state.trials[donor].epoch
        take_over(self.settings.run_dir(donor), self.settings.run_dir(member), epoch)
        changed = {"point": point, "overrides": to_overrides(point)}
        self.journal.append("exploit", trial=member, epoch=epoch, donor=donor, **changed)

    def run(self, rates: Sequence[float]) -> None:
        for number, rate in enumerate(rates):
            repeat = number % self.spec.repeats
            self.point(number, {"optim.lr": rate}, *([f"seed={repeat}"] if self.spec.repeats > 1 else []))
            self.attempt(number)
        self.journal.append("close", reason="done")
        self.journal.close()


@pytest.fixture(scope="session")
def sweep_by_hand() -> Iterator[Callable[..., SweepByHand]]:
    """Makes a sweep in a directory; keywords are keys of the sweep file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TESTS))
        yield SweepByHand
