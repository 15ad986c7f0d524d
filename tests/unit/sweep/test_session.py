"""Sessions of a sweep, without trials: what each begins with, wherever the one before it died."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from rayconvai.config.compose import compose
from rayconvai.sweep.budget import is_finished
from rayconvai.sweep.engine import Engine
from rayconvai.sweep.identity import differences, fork, identity
from rayconvai.sweep.journal import Journal, iter_records, read_journal
from rayconvai.sweep.plan import Plan, trial_overrides
from rayconvai.sweep.session import check, run_session
from rayconvai.sweep.space import parse_space
from rayconvai.sweep.spec import BudgetSpec, MetricSpec, SearchSpec, SweepFile, SweepSpec
from rayconvai.sweep.trial import TrialSettings

TESTS = Path(__file__).parents[2] / "sweep"
OTHER = MetricSpec(name="speed", mode="max")


class Dies(Exception):
    """The driver, at this moment."""


class Sessions:
    """Sessions of one sweep, whose three trials all end at once, the same way."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch, **keys: Any) -> None:
        given = {"metric": MetricSpec(name="loss", mode="min"), "search": SearchSpec(name="random"), **keys}
        self.spec = SweepSpec(
            name="demo", recipe="none", space={"lr": "uniform(0, 1)"}, storage=str(directory), **given
        )
        self.status, self.reason = "finished", "done"
        self.waiting: list[int] = []
        self.settings: TrialSettings | None = None
        self.monkeypatch = monkeypatch
        monkeypatch.setattr("rayconvai.sweep.session.run_sweep", self._run)
        monkeypatch.setattr("rayconvai.sweep.session.promote", self._promote)

    def __call__(self, epochs: int = 2, dies_at: tuple[str, int] = ("", 0)) -> None:
        """Run one; the driver dies before it writes so many records of a kind."""
        kind, left = dies_at
        append = Journal.append

        def dying(journal: Journal, written: str, **fields: Any) -> None:
            nonlocal left
            left -= written == kind
            if left < 0:
                raise Dies
            append(journal, written, **fields)

        plan = Plan(
            parse_space(self.spec.space, [], lambda point: OmegaConf.create(dict(point))),
            max_epochs=epochs,
            base=OmegaConf.create({"seed": 0}),
        )
        file = SweepFile("demo.yaml", self.spec, {})
        self.monkeypatch.setattr("rayconvai.sweep.session.plan_sweep", lambda _: plan)
        check(file, read_journal(self.spec.directory), Console(quiet=True), show=False)
        with self.monkeypatch.context() as patch:
            if kind:
                patch.setattr(Journal, "append", dying)
            run_session(file, plan, Console(quiet=True))

    def _promote(self, *_: Any) -> Any:
        raise Dies  # what comes then is not a matter of sessions

    def _run(self, engine: Engine, settings: TrialSettings, console: Console) -> str:
        self.settings = settings
        self.waiting = [trial.number for trial in engine.state.trials.values() if trial.status == "waiting"]
        while (attempt := engine.next_attempt()) is not None:
            engine.started(attempt.number)
            if self.status == "finished":
                metrics = {"loss": 1.0, "speed": 1.0}
                engine.reported(attempt.number, {"epoch": 1, "metrics": metrics, "cost": {}})
            engine.ended(attempt.number, {"end": self.status, "reason": "KeyError: x"})
            checkpoints = settings.run_dir(attempt.number) / "checkpoints"
            checkpoints.mkdir(parents=True, exist_ok=True)
            (checkpoints / "1.ckpt").touch()
        return self.reason


@pytest.fixture
def sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sessions:
    return Sessions(tmp_path, monkeypatch, budget=BudgetSpec(trials=3))


@pytest.mark.parametrize("dies_at", [("reopen", 0), ("reopen", 1), ("sweep", 0), ("attempt", 0)])
def test_more_epochs_reach_every_trial_wherever_a_driver_died(sessions: Sessions, dies_at: tuple[str, int]) -> None:
    sessions.reason = "interrupted"
    sessions()
    sessions.spec = dataclasses.replace(sessions.spec, budget=BudgetSpec(trials=4))
    with pytest.raises(Dies):
        sessions(epochs=4, dies_at=dies_at)
    sessions(epochs=4)
    assert sessions.waiting[:3] == [0, 1, 2]
    opened = [record["trial"] for record in iter_records(sessions.spec.directory) if record["kind"] == "reopen"]
    assert opened == [0, 1, 2]
    sessions(epochs=4)
    assert sessions.waiting == []


@pytest.mark.parametrize("dies_at", [("reopen", 1), ("sweep", 0)])
def test_a_sweep_that_failed_is_tried_again_wherever_a_driver_died(
    sessions: Sessions, dies_at: tuple[str, int]
) -> None:
    sessions.status, sessions.reason = "failed", "failed"
    with pytest.raises(Exception, match="none of 3 trials gave a result; t0000: KeyError: x"):
        sessions()
    with pytest.raises(Dies):
        sessions(dies_at=dies_at)
    sessions.status, sessions.reason = "finished", "interrupted"
    sessions()
    assert sessions.waiting == [0, 1, 2]
    assert {trial.status for trial in read_journal(sessions.spec.directory).trials.values()} == {"finished"}


