"""What a sweep loses when it is killed again and again: python benchmarks/chaos.py [--kills 40] [--seed 0]

Each of SWEEPS runs undisturbed, and then killed at random moments in every way that tests/crash knows, each time taken
up again by the same command, over and over until there were enough kills. Nothing may be missing or doubled, and all
points and metrics must be, bit for bit, those of the undisturbed sweep. Prints a line for each kill, and a verdict for
each sweep. Linux only.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "crash"))

from harness import KILLS, Place, Session, differences, faults, outcome, small_disk

TRIALS = 6
OPTUNA = ["search.name=optuna"]
ASHA = ["scheduler={name: asha, reduction: 2}"]
CONDITIONS = [
    "space.model.depth=choice(1, 2, 3)",
    "space.model.width=choice(8, 12, 16)",
    "space.model.dropout={when: {model.depth: [2, 3]}, is: 'uniform(0, 0.4)'}",
    "constraints=[model.width % model.depth == 0]",
]
SWEEPS = {
    name: [f"budget.trials={TRIALS}", *overrides]
    for name, overrides in {
        "random": [],
        "random, two at once": ["resources.concurrent=2"],
        "optuna, asha": [*OPTUNA, *ASHA],
        "optuna, hyperband": [*OPTUNA, "scheduler={name: hyperband, reduction: 2}"],
        "random, pbt": ["scheduler={name: pbt}"],
        "optuna, asha, repeats": [*OPTUNA, *ASHA, "repeats=2"],
        "optuna, median, conditions": [*OPTUNA, "scheduler={name: median}", *CONDITIONS],
    }.items()
}


def main() -> int:
    """Kill the sweeps; return 1 if one of them lost anything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=40, help="at least so many, over all sweeps")
    parser.add_argument("--seed", type=int, default=0, help="of the kills and their moments")
    parser.add_argument("--only", nargs="*", default=list(SWEEPS), choices=list(SWEEPS), metavar="SWEEP")
    parser.add_argument("--directory", type=Path, help="keep the sweeps there, to look at")
    arguments = parser.parse_args()
    kills: Counter[str] = Counter()
    verdicts: list[tuple[str, int, list[str]]] = []
    calm: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        root = Path(arguments.directory or stack.enter_context(tempfile.TemporaryDirectory())).absolute()
        for turn in count():
            name = arguments.only[turn % len(arguments.only)]
            if kills.total() >= arguments.kills and turn >= len(arguments.only):
                break
            if name not in calm:
                calm[name] = _undisturbed(Place(root / f"{turn}-calm", *SWEEPS[name]))
            print(f"\n{name}", flush=True)
            before = kills.total()
            with small_disk(root / f"{turn}-disk", megabytes=64) as disk:
                place = Place(root / f"{turn}-killed", *SWEEPS[name], storage=disk)
                torment(place, random.Random(f"{arguments.seed} {turn}"), kills)
                wrong = faults(place, TRIALS) + differences(place, calm[name])
            verdicts.append((name, kills.total() - before, wrong))
            print("\n".join(wrong[:20]) or f"  nothing lost: {len(calm[name])} facts are the same", flush=True)
    print()
    for name, killed, wrong in verdicts:
        print(f"{name:30} {killed:3} kills  {'LOST SOMETHING' if wrong else 'nothing lost'}")
    print(f"{kills.total()} kills: {', '.join(f'{kind} {times}' for kind, times in sorted(kills.items()))}")
    return int(any(wrong for _, _, wrong in verdicts))


def _undisturbed(place: Place) -> dict[str, Any]:
    status = place.run()
    wrong = faults(place, TRIALS)
    if status or wrong:
        sys.exit(f"the undisturbed sweep ended with status {status}: {wrong}\n{place.output}")
    return outcome(place)


def torment(place: Place, chance: random.Random, kills: Counter[str]) -> None:
    """Run a sweep to its end through one kill after another."""
    began = time.monotonic()
    possible = [kind for kind in KILLS if kind != "full disk" or place.directory.parent.is_mount()]
    kinds: list[str] = []
    with ExitStack() as sessions:
        while True:
            session = sessions.enter_context(place.started())
            before = kills.total()
            while _reaches_moment(session, chance):
                kinds = kinds or chance.sample(possible, len(possible))
                kind = kinds.pop()
                known = len(place.records())
                note = KILLS[kind](session, chance)
                if note is None:
                    break
                kills[kind] += 1
                at = f"  {time.monotonic() - began:6.1f} s, {known:3} records"
                print(f"{at}: {kind} {note} (status {session.process.poll()})", flush=True)
            if session.process.returncode == 0:
                return
            if kills.total() == before:
                sys.exit(f"the command does not go on: status {session.process.returncode}\n{place.output[-3000:]}")


def _reaches_moment(session: Session, chance: random.Random) -> bool:
    """Wait for a random moment; False if the command ended before it."""
    place = session.place
    known = len(place.records())
    more = chance.randrange(11)
    delay = chance.uniform(0, 1 if more else 10)  # without a record to wait for: some moment of the start
    if not session.wait(lambda: len(place.records()) >= known + more):
        return False
    until = time.monotonic() + delay
    return session.wait(lambda: time.monotonic() > until)


if __name__ == "__main__":
    sys.exit(main())
