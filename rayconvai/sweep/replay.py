"""``python -m rayconvai replay SWEEP [TRIAL]``: what a trial's weights went through, and the same once more.

Under population-based training a trial takes over another's weights and goes on with a point of its own, so its last
weights come from a schedule of points that no single trial had. The journal knows it: see ``lineage``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch import Callback
from omegaconf import DictConfig
from rich.table import Table

from rayconvai.config.compose import Composer
from rayconvai.errors import SweepError
from rayconvai.experiment.layout import RunLayout, write_atomically
from rayconvai.experiment.mirror import fetched, lasting, publish, sweep_directory
from rayconvai.experiment.record import read_metrics
from rayconvai.sweep.domains import Point
from rayconvai.sweep.journal import iter_records, read_journal
from rayconvai.sweep.plan import trial_overrides
from rayconvai.sweep.show import command_console, quieten_lightning
from rayconvai.sweep.spec import SweepFile, SweepSpec, recorded_spec
from rayconvai.sweep.state import SweepState, TrialRecord, trial_name
from rayconvai.train.fit import fit
from rayconvai.train.runtime import Runtime
from rayconvai.train.until import StopAfter

SCHEDULE = "schedule.json"


@dataclass(frozen=True)
class Segment:
    """Epochs that were trained with one point."""

    first: int
    last: int
    trial: int
    """Whose epochs they are in the journal."""
    point: Point
    overrides: list[str]


def lineage(state: SweepState, trial: TrialRecord, last: int) -> list[Segment]:
    """Return what a trial's weights after epoch ``last`` went through, from the first epoch on.

    Where the trial took over another's checkpoint, what came before is the other's history, with its own takeovers.
    """
    taken = [exploit for exploit in trial.exploits if exploit.epoch < last]
    if not taken:
        return [Segment(1, last, trial.number, trial.first_point, trial.first_overrides)]
    exploit = taken[-1]
    before = lineage(state, state.trials[exploit.donor], exploit.epoch)
    return [*before, Segment(exploit.epoch + 1, last, trial.number, exploit.point, exploit.overrides)]


def train_segments(
    spec: SweepSpec,
    segments: Sequence[Segment],
    run_dir: Path,
    change: Callable[[DictConfig], DictConfig] = lambda config: config,
) -> DictConfig:
    """Train one run through segments, each from the last checkpoint of the one before; return the last's config.

    What has been trained in ``run_dir`` already is not trained again.
    """
    # As in a trial: on CPUs, sums depend on the number of threads.
    torch.set_num_threads(max(1, int(spec.resources.cpus)))
    shared = trial_overrides(SweepFile(spec.name, spec, {}))
    composer = Composer(spec.recipe, shared, [Path(path) for path in spec.config_dirs])
    for segment in segments:
        config = change(composer.compose(segment.overrides))
        train = _train_here if spec.resources.workers == 1 else _train_with_workers
        train(spec, config, [*shared, *segment.overrides], run_dir, segment.last)
    return config


def _train_here(spec: SweepSpec, config: DictConfig, overrides: Sequence[str], run_dir: Path, last: int) -> None:
    runtime = Runtime(
        run_dir=lasting(run_dir),
        overrides=overrides,
        accelerator=None if spec.resources.gpus else "cpu",
        devices=1,
        callbacks=_listeners(last),
        progress=False,
    )
    fit(config, runtime)


def _train_with_workers(
    spec: SweepSpec, config: DictConfig, overrides: Sequence[str], run_dir: Path, last: int
) -> None:
    from rayconvai.train.cluster import ray_cluster  # Ray, which others need not wait for
    from rayconvai.train.launch import launch
    from rayconvai.train.worker import Job

    job = Job(
        config=config,
        run_dir=lasting(run_dir),
        overrides=tuple(overrides),
        working_dir=os.getcwd(),
        callbacks=partial(_listeners, last),
        measure=False,
    )
    with ray_cluster():
        launch(job, retries=spec.max_retries)


def _listeners(last: int) -> list[Callback]:
    return [StopAfter(last)]


@dataclass(frozen=True)
class Agreement:
    """How far a replay's metrics equal the recorded ones."""

    epochs: int
    same: int
    """Epochs in which every metric has the recorded value, to the last digit."""
    difference: str
    """The first, in words."""

    def __str__(self) -> str:
        told = f"{self.same} of {self.epochs} epochs have the recorded metrics, to the last digit"
        return f"{told}; {self.difference}" if self.difference else told


