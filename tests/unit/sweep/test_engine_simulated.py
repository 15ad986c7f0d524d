"""The engine with trials that only count: every scheduler, with the driver dying at any moment."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import pytest

from rayconvai.errors import CheckpointError
from rayconvai.sweep.engine import Engine, recall
from rayconvai.sweep.journal import Journal, iter_records, read_journal
from rayconvai.sweep.pbt import Pbt
from rayconvai.sweep.scheduler import Asha, HyperBand, Median, Scheduler
from rayconvai.sweep.space import Space, parse_space
from rayconvai.sweep.spec import BudgetSpec, MetricSpec, SchedulerSpec, SearchSpec, SweepSpec
from rayconvai.sweep.state import ENDED, Attempt, SweepState, TrialRecord

EPOCHS = 9
METRIC = MetricSpec(name="loss", mode="min")
SPEC = SweepSpec(
    name="simulated",
    recipe="none",
    space={"lr": "uniform(0, 1)", "width": "choice(1, 2, 3)"},
    metric=METRIC,
    search=SearchSpec(name="optuna", seed=1),
    scheduler=SchedulerSpec(name="none"),
    budget=BudgetSpec(trials=12),
)


class Remembers:
    """A searcher whose every proposal depends on all that it was told."""

    total, learns = None, True

    def __init__(self) -> None:
        self.told: dict[int, Any] = {}

    def ask(self, group: int) -> dict[str, Any]:
        rng = random.Random(f"{group} {sorted(self.told.items())}")
        return {"lr": rng.random(), "width": rng.choice([1, 2, 3])}

    def notes(self, group: int) -> dict[str, Any]:
        return {}

    def recall(self, group: int, point: dict[str, Any], notes: dict[str, Any]) -> None: ...

    def tell(self, group: int, values: Any, *, stopped_at: int | None = None) -> None:
        self.told[group] = (values, stopped_at)


class Dies(Exception):
    """The driver, at this moment."""


class World:
    """The trials' side: what has been trained and saved, whoever asks."""

    def __init__(self, death: float, seed: int, trouble: float = 0.0) -> None:
        self.rng, self.death, self.trouble = random.Random(seed), death, trouble
        self.saved: dict[int, int] = {}
        """Trial -> epoch of its last checkpoint."""

    def moment(self) -> None:
        if self.rng.random() < self.death:
            raise Dies

    def misfortune(self) -> bool:
        return self.rng.random() < self.trouble

    def take_over(self, donor: int, member: int, epoch: int) -> None:
        if self.saved.get(donor) != epoch:
            raise CheckpointError("damaged")
        self.saved[member] = epoch

    def damage(self, trial: TrialRecord) -> None:
        """The newest checkpoint of a trial is gone, but not what it took over: that is there twice."""
        first = max((exploit.epoch for exploit in trial.exploits), default=0)
        if trial.number in self.saved:
            self.saved[trial.number] = max(first, self.saved[trial.number] - 1)

    def loss(self, trial: TrialRecord, epoch: int) -> float:
        seed = 0.01 * sum(map(len, trial.overrides[-1:])) + 0.001 * trial.repeat
        return abs(trial.point["lr"] - 0.4) + 0.1 * trial.point["width"] + 1 / epoch + seed

    def work(self, engine: Engine, attempt: Attempt) -> Any:
        """Do an attempt, a step at each call of next()."""
        trial = engine.state.trials[attempt.number]
        engine.started(attempt.number)
        yield
        epoch, last = self.saved.get(attempt.number, 0), last_epoch(engine.spec)
        stops_itself = last - 3 if self.trouble and trial.point["lr"] < 0.15 else last
        while epoch < stops_itself and (attempt.until is None or epoch < attempt.until):
            epoch += 1
            if self.trouble and trial.point["lr"] > 0.85 and epoch > 10 * trial.point["lr"] % 5:
                engine.ended(attempt.number, {"end": "infeasible", "reason": "nan", "cost": {"wall": 1.0}})
                return
            if self.misfortune():
                self.damage(trial)
                engine.lost(attempt.number, "its process died")
                return
            report = {"epoch": epoch, "metrics": {"loss": self.loss(trial, epoch)}, "cost": {"wall": 1.0}}
            self.moment()
            goes_on = engine.reported(attempt.number, report)
            self.moment()
            self.saved[attempt.number] = epoch
            self.moment()
            if not goes_on:
                engine.gone(attempt.number)
                return
            yield
        end = "paused" if epoch < stops_itself else "finished"
        engine.ended(attempt.number, {"end": end, "reason": "", "cost": {"wall": 1.0}})
        if self.misfortune():
            self.damage(trial)
        if end == "finished" and self.trouble:
            del self.saved[attempt.number]


