"""``python -m rayconvai.sweep FILE [KEY=VALUE ...] [--dry-run]``: check, run, and end with the best as an artefact."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from rayconvai.errors import StorageError, SweepError, run_cli
from rayconvai.sweep.cluster import is_local
from rayconvai.sweep.display import Display, trial_table
from rayconvai.sweep.driver import Sweep, recall, run_sweep
from rayconvai.sweep.journal import ENDED, Journal, SweepState
from rayconvai.sweep.plan import Plan, iter_lines, plan_sweep, trial_overrides
from rayconvai.sweep.promote import promote
from rayconvai.sweep.search import build_searcher
from rayconvai.sweep.spec import SweepFile, SweepSpec, load_spec
from rayconvai.sweep.trial import TrialSettings

_LOG_WIDTH = 160
_IDENTITY = ("recipe", "overrides", "config_dirs", "space", "metric", "search", "scheduler")


def main() -> int:
    """Run the command; return its exit status."""
    arguments = _arguments().parse_args()
    file = load_spec(arguments.file, arguments.overrides)
    console = Console(width=None if sys.stdout.isatty() else _LOG_WIDTH)
    # What a trial says goes to its own log; here it would only stand between the lines of the sweep.
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    if not arguments.dry_run:
        _check_storage(file)
    with console.status(f"checking {arguments.file}"):
        plan = plan_sweep(file)
    if arguments.dry_run and not plan.problems:
        console.print(plan.table())
        for line in iter_lines(plan):
            console.print(line, highlight=False)
    _complain(plan)
    if plan.problems:
        return 2
    return 0 if arguments.dry_run else _sweep(file, plan, console)


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rayconvai.sweep",
        description="Run a sweep: check every point first, train the trials, rank them, keep the best as an artefact. "
        "The same command again goes on with an unfinished sweep.",
    )
    parser.add_argument("file", help="a sweep file, such as sweeps/asr.yaml")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="change keys of the file: budget.trials=4")
    parser.add_argument("--dry-run", action="store_true", help="check everything, show the points, train nothing")
    return parser


def _complain(plan: Plan) -> None:
    for line in plan.warnings:
        print(f"warning: {line}", file=sys.stderr)
    for line in plan.problems:
        print(f"error: {line}", file=sys.stderr)


def _check_storage(file: SweepFile) -> None:
    spec = file.spec
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ and not Path(spec.storage).expanduser().is_absolute():
        raise SweepError(
            f"{file.at('storage')}: storage {spec.storage!r} is relative, and a Ray job's working directory is "
            "temporary; give an absolute path that all nodes see"
        )


def _sweep(file: SweepFile, plan: Plan, console: Console) -> int:
    spec, directory = file.spec, file.spec.directory
    with Journal(directory) as journal:
        _check_identity(journal.state, spec, directory)
        if _is_complete(journal.state, plan.total):
            console.print(f"the sweep in {_shown(directory)} is finished; a larger budget.trials would extend it")
            _show(journal.state, spec, console)
            return 0
        if journal.state.trials:
            ended, known = journal.state.count(*ENDED), len(journal.state.trials)
            console.print(f"going on with the sweep in {_shown(directory)}: {ended} of {known} trials have ended")
        journal.open(_identity(spec), dataclasses.asdict(spec))
        _write(directory / "sweep.yaml", yaml.safe_dump(dataclasses.asdict(spec), sort_keys=False))
        _write(directory / "plan.json", json.dumps([dataclasses.asdict(point) for point in plan.points], indent=1))
        sweep = Sweep(
            spec=spec,
            journal=journal,
            searcher=build_searcher(spec.search, plan.space, spec.metric.mode),
            settings=_settings(file),
            max_epochs=plan.max_epochs,
            total=plan.total,
        )
        recall(sweep)
        reason = run_sweep(sweep, Display(journal.state, spec.metric, plan.total, console))
        _show(journal.state, spec, console)
        if reason == "interrupted":
            console.print("interrupted; the same command goes on from here", highlight=False)
            return 130
        if not any(trial.best(spec.metric.name, spec.metric.mode) for trial in journal.state.trials.values()):
            raise SweepError(_nothing_worked(journal.state))
        _promote(journal.state, spec, console)
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


def _show(state: SweepState, spec: SweepSpec, console: Console) -> None:
    console.print(trial_table(state.ranked(spec.metric.name, spec.metric.mode), spec.metric))


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
        working_dir=os.getcwd() if is_local() else None,
    )


def _identity(spec: SweepSpec) -> dict[str, Any]:
    """Return what makes two sweeps the same; budget, resources and storage may change."""
    whole = dataclasses.asdict(spec)
    # JSON, as the journal will give it back.
    identity: dict[str, Any] = json.loads(json.dumps({key: whole[key] for key in _IDENTITY}))
    return identity


def _check_identity(state: SweepState, spec: SweepSpec, directory: Path) -> None:
    if not state.identity:
        return
    now = _identity(spec)
    changed = [
        f"{key} was {json.dumps(state.identity.get(key))}, is {json.dumps(now[key])}"
        for key in _IDENTITY
        if state.identity.get(key) != now[key]
    ]
    if changed:
        raise SweepError(
            f"{_shown(directory)} holds another sweep of this name: {'; '.join(changed)}; "
            "choose a new one (name=...), or remove that directory"
        )


def _is_complete(state: SweepState, total: int | None) -> bool:
    if total is None or state.count(*ENDED) < len(state.trials):
        return False
    return len(state.trials) >= total


def _nothing_worked(state: SweepState) -> str:
    trial = next((trial for trial in state.trials.values() if trial.reason), None)
    reason = f"; {trial.name}: {trial.reason}" if trial else ""
    return f"none of {len(state.trials)} trials gave a result{reason}"


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}") from error


def _shown(path: Path) -> str:
    """Return a path as short as it can be said here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


if __name__ == "__main__":
    run_cli(main)