@pytest.mark.parametrize("dies_at", [("warm", 1), ("point", 0)])
def test_a_warm_start_is_whole_wherever_a_driver_died(
    sessions: Sessions, dies_at: tuple[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions.reason = "interrupted"
    sessions()
    told = Sessions(tmp_path, monkeypatch, budget=BudgetSpec(trials=1), warm_start=[str(sessions.spec.directory)])
    told.spec, told.reason = dataclasses.replace(told.spec, name="told"), "interrupted"
    with pytest.raises(Dies):
        told(dies_at=dies_at)
    told()
    told()
    assert [point.trial for point in read_journal(told.spec.directory).warm] == [0, 1, 2]


def test_the_time_between_sessions_is_no_work(sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions.reason = "interrupted"
    now = 1000.0
    monkeypatch.setattr("rayconvai.sweep.journal.time.time", lambda: now)
    sessions()
    now += 1e6
    sessions(epochs=4)
    assert read_journal(sessions.spec.directory).seconds == 0


def test_a_trial_is_to_report_every_metric_of_the_sweep(sessions: Sessions) -> None:
    sessions.reason = "interrupted"
    sessions.spec = dataclasses.replace(sessions.spec, more_metrics=[OTHER])
    sessions()
    assert sessions.settings is not None
    assert sessions.settings.more_metrics == ("speed",)


@pytest.mark.parametrize(
    ("before", "now", "finished"),
    [
        pytest.param(3, 3, True, id="same"),
        pytest.param(3, 4, False, id="more"),
        pytest.param(3, 2, True, id="fewer"),
        pytest.param(3, None, False, id="no_end"),
        pytest.param(10, 10, True, id="more_than_the_grid_has"),
        pytest.param(None, None, True, id="the_whole_grid"),
    ],
)
def test_a_finished_sweep(
    before: int | None, now: int | None, finished: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = {"search": SearchSpec(name="grid"), "budget": BudgetSpec(trials=before)}
    sessions = Sessions(tmp_path, monkeypatch, **grid)
    sessions.spec = dataclasses.replace(sessions.spec, space={"lr": "grid(1, 2, 3, 4)"})
    with pytest.raises(Dies):
        sessions()
    (sessions.spec.directory / "best").mkdir()
    (sessions.spec.directory / "best" / "card.json").touch()
    spec = dataclasses.replace(sessions.spec, budget=BudgetSpec(trials=now))
    assert bool(is_finished(read_journal(spec.directory), spec)) is finished


def test_each_other_sweep_is_a_fork_of_its_own(sessions: Sessions, tmp_path: Path) -> None:
    sessions.reason = "interrupted"
    recipe = {"recipe": "line/line", "config_dirs": [str(TESTS / "configs")]}
    sessions.spec = dataclasses.replace(sessions.spec, **recipe)
    sessions()
    given = dataclasses.replace(sessions.spec, space={"lr": "uniform(0, 2)"}, budget=BudgetSpec(epochs=4))
    variants = [
        given,
        given,
        dataclasses.replace(given, budget=BudgetSpec(epochs=3)),
        dataclasses.replace(given, metric=OTHER),
    ]
    names = []
    for spec in variants:
        forked = fork(SweepFile("demo.yaml", spec, {})).spec
        with Journal(forked.directory) as journal:
            journal.open(identity(forked, base_of(forked), forked.budget.epochs), dataclasses.asdict(forked))
        names.append((forked.name, len(forked.warm_start)))
    assert names == [("demo-2", 1), ("demo-2", 1), ("demo-3", 1), ("demo-4", 0)]


def test_a_recipe_that_changed_twice_is_forked_twice(sessions: Sessions) -> None:
    sessions.spec = dataclasses.replace(sessions.spec, recipe="line/line", config_dirs=[str(TESTS / "configs")])
    sessions.reason = "interrupted"
    sessions()
    with Journal(sessions.spec.directory.with_name("demo-2")) as journal:
        base = base_of(sessions.spec)
        base.seed = 7
        journal.open(identity(sessions.spec, base), dataclasses.asdict(sessions.spec))
    assert fork(SweepFile("demo.yaml", sessions.spec, {})).spec.name == "demo-3"


def test_what_changes_no_number_makes_no_other_sweep(sessions: Sessions) -> None:
    spec = dataclasses.replace(sessions.spec, recipe="line/line", config_dirs=[str(TESTS / "configs")])
    before, base = identity(spec, base_of(spec)), base_of(spec)
    base.resources.workers, base.samples, base.seed = 4, False, 7
    assert differences(before, identity(spec, base)) == ["seed of the recipe was 0, is 7"]


def base_of(spec: SweepSpec) -> DictConfig:
    overrides = trial_overrides(SweepFile("demo.yaml", spec, {}))
    return compose(spec.recipe, overrides, [Path(path) for path in spec.config_dirs])