def last_epoch(spec: SweepSpec) -> int:
    return spec.budget.epochs or EPOCHS


def scheduler_of(spec: SweepSpec, space: Space) -> Scheduler:
    given, last = spec.scheduler, last_epoch(spec)
    return {
        "none": lambda: Scheduler(METRIC, last),
        "asha": lambda: Asha(METRIC, last, grace=1, reduction=3, repeats=spec.repeats),
        "median": lambda: Median(METRIC, last, grace=2),
        "hyperband": lambda: HyperBand(METRIC, last, grace=1, reduction=3),
        "pbt": lambda: Pbt(METRIC, last, given, space, seed=1, population=spec.budget.trials or 0),
    }[given.name]()


def session(spec: SweepSpec, directory: Path, world: World, concurrent: int) -> None:
    space = parse_space(spec.space, spec.constraints)
    with Journal(directory) as journal:
        journal.open({}, dataclasses.asdict(spec))
        searcher: Any = Remembers()
        recall(searcher, spec, journal.state)
        engine = Engine(
            spec, journal, searcher, scheduler_of(spec, space), seeds=range(spec.repeats), take_over=world.take_over
        )
        running: list[Any] = []
        while True:
            while len(running) < concurrent and (given := engine.next_attempt()) is not None:
                assert given.number not in {attempt.number for attempt, _ in running}
                running.append((given, world.work(engine, given)))
            if not running:
                return
            chosen = running[world.rng.randrange(len(running))]
            try:
                next(chosen[1])
            except StopIteration:
                running.remove(chosen)


def simulate(spec: SweepSpec, directory: Path, *, death: float = 0.0, seed: int = 0, concurrent: int = 1) -> SweepState:
    world = World(death, seed)
    while True:
        try:
            session(spec, directory, world, concurrent)
        except Dies:
            continue
        return read_journal(directory)


def known(state: SweepState) -> list[Any]:
    """Return what is to be the same whether the driver died or not."""
    return [
        (number, trial.status, trial.first_point, trial.point, trial.curve("loss"), trial.exploits)
        for number, trial in sorted(state.trials.items())
    ]


def check_history(directory: Path, state: SweepState) -> None:
    """Every trial has come to its end, with each of its epochs once."""
    results = [(r["trial"], r["epoch"]) for r in iter_records(directory) if r["kind"] == "result"]
    assert len(results) == len(set(results))
    assert not state.live
    for trial in state.trials.values():
        assert trial.status in ENDED
        assert list(trial.epochs) == list(range(1, trial.epoch + 1))


def scheduled(name: str, **changes: Any) -> SweepSpec:
    scheduler: Any = SchedulerSpec(name=name, interval=3)  # type: ignore[arg-type]
    return dataclasses.replace(SPEC, scheduler=scheduler, **changes)


CASES = [
    pytest.param(scheduled("none"), id="none"),
    pytest.param(scheduled("asha"), id="asha"),
    pytest.param(scheduled("asha", repeats=3, budget=BudgetSpec(trials=21)), id="asha_repeats"),
    pytest.param(scheduled("median"), id="median"),
    pytest.param(scheduled("hyperband", budget=BudgetSpec(trials=20)), id="hyperband"),
    pytest.param(scheduled("pbt", budget=BudgetSpec(trials=8)), id="pbt"),
]


@pytest.mark.parametrize("spec", CASES)
@pytest.mark.parametrize("seed", range(3))
def test_death_of_the_driver_changes_nothing(spec: SweepSpec, seed: int, tmp_path: Path) -> None:
    undisturbed = simulate(spec, tmp_path / "a")
    disturbed = simulate(spec, tmp_path / "b", death=0.03, seed=seed)
    assert known(disturbed) == known(undisturbed)
    results = [(r["trial"], r["epoch"]) for r in iter_records(tmp_path / "b") if r["kind"] == "result"]
    assert len(results) == len(set(results))


@pytest.mark.parametrize("spec", CASES)
@pytest.mark.parametrize("seed", range(3))
def test_many_at_once_come_to_an_end(spec: SweepSpec, seed: int, tmp_path: Path) -> None:
    state = simulate(spec, tmp_path, death=0.01, seed=seed, concurrent=3)
    assert len(state.trials) == spec.budget.trials
    assert all(trial.status in ENDED for trial in state.trials.values())
    for trial in state.trials.values():
        assert list(trial.curve("loss")) == list(range(1, trial.epoch + 1))
        assert trial.epoch == EPOCHS or trial.status == "stopped"