def replay(directory: Path, state: SweepState, trial: TrialRecord, run_dir: Path) -> Agreement:
    """Train a trial's history anew in ``run_dir`` and compare the metrics with the journal's.

    Raises:
        SweepError: the trial reported no epoch, or ``run_dir`` holds something else.
    """
    segments = lineage(state, trial, trial.epoch) if trial.epoch else []
    if not segments:
        raise SweepError(f"{trial.name} reported no epoch; there is nothing to replay")
    fetched(lasting(run_dir))
    _claim(run_dir, json.dumps([dataclasses.asdict(segment) for segment in segments], indent=1))
    train_segments(recorded_spec(state.spec, directory), segments, run_dir)
    return _compare(_recorded(directory, segments), _replayed(run_dir))


def _claim(run_dir: Path, schedule: str) -> None:
    file = run_dir / SCHEDULE
    if file.exists():
        if file.read_text(encoding="utf-8") != schedule:
            raise SweepError(f"{run_dir} holds the replay of another history; remove it or name another with --into")
    elif any(run_dir.glob("[!.]*")):
        raise SweepError(f"{run_dir} holds something else than a replay; name another directory with --into")
    else:
        run_dir.mkdir(parents=True, exist_ok=True)
        write_atomically(file, schedule)
        publish(file)


Metrics = dict[int, dict[str, float | None]]
"""By epoch and name."""


def _recorded(directory: Path, segments: Sequence[Segment]) -> Metrics:
    owner = {epoch: part.trial for part in segments for epoch in range(part.first, part.last + 1)}
    found: Metrics = {}
    for record in iter_records(lasting(directory)):
        if record["kind"] == "result" and owner.get(record["epoch"]) == record["trial"]:
            found.setdefault(record["epoch"], record["metrics"])
    return found


def _replayed(run_dir: Path) -> Metrics:
    lines = read_metrics(RunLayout(run_dir).metrics)
    return {line["epoch"]: line for line in lines if line["kind"] == "epoch"}


def _compare(recorded: Metrics, replayed: Metrics) -> Agreement:
    same, difference = 0, ""
    for epoch, metrics in sorted(recorded.items()):
        again = replayed.get(epoch, {})
        unlike = [name for name, value in metrics.items() if name in again and again[name] != value]
        if not again:
            difference = difference or f"epoch {epoch} is missing"
        elif unlike:
            name = unlike[0]
            told = f"first {name} of epoch {epoch} differs: {metrics[name]} was recorded, {again[name]} is the replay's"
            difference = difference or told
        else:
            same += 1
    return Agreement(len(recorded), same, difference)


def schedule_table(segments: Sequence[Segment]) -> Table:
    """Make the table of a history."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    keys = list(dict.fromkeys(key for segment in segments for key in segment.point))
    for name in ("epochs", "trial", *keys):
        table.add_column(name, overflow="fold")
    for segment in segments:
        values = [segment.point.get(key, "-") for key in keys]
        epochs = f"{segment.first} to {segment.last}"
        table.add_row(epochs, trial_name(segment.trial), *(str(value) for value in values))
    return table


def find_trial(directory: Path, state: SweepState, name: str | None, spec: SweepSpec) -> TrialRecord:
    """Return the trial of that name, the best one for None.

    Raises:
        SweepError: there is no sweep, or no such trial.
    """
    if not state.trials:
        raise SweepError(f"{directory} holds no sweep: no trial stands in its journal")
    if name is None:
        return state.ranked(spec.metric.name, spec.metric.mode)[0]
    digits = name.removeprefix("t")
    if not digits.isdigit() or int(digits) not in state.trials:
        names = [trial_name(number) for number in sorted(state.trials)]
        raise SweepError(f"{directory} has no trial {name}; it has {names[0]} to {names[-1]}")
    return state.trials[int(digits)]


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m rayconvai replay",
        description="Show which points a trial's weights were trained with (under pbt: a schedule), train the same "
        "anew as one run, and say how far its metrics equal the recorded ones.",
    )
    parser.add_argument("sweep", help="the sweep's directory or address: runs/asr, s3://bucket/runs/asr")
    parser.add_argument("trial", nargs="?", help="such as t0003; the best unless given")
    parser.add_argument("--into", type=Path, help="the run's directory; SWEEP/replays/TRIAL unless given")
    options = parser.parse_args(arguments)
    quieten_lightning()
    console = command_console()
    state = read_journal(options.sweep)
    spec = recorded_spec(state.spec, options.sweep)
    trial = find_trial(options.sweep, state, options.trial, spec)
    directory = sweep_directory(options.sweep)
    run_dir = (options.into or directory / "replays" / trial.name).absolute()
    console.print(schedule_table(lineage(state, trial, trial.epoch)))
    with console.status(f"training {trial.name} anew"):
        agreement = replay(directory, state, trial, run_dir)
    console.print(f"{trial.name} trained anew: {agreement}", highlight=False, soft_wrap=True)
    console.print(f"run: {lasting(run_dir)}", highlight=False, soft_wrap=True)
    return 0
