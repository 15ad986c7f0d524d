"""``python -m rayconvai.sweep FILE [KEY=VALUE ...] [--dry-run]``: check, run, and end with the best as an artefact."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
import warnings
from typing import Any

from rich.console import Console

from rayconvai.errors import SweepError, run_cli
from rayconvai.sweep.address import check_address
from rayconvai.sweep.display import trial_table
from rayconvai.sweep.journal import ENDED, SweepState, read_journal
from rayconvai.sweep.spec import SweepSpec, load_spec

_LOG_WIDTH = 160


def main() -> int:
    """Run the command; return its exit status."""
    arguments = _arguments().parse_intermixed_args()
    file = load_spec(arguments.file, arguments.overrides)
    console = Console(width=None if sys.stdout.isatty() else _LOG_WIDTH)
    if not arguments.dry_run:
        state = read_journal(file.spec.directory)
        _check_identity(state, file.spec)
        if _is_finished(state, file.spec):
            console.print(trial_table(state.ranked(file.spec.metric.name, file.spec.metric.mode), file.spec.metric))
            console.print(f"{file.spec.directory} is finished; a larger budget.trials would extend it", soft_wrap=True)
            return 0
        check_address()
    # Torch, Lightning and Ray take seconds to import: what needs none of them has been said by now.
    from rayconvai.sweep.session import check, run_session

    # What a trial says goes to its own log; here it would only stand between the lines of the sweep.
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    plan = check(file, console, show=arguments.dry_run)
    if plan.problems:
        return 2
    return 0 if arguments.dry_run else run_session(file, plan, identity(file.spec), console)


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


_IDENTITY = ("recipe", "overrides", "config_dirs", "space", "metric", "search", "scheduler")


def identity(spec: SweepSpec) -> dict[str, Any]:
    """Return what makes two sweeps the same; budget, resources and storage may change."""
    whole = dataclasses.asdict(spec)
    # JSON, as the journal will give it back.
    identity: dict[str, Any] = json.loads(json.dumps({key: whole[key] for key in _IDENTITY}))
    return identity


def _check_identity(state: SweepState, spec: SweepSpec) -> None:
    if not state.identity:
        return
    now = identity(spec)
    changed = [
        f"{key} was {json.dumps(state.identity.get(key))}, is {json.dumps(now[key])}"
        for key in _IDENTITY
        if state.identity.get(key) != now[key]
    ]
    if changed:
        raise SweepError(
            f"{spec.directory} holds another sweep of this name: {'; '.join(changed)}; "
            "choose a new one (name=...), or remove that directory"
        )


def _is_finished(state: SweepState, spec: SweepSpec) -> bool:
    """Tell whether there is nothing left to do; a grid without a budget is at its end when its driver said so."""
    ended = bool(state.trials) and state.count(*ENDED) == len(state.trials)
    enough = state.closed == "done" and len(state.trials) >= (spec.budget.trials or 0)
    return ended and enough and (spec.directory / "best").exists()


if __name__ == "__main__":
    run_cli(main)
