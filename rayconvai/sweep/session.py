"""One session of a sweep: from its checked plan to its best trial as an artefact."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from rayconvai.errors import SweepError
from rayconvai.experiment.layout import write_atomically
from rayconvai.sweep.address import in_ray_job
from rayconvai.sweep.display import Display, trial_table
from rayconvai.sweep.driver import Sweep, recall, run_sweep
from rayconvai.sweep.journal import ENDED, Journal, SweepState
from rayconvai.sweep.plan import Plan, plan_sweep, trial_overrides
from rayconvai.sweep.promote import promote
from rayconvai.sweep.search import build_searcher
from rayconvai.sweep.spec import SweepFile, SweepSpec
from rayconvai.sweep.trial import TrialSettings


def check(file: SweepFile, console: Console, *, show: bool) -> Plan:
    """Check the whole sweep and say what is wrong; ``show`` also prints the table of its points."""
    with console.status(f"checking {file.path}"):
        plan = plan_sweep(file)
    if show and not plan.problems:
        console.print(plan.table())
        trials = f"{plan.total} trials" if plan.total else "trials until the time is over"
        console.print(f"{trials}; {plan.composed} points composed and checked", highlight=False)
    for line in plan.warnings:
        print(f"warning: {line}", file=sys.stderr)
    for line in plan.problems:
        print(f"error: {line}", file=sys.stderr)
    return plan


def run_session(file: SweepFile, plan: Plan, identity: dict[str, Any], console: Console) -> int:
    """Run what is left of a sweep, show its trials and promote the best; return the exit status.

    Raises:
        SweepError: another driver is at work on it, no node can hold a trial, or no trial gave a result.
        StorageError: its directory cannot be written.
    """
    spec, directory = file.spec, file.spec.directory
    with Journal(directory) as journal:
        state = journal.state
        if state.trials:
            ended, known = state.count(*ENDED), len(state.trials)
            console.print(f"going on with {directory}: {ended} of {known} trials have ended", soft_wrap=True)
        journal.open(identity, dataclasses.asdict(spec))
        write_atomically(directory / "sweep.yaml", yaml.safe_dump(dataclasses.asdict(spec), sort_keys=False))
        points = [dataclasses.asdict(point) for point in plan.points]
        write_atomically(directory / "plan.json", json.dumps(points, indent=1))
        searcher = build_searcher(spec.search, plan.space, spec.metric.mode)
        sweep = Sweep(spec, journal, searcher, _settings(file), plan.max_epochs, plan.total)
        recall(sweep)
        reason = run_sweep(sweep, Display(state, spec.metric, plan.total, console))
        console.print(trial_table(state.ranked(spec.metric.name, spec.metric.mode), spec.metric))
        if reason == "interrupted":
            console.print("interrupted; the same command goes on from here", highlight=False)
            return 130
        if reason == "budget.hours":
            console.print(f"stopped after {spec.budget.hours:g} hours (budget.hours)", highlight=False)
        if not any(trial.best(spec.metric.name, spec.metric.mode) for trial in state.trials.values()):
            raise SweepError(_nothing_worked(state))
        _promote(state, spec, console)
    return 0


def _promote(state: SweepState, spec: SweepSpec, console: Console) -> None:
    with console.status("testing the best"):
        best = promote(spec.directory, state, spec.metric)
    shown = ", ".join(f"{name} {value:.4f}" for name, value in sorted(best.metrics.items()))
    console.print(f"best: {best.trial.name}, measured again: {shown}", highlight=False, soft_wrap=True)
    console.print(f"artefact: {_shown(best.artefact)}", highlight=False, soft_wrap=True)
    console.print(
        f"try: python -m rayconvai transcribe {_shown(best.artefact)} FILE.wav", highlight=False, soft_wrap=True
    )


def _settings(file: SweepFile) -> TrialSettings:
    spec = file.spec
    return TrialSettings(
        recipe=spec.recipe,
        config_dirs=tuple(spec.config_dirs),
        overrides=tuple(trial_overrides(file)),
        directory=str(spec.directory),
        sweep=spec.name,
        metric=spec.metric.name,
        cpus=spec.resources.cpus,
        gpus=spec.resources.gpus,
        working_dir=None if in_ray_job() else os.getcwd(),
    )


def _nothing_worked(state: SweepState) -> str:
    trial = next((trial for trial in state.trials.values() if trial.reason), None)
    reason = f"; {trial.name}: {trial.reason}" if trial else ""
    return f"none of {len(state.trials)} trials gave a result{reason}"


def _shown(path: Path) -> str:
    """Return a path as short as it can be said here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
