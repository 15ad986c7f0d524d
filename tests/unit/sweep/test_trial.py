"""Attempts at a trial, without Tune: where they pause and go on, what they report, what they cost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rayconvai.sweep.trial import Attempt, TrialSettings, run_trial

TESTS = Path(__file__).parents[2] / "sweep"
Report = dict[str, Any]


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrialSettings:
    monkeypatch.syspath_prepend(str(TESTS))
    return settings(tmp_path, "tiny/tiny", "val_loss", configs=TESTS / "configs")


def settings(directory: Path, recipe: str, metric: str, *overrides: str, configs: Path | None = None) -> TrialSettings:
    shared = ("exp_manager.resume_if_exists=true", "exp_manager.resume_ignore_no_checkpoint=true")
    return TrialSettings(
        recipe=recipe,
        config_dirs=() if configs is None else (str(configs),),
        overrides=(*shared, *overrides),
        directory=str(directory),
        sweep="demo",
        metric=metric,
        cpus=1,
        gpus=0,
        working_dir=None,
    )


def attempt(
    settings: TrialSettings,
    *overrides: str,
    number: int = 0,
    until: int | None = None,
    go_on: Callable[[int], bool] = bool,
) -> tuple[list[Report], Report]:
    """Run an attempt; return what it reported of its epochs, and its last report."""
    reports: list[Report] = []

    def hand_over(report: Report) -> bool:
        reports.append(report)
        return go_on(report["epoch"])

    last = run_trial(settings, Attempt(number, overrides, until), hand_over)
    return reports, last


def test_an_attempt_pauses_after_its_epoch_and_another_goes_on(tiny: TrialSettings) -> None:
    reports, last = attempt(tiny, until=2)
    assert [(report["epoch"], report["val_loss"]) for report in reports] == [(1, 1.0), (2, 0.5)]
    assert (last["done"], last["end"], last["reason"], last["parameters"]) == (True, "paused", "", 8)
    reports, last = attempt(tiny, until=4)
    assert [report["epoch"] for report in reports] == [2, 3, 4]  # what the checkpoint has is said again
    assert last["end"] == "finished"
    reports, last = attempt(tiny, until=4)
    assert ([report["epoch"] for report in reports], last["end"]) == ([4], "finished")
