"""How long the journal of a large sweep takes to be read: ``python benchmarks/journal.py [TRIALS] [EPOCHS]``.

Writes the journal of a sweep of 10,000 trials x 100 epochs, 64 at a time, as a driver would have left it, and measures
what a driver reads before it goes on and what ``python -m rayconvai status`` takes, each in a process of its own: with
the snapshot, and without. Then what a record costs the driver: its CPU time, and the snapshot between two segments.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from rayconvai.sweep.journal import SEGMENT, Journal

AT_ONCE = 64
SPEC = {
    "name": "large", "metric": {"name": "val_wer", "mode": "min"}, "budget": {"trials": 10_000, "epochs": 100},
    "more_metrics": [], "repeats": 1, "prices": {"cpu_hour": 0.04, "gpu_hour": 2.5, "currency": "USD"},
}  # fmt: skip
READ = "from pathlib import Path; from rayconvai.sweep.journal import Journal; Journal(Path(r'{}')).close()"


def records(trials: int, epochs: int) -> Iterator[dict[str, Any]]:
    """All records of the sweep; half of the trials are stopped in their first tenth, as ASHA would."""
    rng = random.Random(0)
    yield {"kind": "sweep", "version": 2, "identity": {"recipe": "asr/conformer_ctc"}, "spec": SPEC, "command": ["x"]}
    for first in range(0, trials, AT_ONCE):
        block = range(first, min(first + AT_ONCE, trials))
        for trial in block:
            point = {"optim.lr": rng.random(), "model.encoder.num_layers": rng.choice((2, 4, 8)), "augment": "noise"}
            overrides = [f"{key}={value}" for key, value in point.items()]
            yield {"kind": "point", "trial": trial, "group": trial, "repeat": 0, "point": point,
                   "overrides": overrides, "notes": {}}  # fmt: skip
            yield {"kind": "attempt", "trial": trial, "attempt": 1}
        for epoch in range(1, epochs + 1):
            for trial in block:
                yield {"kind": "result", "trial": trial, "attempt": 1, "epoch": epoch, **report(rng, epoch)}
        for trial in block:
            yield {"kind": "end", "trial": trial, "status": rng.choice(("finished", "stopped")), "reason": ""}


def report(rng: random.Random, epoch: int) -> dict[str, Any]:
    names = ("train_loss", "val_loss", "val_wer", "val_cer", "lr", "grad_norm", "seconds")
    cost = {"wall": 31.237, "cpu": 29.164, "gpu": 31.237}
    return {
        "metrics": {name: rng.random() / epoch for name in names},
        "cost": {
            **{name: round(seconds * epoch, 3) for name, seconds in cost.items()},
            "memory": 2_345_678_901, "gpu_memory": 12_345_678_901, "seen": {"audio_seconds": 3600.5 * epoch},
        },
    }  # fmt: skip


def write(directory: Path, segment: int, source: Iterator[dict[str, Any]]) -> int:
    """Write a segment; return its number of records."""
    size = 0
    with (directory / "journal" / f"{segment:04d}.jsonl").open("w") as file:
        for record in islice(source, SEGMENT):
            file.write(json.dumps({"kind": record.pop("kind"), "time": 1764068679.123 + size, **record}) + "\n")
            size += 1
    return size


def measure(what: str, *command: str) -> None:
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, what
    wall, cpu = time.perf_counter() - began, usage.ru_utime + usage.ru_stime
    print(f"{what}: {wall:.2f} s (CPU {cpu:.2f} s), peak {usage.ru_maxrss / 1024:.0f} MB")


def main(trials: int, epochs: int) -> None:
    directory = Path(tempfile.mkdtemp(prefix="journal"))
    try:
        (directory / "journal").mkdir()
        source, segments = records(trials, epochs), 0
        while write(directory, segments, source) == SEGMENT:
            segments += 1
        whole = sum(path.stat().st_size for path in (directory / "journal").iterdir())
        print(f"{trials} trials x {epochs} epochs: {whole / 2**20:.0f} MB in {segments + 1} segments")
        status = ("-m", "rayconvai", "status", str(directory))
        measure("resume without a snapshot", "-c", READ.format(directory))
        measure("status without a snapshot", *status)
        # The last whole segment is one that was being written: the snapshot covers those before it.
        last, torn = (directory / "journal" / f"{number:04d}.jsonl" for number in (segments - 1, segments))
        aside = directory / "last"
        last.rename(aside)
        torn.unlink()
        with Journal(directory) as journal:
            began = time.process_time()
            journal.open({}, SPEC)
            size = (directory / "journal" / "snapshot.json").stat().st_size
            print(f"snapshot: {time.process_time() - began:.2f} s, {size / 2**20:.0f} MB")
            append(journal)
        aside.replace(last)
        measure("resume", "-c", READ.format(directory))
        measure("status", *status)
        measure("status --trials", *status, "--trials")
    finally:
        shutil.rmtree(directory)


def append(journal: Journal, count: int = 2000) -> None:
    rng, trial = random.Random(1), next(iter(journal.state.live))
    began, cpu = time.perf_counter(), time.process_time()
    for epoch in range(count):
        journal.append("result", trial=trial, attempt=1, epoch=epoch + 1000, **report(rng, 1 + epoch))
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    print(f"append: {wall / count * 1e3:.2f} ms a record, {cpu / count * 1e6:.0f} us of CPU")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:] or ("10000", "100")))
