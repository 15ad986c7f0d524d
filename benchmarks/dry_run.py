"""How long a dry run takes: python benchmarks/dry_run.py [POINTS]. To reach: 200 points in 15 s on two cores.

Prints the seconds of the check itself and those of the whole command, imports and all.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Measure the check in this process, then the command."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    overrides = [f"budget.trials={count}", "search.name=random"]
    began = time.perf_counter()
    from rayconvai.sweep.plan import plan_sweep
    from rayconvai.sweep.spec import load_spec

    imported = time.perf_counter()
    cpu = time.process_time()
    plan = plan_sweep(load_spec(ROOT / "sweeps" / "asr.yaml", overrides))
    checked, cpu = time.perf_counter(), time.process_time() - cpu
    assert len(plan.points) == count, plan.problems
    print(f"imports {imported - began:.1f} s")
    print(f"{plan.composed} points checked in {checked - imported:.1f} s ({cpu:.1f} s of CPU)")
    command = [sys.executable, "-m", "rayconvai.sweep", "sweeps/asr.yaml", *overrides, "--dry-run"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    print(f"the whole command: {time.perf_counter() - checked:.1f} s")


if __name__ == "__main__":
    main()
