"""How long it takes to look at a sweep: ``python benchmarks/analysis.py [TRIALS EPOCHS]``.

Writes the journal of a sweep of 200 trials x 30 epochs on four nodes, with a conditional key, a log-scaled one, two
choices, early stopping and failures, and measures from the start of a fresh process to all plots as HTML, and to the
report. Then a journal of a million history rows (2,860 trials of up to 100 epochs, 5 metrics): the history frame alone,
and all plots.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rayconvai.sweep.journal import SEGMENT

SPEC = {
    "name": "large", "recipe": "asr/conformer_ctc", "metric": {"name": "val_wer", "mode": "min"}, "more_metrics": [],
    "repeats": 1, "budget": {"trials": 200}, "search": {"name": "optuna"}, "scheduler": {"name": "asha"},
    "space": {
        "optim.lr": "loguniform(1e-4, 1e-1)", "model.encoder.num_layers": "choice(2, 4, 8)",
        "optim": "choice(adamw, muon)", "optim.momentum": {"when": {"optim": "muon"}, "is": "uniform(0.8, 0.99)"},
        "model.encoder.dropout": "uniform(0, 0.5)",
    },
}  # fmt: skip
AT_ONCE = 8


def records(trials: int, epochs: int) -> Iterator[dict[str, Any]]:
    """All records of the sweep."""
    rng, at = random.Random(0), 1764068679.0
    identity = {"recipe": SPEC["recipe"], "epochs": epochs}
    yield {"kind": "sweep", "time": at, "version": 2, "identity": identity, "spec": SPEC, "command": ["x"]}
    for first in range(0, trials, AT_ONCE):
        block = range(first, min(first + AT_ONCE, trials))
        points = {trial: draw(rng) for trial in block}
        last = {trial: epochs if rng.random() < 0.4 else rng.randint(1, epochs) for trial in block}
        for trial in block:
            overrides = [f"{key}={value}" for key, value in points[trial].items()]
            yield {"kind": "point", "time": at, "trial": trial, "group": trial, "repeat": 0, "point": points[trial],
                   "overrides": overrides, "notes": {}}  # fmt: skip
            yield {"kind": "attempt", "time": at, "trial": trial, "attempt": 1}
        for epoch in range(1, epochs + 1):
            at += 30
            for trial in block:
                if epoch <= last[trial]:
                    yield {"kind": "result", "time": at, "trial": trial, "attempt": 1, "epoch": epoch,
                           "node": f"node{trial % 4}", "step": 100 * epoch - 1,
                           **report(rng, epoch, points[trial])}  # fmt: skip
        for trial in block:
            status = "finished" if last[trial] == epochs else rng.choice(("stopped",) * 9 + ("infeasible",))
            yield {"kind": "end", "time": at, "trial": trial, "status": status, "reason": "", "parameters":
                   400_000 * points[trial]["model.encoder.num_layers"]}  # fmt: skip
    yield {"kind": "close", "time": at, "reason": "done"}


def draw(rng: random.Random) -> dict[str, Any]:
    optim = rng.choice(("adamw", "muon"))
    momentum = {"optim.momentum": rng.uniform(0.8, 0.99)} if optim == "muon" else {}
    return {
        "optim.lr": 10 ** rng.uniform(-4, -1), "model.encoder.num_layers": rng.choice((2, 4, 8)), "optim": optim,
        **momentum, "model.encoder.dropout": rng.uniform(0, 0.5),
    }  # fmt: skip


def report(rng: random.Random, epoch: int, point: dict[str, Any]) -> dict[str, Any]:
    floor = 0.1 + 0.1 * abs(math.log10(point["optim.lr"]) + 2.5) + 0.05 * (point["optim"] == "adamw")
    wer = floor + (1 - floor) * math.exp(-epoch / 5) + rng.gauss(0, 0.01)
    metrics = {"train_loss": 3 * wer, "val_loss": 2 * wer, "val_wer": wer, "val_cer": wer / 3, "lr": point["optim.lr"]}
    cost = {"wall": 30.0 * epoch, "cpu": 29.0 * epoch, "gpu": 30.0 * epoch, "memory": 2_345_678_901,
            "gpu_memory": 0, "seen": {"audio_seconds": 3600.5 * epoch}}  # fmt: skip
    return {"metrics": metrics, "cost": cost}


def write(directory: Path, trials: int, epochs: int) -> None:
    (directory / "journal").mkdir(parents=True)
    lines = (json.dumps(record) + "\n" for record in records(trials, epochs))
    for segment in itertools.count():
        part = list(itertools.islice(lines, SEGMENT))
        if not part:
            break
        (directory / "journal" / f"{segment:04d}.jsonl").write_text("".join(part))


def measure(what: str, directory: Path) -> None:
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, __file__, what, str(directory)])
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, what
    wall, cpu = time.perf_counter() - began, usage.ru_utime + usage.ru_stime
    print(f"{what}: {wall:.1f} s (CPU {cpu:.1f} s), peak {usage.ru_maxrss / 1024:.0f} MB", flush=True)


def plots(directory: str) -> None:
    from rayconvai.analysis import Sweep, plots

    sweep = Sweep(directory)
    for name, (_, plot) in plots.ALL.items():
        began = time.perf_counter()
        size = len(plot(sweep).to_html(include_plotlyjs=False))
        print(f"  {name}: {time.perf_counter() - began:.2f} s, {size / 1e6:.1f} MB of HTML")
    assert not {"torch", "ray"} & set(sys.modules)


def history(directory: str) -> None:
    from rayconvai.analysis import Sweep

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    frame = Sweep(directory).history
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    size = frame.memory_usage(deep=True).sum() / 1e6
    print(f"  {len(frame):,} rows, {size:.0f} MB; reading them took {grown / 1024:.0f} MB")


def report_file(directory: str) -> None:
    command = [sys.executable, "-m", "rayconvai", "report", directory]
    print(" ", subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
    print(f"  {(Path(directory) / 'report.html').stat().st_size / 1e6:.1f} MB")


def main(trials: int, epochs: int) -> None:
    directory = Path(tempfile.mkdtemp(prefix="analysis"))
    try:
        write(directory / "sweep", trials, epochs)
        print(f"{trials} trials x {epochs} epochs")
        measure("plots", directory / "sweep")
        measure("report", directory / "sweep")
        write(directory / "million", 2860, 100)
        print("a million rows")
        measure("history", directory / "million")
        measure("plots", directory / "million")
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    if sys.argv[1:2] in (["plots"], ["report"], ["history"]):
        {"plots": plots, "report": report_file, "history": history}[sys.argv[1]](sys.argv[2])
    else:
        main(*(int(argument) for argument in sys.argv[1:] or ("200", "30")))