def to_its_end(spec: SweepSpec, directory: Path, world: World, rng: random.Random) -> None:
    """Run sessions of different width until one is through."""
    while True:
        try:
            return session(spec, directory, world, rng.choice([1, 2, 5]))
        except Dies:
            continue


OFTEN = dataclasses.replace(SPEC, scheduler=SchedulerSpec(name="pbt", interval=2), budget=BudgetSpec(trials=12))


@pytest.mark.parametrize("spec", [*CASES, pytest.param(OFTEN, id="pbt_often")])
@pytest.mark.parametrize("seed", range(4))
def test_all_kinds_of_trouble(spec: SweepSpec, seed: int, tmp_path: Path) -> None:
    spec = dataclasses.replace(spec, give_up_after=100, max_retries=5)
    to_its_end(spec, tmp_path, World(0.01, seed, trouble=0.1), random.Random(seed))
    state = read_journal(tmp_path)
    assert len(state.trials) == spec.budget.trials
    check_history(tmp_path, state)
    assert all(trial.lost <= spec.max_retries + 1 for trial in state.trials.values())


@pytest.mark.parametrize("spec", [case for case in CASES if case.id != "hyperband"])  # it cannot be extended
@pytest.mark.parametrize("seed", range(3))
def test_extended_in_trouble(spec: SweepSpec, seed: int, tmp_path: Path) -> None:
    spec = dataclasses.replace(spec, give_up_after=100, max_retries=5)
    rng, world = random.Random(seed), World(0.01, seed, trouble=0.05)
    to_its_end(spec, tmp_path, world, rng)
    with Journal(tmp_path) as journal:
        for number, trial in list(journal.state.trials.items()):
            if trial.status == "finished" and rng.random() < 0.7:  # of the others no checkpoint was kept
                world.saved[number] = trial.epoch
                journal.append("reopen", trial=number)
    assert spec.budget.trials is not None
    trials = spec.budget.trials * (1 if spec.scheduler.name == "pbt" else 2)
    spec = dataclasses.replace(spec, budget=BudgetSpec(trials=trials, epochs=3 * EPOCHS))
    to_its_end(spec, tmp_path, world, rng)
    state = read_journal(tmp_path)
    assert len(state.trials) == trials
    check_history(tmp_path, state)


def test_hyperband_halves_its_brackets(tmp_path: Path) -> None:
    state = simulate(scheduled("hyperband", budget=BudgetSpec(trials=17)), tmp_path)
    # R = 9, eta = 3: 9 trials from 1 epoch, 5 from 3, 3 of all 9 (table 1 of the paper, with R for 81).
    reached = [
        [sum(state.trials[n].epoch >= e for n in numbers) for e in (1, 3, 9)]
        for numbers in (range(9), range(9, 14), range(14, 17))
    ]
    assert reached == [[9, 3, 1], [5, 5, 1], [3, 3, 3]]


def test_pbt_goes_on_from_the_best(tmp_path: Path) -> None:
    spec = scheduled("pbt", budget=BudgetSpec(trials=8))
    state = simulate(spec, tmp_path)
    exploits = [(exploit.epoch, number) for number, trial in state.trials.items() for exploit in trial.exploits]
    assert {epoch for epoch, _ in exploits} == {3, 6}
    assert len(exploits) == 4  # a quarter of eight, twice
    for trial in state.trials.values():
        for exploit in trial.exploits:
            donor = state.trials[exploit.donor]
            assert donor.value_at("loss", exploit.epoch) < (trial.value_at("loss", exploit.epoch) or 0)


def test_a_donor_whose_checkpoint_is_damaged_makes_it_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = scheduled("pbt", budget=BudgetSpec(trials=8))
    undisturbed = simulate(spec, tmp_path / "a")
    damaged: set[int] = set()
    sound = World.take_over

    def take_over(world: World, donor: int, member: int, epoch: int) -> None:
        if epoch not in damaged:
            damaged.add(epoch)
            world.saved[donor] = epoch - 1
            raise CheckpointError("damaged")
        sound(world, donor, member, epoch)

    monkeypatch.setattr(World, "take_over", take_over)
    state = simulate(spec, tmp_path / "b")
    assert known(state) == known(undisturbed)
    assert sum(trial.lost for trial in state.trials.values()) == 2


def test_repeats_are_judged_together(tmp_path: Path) -> None:
    state = simulate(scheduled("asha", repeats=3, budget=BudgetSpec(trials=21)), tmp_path)
    for members in state.groups().values():
        assert len({trial.epoch for trial in members}) == 1
        assert len({trial.overrides[-1] for trial in members}) == 3
    assert {trial.epoch for trial in state.trials.values()} >= {1, 9}
