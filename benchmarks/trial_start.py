"""How long a trial takes from being scheduled to its first training step: python benchmarks/trial_start.py

Runs a small sweep of the demo's recipe and reads the journal: for each trial, when Tune gave it to a process, and when
the run's first step was done (the first line of its metrics record). Imports weigh on the first trial of a process;
the others begin in processes that have them. To reach: 2 s beyond the imports of torch and lightning.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rayconvai.experiment.layout import RunLayout

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Run the sweep and print a line for each trial."""
    with tempfile.TemporaryDirectory() as storage:
        overrides = [
            f"storage={storage}",
            "budget={trials: 6, epochs: 1}",
            "search.name=random",
            "scheduler.name=none",
            "resources.concurrent=1",
            "overrides=[data=digits, trainer=cpu, trainer.limit_train_batches=2, "
            "trainer.limit_val_batches=1, trainer.log_every_n_steps=1]",
        ]
        command = [sys.executable, "-m", "rayconvai.sweep", "sweeps/asr.yaml", *overrides]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        directory = Path(storage) / "asr"
        ended = 0.0
        for record in _journal(directory):
            if record["kind"] == "attempt":
                run = RunLayout(directory / "trials" / f"t{record['trial']:04d}")
                step = json.loads(run.metrics.read_text(encoding="utf-8").splitlines()[0])
                gap = f", {record['time'] - ended:.2f} s after the end of the one before" if ended else ""
                print(f"trial {record['trial']}: first step {step['time'] - record['time']:.2f} s after its start{gap}")
            if record["kind"] == "end":
                ended = record["time"]


def _journal(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "journal" / "0000.jsonl").read_text().splitlines()]


if __name__ == "__main__":
    main()
