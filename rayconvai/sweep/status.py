"""``python -m rayconvai status runs/asr``: how a sweep stands, from its journal alone. Knows no Ray and no torch."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from rich.text import Text

from rayconvai.errors import SweepError, nearest
from rayconvai.sweep.journal import load
from rayconvai.sweep.show import command_console, group_table, overview, ranking, trial_table
from rayconvai.sweep.state import SweepState
from rayconvai.sweep.store import Holder, Store, open_store

_ROWS = 10
_REASONS = {
    "done": "all its trials have ended",
    "interrupted": "interrupted; the same command goes on",
    "failed": "too many trials failed",
}


def main(arguments: list[str]) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m rayconvai status", description="Show how a sweep stands, whether it runs or not."
    )
    parser.add_argument("sweep", help="its directory or address: runs/asr, s3://bucket/runs/asr")
    parser.add_argument("--trials", action="store_true", help="show all trials, not only those at work and the best")
    options = parser.parse_args(arguments)
    store = open_store(options.sweep)
    state, holder = load(store), store.holder()
    if holder is None:
        state.nothing_runs()  # though a driver that was killed has not said so
    if not state.spec:
        raise no_sweep(store)
    console = command_console()
    metric = state.metrics[0]
    console.print(Text(f"{options.sweep}: {state.spec.get('recipe', '')}, {metric.name} ({metric.mode})", "bold"))
    console.print(_driver(state, holder), highlight=False, soft_wrap=True)
    total = state.spec.get("budget", {}).get("trials")
    console.print(overview(state, total, at_work=holder is not None), highlight=False)
    if not state.trials:
        return 0
    groups = ranking(state)
    if state.spec.get("repeats", 1) > 1:
        console.print("", group_table(groups[: None if options.trials else _ROWS], metric.name), highlight=False)
    ranked = [trial for group in groups for trial in group.trials]
    if not options.trials:
        running = [trial for trial in ranked if trial.status == "running"]
        ranked = running + [trial for trial in ranked[:_ROWS] if trial.status != "running"]
    console.print("", trial_table(ranked, metric), highlight=False)
    return 0


def _driver(state: SweepState, holder: Holder | None) -> str:
    if holder:
        return f"at work: {holder}"
    last = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(state.time))
    if not state.closed:
        return f"nobody is at work; the driver was killed, it was last heard of at {last}; the same command goes on"
    return f"nobody is at work; the driver ended at {last}: {_REASONS.get(state.closed, state.closed)}"


def no_sweep(store: Store) -> SweepError:
    """Return the error for a place whose journal says nothing; with the sweeps that may have been meant."""
    if store.segments():
        return SweepError(f"{store.place} holds no sweep: no line of the journal in {store.place}/journal is whole")
    return SweepError(f"{store.place} holds no sweep: there is no journal in {store.place}/journal{_others(store)}")


def _others(store: Store) -> str:
    if not isinstance(store.place, Path):
        return ""
    place = store.place.absolute()
    for parent in (place, place.parent):
        names = sorted(path.parent.name for path in parent.glob("*/journal") if path.is_dir())
        if names:
            return nearest(place.name, names) or f"; sweeps in {parent}: {', '.join(names[:_ROWS])}"
    return ""
