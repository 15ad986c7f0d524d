"""``python -m rayconvai.sweep FILE [KEY=VALUE ...] [--dry-run]``: check, run, and end with the best as an artefact."""

from __future__ import annotations

import argparse
import gc

from rayconvai.errors import run_cli
from rayconvai.places import in_ray_job
from rayconvai.sweep.budget import is_finished
from rayconvai.sweep.identity import check_identity, fork, identity
from rayconvai.sweep.journal import read_journal
from rayconvai.sweep.show import command_console, quieten_lightning, trial_table
from rayconvai.sweep.spec import load_spec
from rayconvai.train.address import check_address


def main() -> int:
    """Run the command; return its exit status."""
    arguments = _arguments().parse_intermixed_args()
    file = load_spec(arguments.file, arguments.overrides)
    if arguments.fork:
        file = fork(file)
        print(f"fork: {file.spec.place}")
    console = command_console()
    if in_ray_job():  # where it is to be found from elsewhere
        console.print(f"sweep: {file.spec.place}", highlight=False, soft_wrap=True)
    state = read_journal(file.spec.place)
    check_identity(state, file.spec, identity(file.spec))
    if not arguments.dry_run:
        if reason := is_finished(state, file.spec):
            console.print(trial_table(state.ranked(file.spec.metric.name, file.spec.metric.mode), file.spec.metric))
            more = "a larger budget" if reason == "done" else f"another {reason}"
            console.print(f"{file.spec.place} is finished ({reason}); {more} extends it", soft_wrap=True)
            return 0
        check_address()
    # Torch, Lightning and Ray take seconds to import: what needs none of them has been said by now.
    gc.disable()  # a fifth of those seconds would go into looking for garbage among what stays
    from rayconvai.sweep.session import check, run_session

    gc.freeze()
    gc.enable()
    quieten_lightning()
    plan = check(file, state, console, show=arguments.dry_run)
    if plan.problems:
        return 2
    return 0 if arguments.dry_run else run_session(file, plan, console)


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rayconvai.sweep",
        description="Run a sweep: check every point first, train the trials, rank them, keep the best as an artefact. "
        "The same command again goes on with an unfinished sweep.",
    )
    parser.add_argument("file", help="a sweep file, such as sweeps/asr.yaml")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="change keys of the file: budget.trials=4")
    parser.add_argument(
        "--fork", action="store_true", help="a changed sweep: take the next free name, and learn from the old one"
    )
    parser.add_argument("--dry-run", action="store_true", help="check everything, show the points, train nothing")
    return parser


if __name__ == "__main__":
    run_cli(main)
