"""One session of a sweep: from its checked plan to its best trial as an artefact."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path

import yaml
from rich.console import Console

from rayconvai.errors import SweepError
from rayconvai.experiment.layout import RunLayout, write_atomically
from rayconvai.experiment.mirror import Mirror, fetched, in_step, lasting, publish, sweep_directory
from rayconvai.experiment.provenance import command
from rayconvai.experiment.storage import SUFFIX
from rayconvai.experiment.takeover import take_over
from rayconvai.places import in_ray_job, is_address
from rayconvai.sweep.display import Display
from rayconvai.sweep.driver import run_sweep
from rayconvai.sweep.engine import Engine, recall
from rayconvai.sweep.identity import check_identity, identity
from rayconvai.sweep.journal import Journal
from rayconvai.sweep.pbt import Pbt
from rayconvai.sweep.plan import Plan, plan_sweep, trial_overrides
from rayconvai.sweep.promote import promote
from rayconvai.sweep.retention import Retention
from rayconvai.sweep.scheduler import Asha, HyperBand, Median, Scheduler
from rayconvai.sweep.search import build_searcher
from rayconvai.sweep.show import group_table, overview, ranking, trial_table
from rayconvai.sweep.spec import SweepFile, SweepSpec
from rayconvai.sweep.state import ENDED, SweepState
from rayconvai.sweep.trial import TrialSettings
from rayconvai.sweep.warm import read_warmth


def check(file: SweepFile, state: SweepState, console: Console, *, show: bool) -> Plan:
    """Check the whole sweep and say what is wrong; ``show`` also prints the table of its points."""
    with console.status(f"checking {file.path}"):
        plan = plan_sweep(file)
        if not plan.problems:
            _read_warmth(file, state, plan)
    if show and state.trials:
        _say_what_is_there(file.spec.place, state, console)
    if show and not plan.problems:
        console.print(plan.table())
        for line in plan.summary():
            console.print(line, highlight=False, soft_wrap=True)
    for warmth in plan.warmth:
        console.print(str(warmth), markup=False, highlight=False, soft_wrap=True)
    for line in plan.warnings:
        print(f"warning: {line}", file=sys.stderr)
    for line in plan.problems:
        print(f"error: {line}", file=sys.stderr)
    return plan


def run_session(file: SweepFile, plan: Plan, console: Console) -> int:
    """Run what is left of a sweep, show its trials and promote the best; return the exit status.

    Raises:
        SweepError: another driver is at work on it, it is another sweep, no node can hold a trial, or no trial gave a
            result.
        StorageError: its directory cannot be written.
    """
    spec, directory = file.spec, sweep_directory(file.spec.place)
    with Journal(spec.place) as journal:
        state = journal.state
        known = identity(spec, plan.base, plan.max_epochs)
        check_identity(state, spec, known)
        if state.trials:
            _say_what_is_there(spec.place, state, console)
        settings = _settings(file)
        # Before the journal says that the sweep is a larger one: else a death in between would leave some closed.
        _reopen(journal, plan, settings, console)
        journal.open(known, dataclasses.asdict(spec))
        write_atomically(directory / "sweep.yaml", yaml.safe_dump(dataclasses.asdict(spec), sort_keys=False))
        points = [dataclasses.asdict(point) for point in plan.points]
        write_atomically(directory / "plan.json", json.dumps(points, indent=1))
        for name in ("sweep.yaml", "plan.json"):
            publish(directory / name)
        _warm_up(journal, plan)
        searcher = build_searcher(spec, plan.space)
        recall(searcher, spec, state)
        engine = Engine(
            spec,
            journal,
            searcher,
            _scheduler(spec, plan),
            seeds=range(plan.base.seed, plan.base.seed + spec.repeats),
            take_over=lambda donor, member, epoch: _take_over(settings, donor, member, epoch),
            listeners=[],
        )
        with Display(state, spec.metric, engine.total, console) as display:
            retention = Retention(directory, state, spec)
            engine.listeners = [display, retention]
            reason = run_sweep(engine, settings, console)
            retention.finish()
        journal.append("close", reason=reason)
        if spec.repeats > 1:
            console.print(group_table(ranking(state), spec.metric.name), "", highlight=False)
        console.print(trial_table(state.ranked(spec.metric.name, spec.metric.mode), spec.metric), "", highlight=False)
        console.print(overview(state, engine.total, at_work=False), "", highlight=False)
        return _finish(state, spec, reason, console)


def _say_what_is_there(place: str, state: SweepState, console: Console) -> None:
    ended = state.count(*ENDED)
    console.print(f"going on with {place}: {ended} of {len(state.trials)} trials have ended", soft_wrap=True)


def _finish(state: SweepState, spec: SweepSpec, reason: str, console: Console) -> int:
    if reason == "interrupted":
        console.print("interrupted; the same command goes on from here", highlight=False)
        return 130
    valued = any(trial.best(spec.metric.name, spec.metric.mode) for trial in state.trials.values())
    if reason.startswith("budget.") and not valued:
        raise SweepError(f"{reason} was used up before a trial had a result; with a larger one it goes on from here")
    if reason == "failed" or not valued:
        raise SweepError(_nothing_worked(state))
    if reason != "done":
        console.print(f"stopped by {reason}; the same command with another {reason} goes on from here", highlight=False)
    with console.status("testing the best"):
        best = promote(spec.directory, state, spec.metric)
    shown = ", ".join(f"{name} {value:.4f}" for name, value in sorted(best.metrics.items()))
    console.print(f"best: {best.trial.name}, measured on {best.split}: {shown}", highlight=False, soft_wrap=True)
    console.print(f"artefact: {_shown(best.artefact)}", highlight=False, soft_wrap=True)
    if best.usage:
        shown = best.usage.format(_shown(best.artefact))
        console.print(f"try: python -m rayconvai {shown}", highlight=False, soft_wrap=True)
    return 0


def _scheduler(spec: SweepSpec, plan: Plan) -> Scheduler:
    named, last = spec.scheduler, plan.max_epochs
    if named.name == "asha":
        return Asha(spec.metric, last, grace=named.grace, reduction=named.reduction, repeats=spec.repeats)
    if named.name == "hyperband":
        return HyperBand(spec.metric, last, grace=named.grace, reduction=named.reduction)
    if named.name == "median":
        return Median(spec.metric, last, grace=named.grace)
    if named.name == "pbt":
        assert spec.budget.trials is not None
        return Pbt(spec.metric, last, named, plan.space, seed=spec.search.seed, population=spec.budget.trials)
    return Scheduler(spec.metric, last)


def _reopen(journal: Journal, plan: Plan, settings: TrialSettings, console: Console) -> None:
    """Open ended trials again: all that failed where the whole sweep had failed, finished ones for more epochs."""
    closed, epochs = journal.state.closed, journal.state.identity.get("epochs")
    gone = 0
    for number, trial in list(journal.state.trials.items()):
        if closed == "failed" and trial.status in ("failed", "infeasible"):
            journal.append("reopen", trial=number)
        if epochs is not None and plan.max_epochs > epochs and trial.status == "finished":
            if _has_checkpoints(settings, number):
                journal.append("reopen", trial=number)
            else:
                gone += 1
    if gone:
        console.print(f"{gone} finished trials do not go on: their checkpoints were not kept (checkpoints.keep)")


def _has_checkpoints(settings: TrialSettings, number: int) -> bool:
    if is_address(settings.place):
        return any(name.endswith(SUFFIX) for name in Mirror(settings.run_place(number)).sizes())
    return any(RunLayout(settings.run_dir(number)).checkpoints.glob(f"*{SUFFIX}"))


def _take_over(settings: TrialSettings, donor: int, member: int, epoch: int) -> None:
    """Make the donor's checkpoint the member's, where both are for good."""
    fetched(settings.run_place(donor))
    with in_step(settings.run_dir(member)):
        take_over(settings.run_dir(donor), settings.run_dir(member), epoch)


def _read_warmth(file: SweepFile, state: SweepState, plan: Plan) -> None:
    """Read what other sweeps have to tell, before anything is written; those that have told it may be gone."""
    # Before the first trial, a driver that died may have told a part.
    known = {point.source for point in state.warm} if state.trials else set()
    for source in file.spec.warm_start:
        try:
            if source not in known:
                plan.warmth.append(read_warmth(source, file.spec, plan.space))
        except SweepError as error:
            plan.problems.append(f"{file.at('warm_start')}: {error}")
    if plan.warmth and not plan.learns:
        plan.warnings.append(
            f"{file.at('warm_start')}: search.name={file.spec.search.name} does not learn from results"
        )


def _warm_up(journal: Journal, plan: Plan) -> None:
    known = {(point.source, point.trial) for point in journal.state.warm}
    for warmth in plan.warmth:
        for number, point, values in warmth.points:
            if (warmth.source, number) not in known:
                journal.append("warm", source=warmth.source, trial=number, point=point, values=values)


def _settings(file: SweepFile) -> TrialSettings:
    spec = file.spec
    return TrialSettings(
        recipe=spec.recipe,
        config_dirs=tuple(spec.config_dirs),
        overrides=tuple(trial_overrides(file)),
        place=spec.place,
        sweep=spec.name,
        metric=spec.metric.name,
        more_metrics=tuple(metric.name for metric in spec.more_metrics),
        workers=spec.resources.workers,
        cpus=spec.resources.cpus,
        gpus=spec.resources.gpus,
        command=command(),
        timeout=spec.timeout,
        working_dir=None if in_ray_job() else os.getcwd(),
    )


def _nothing_worked(state: SweepState) -> str:
    bad = [trial for trial in state.trials.values() if trial.reason]
    reason = f"; {bad[0].name}: {bad[0].reason}" if bad else ""
    return f"none of {len(state.trials)} trials gave a result{reason}; mend it, and the same command tries them again"


def _shown(path: Path) -> str:
    """Return a path as short as it can be said here; the address of what is in a bucket."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else lasting(path)
