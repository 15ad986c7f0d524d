"""Sweeps that are written down, not run: their journals say what a driver's would."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rayconvai.core.sample import Marked, Matrix, Sample, Sound, Text
from rayconvai.experiment.samples import write_samples

EPOCHS = 12
HOSTILE = "</script><script>hacked = 1</script><img src=x onerror='hacked = 1'>"
SPEC: dict[str, Any] = {
    "name": "written",
    "recipe": "asr/conformer_ctc",
    "space": {
        "model.encoder.num_layers": "choice(2, 4, 8)",
        "optim": "choice(adamw, muon)",
        "optim.lr": "loguniform(1e-4, 1e-2)",
        "optim.momentum": {"when": {"optim": "muon"}, "is": "uniform(0.8, 0.99)"},
        "augment": "choice(none, specaugment, noise)",
    },
    "metric": {"name": "val_wer", "mode": "min"},
    "search": {"name": "optuna", "seed": 0},
    "scheduler": {"name": "asha", "grace": 2, "reduction": 3},
    "budget": {"trials": 200, "epochs": EPOCHS},
    "repeats": 1,
    "resources": {"workers": 1, "cpus": 2},
    "prices": {"cpu_hour": 0.04, "gpu_hour": 0, "currency": "USD"},
}
PROVENANCE = {
    "attempt": 1,
    "time": "2026-01-31T12:00:00+00:00",
    "command": "python -m rayconvai.sweep sweeps/asr.yaml",
    "seed": 0,
    "python": "3.11.7",
    "hardware": {"host": "node1", "processor": "CPU", "cpus": 8, "memory_bytes": 2**35, "gpus": []},
    "training": {"world_size": 1, "precision": "32-true"},
    "git": {"commit": "0123456789abcdef", "branch": "main", "diff": "diff --git a/secret b/secret\n+secret"},
    "packages": {"torch": "2.14.1", "lightning": "2.6.6"},
}


@dataclass
class Written:
    """A sweep that is written record by record."""

    directory: Path
    spec: dict[str, Any] = field(default_factory=dict)
    time: float = 1_800_000_000.0

    def __post_init__(self) -> None:
        self.spec = SPEC | self.spec
        (self.directory / "journal").mkdir(parents=True)
        command = ["/somewhere/rayconvai/sweep/__main__.py", "sweeps/asr.yaml"]
        self.add("sweep", version=2, identity={"epochs": EPOCHS}, spec=self.spec, command=command)

    def add(self, kind: str, seconds: float = 1.0, **fields: Any) -> None:
        self.time += seconds
        with (self.directory / "journal" / "0000.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, "time": self.time, **fields}) + "\n")

    def trial(self, number: int, point: dict[str, Any], values: list[float], end: str = "", reason: str = "") -> None:
        """Write a trial's records, and the files that its run would have left."""
        repeats = self.spec["repeats"]
        place = {"group": number // repeats, "repeat": number % repeats}
        overrides = [f"{key}={value}" for key, value in point.items()]
        self.add("point", trial=number, **place, point=point, overrides=overrides)
        self.add("attempt", trial=number, attempt=1)
        run = self.directory / "trials" / f"t{number:04d}"
        run.mkdir(parents=True)
        (run / "provenance.json").write_text(json.dumps(PROVENANCE))
        (run / "config.yaml").write_text("seed: 0\n")
        for epoch, value in enumerate(values, start=1):
            metrics = {"val_wer": value, "val_loss": 3 * value, "train_loss": 2.5 * value}
            seen = {"audio_seconds": 600.0 * epoch}
            cost = {"wall": 30.0 * epoch, "cpu": 55.0 * epoch, "memory": 2**30, "seen": seen}
            self.add("result", 15, trial=number, attempt=1, epoch=epoch, metrics=metrics, cost=cost)
        if end:
            self.add("end", trial=number, status=end, reason=reason, parameters=1_000_000 * (number % 3 + 1))

    def close(self, reason: str = "done") -> None:
        self.add("close", reason=reason)

    def promoted(self, trial: int = 0, metrics: dict[str, float] | None = None) -> None:
        """Write the card that the best would have."""
        best = self.directory / "best"
        best.mkdir()
        data = {"train": {"utterances": 1000, "hours": 1.2, "sha256": "ab" * 32}}
        told = {"metrics": metrics or {"test_wer": 0.1234}, "measured_on": "test", "data": data}
        (best / "card.json").write_text(json.dumps({**told, "sweep": {"trial": f"t{trial:04d}"}}))

    def sampled(self, text: str) -> None:
        """Write what the best would have made of two examples, of which one can be heard."""
        tone = 0.3 * np.sin(np.arange(12_000) * 2 * np.pi * 440 / 8000)
        pieces = (("", "the"), ("sub", text), ("del", "fox"))
        samples = [
            Sample(
                f"test.jsonl:{line}",
                0.25 * line,
                {
                    "reference": Text(text),
                    "hypothesis": Marked(pieces),
                    "audio": Sound(signal=tone, sample_rate=8000),
                    "alignment": Matrix(np.eye(12), "text", "frames"),
                },
            )
            for line in (1, 2)
        ]
        write_samples(self.directory / "best" / "samples", "test", samples)


def points(count: int, seed: int = 0) -> Iterator[tuple[dict[str, Any], list[float]]]:
    """Draw points, and how their word error rates fall: better with more layers, best at a rate of 2e-3."""
    rng = random.Random(seed)
    for _ in range(count):
        layers, optim, augment = rng.choice((2, 4, 8)), rng.choice(("adamw", "muon")), rng.choice(("none", "noise"))
        rate = math.exp(rng.uniform(math.log(1e-4), math.log(1e-2)))
        point = {"model.encoder.num_layers": layers, "optim": optim, "optim.lr": rate, "augment": augment}
        if optim == "muon":
            point["optim.momentum"] = rng.uniform(0.8, 0.99)
        last = 0.1 + 0.05 * math.log10(rate / 2e-3) ** 2 + 0.1 / layers + 0.02 * (augment == "none")
        yield point, [last + 0.9 * math.exp(-epoch / 2.5) + rng.gauss(0, 0.004) for epoch in range(1, EPOCHS + 1)]


def write_sweep(directory: Path, count: int = 200, **spec: Any) -> Written:
    """Write a sweep of so many trials, of which some were stopped and a few failed."""
    sweep = Written(directory, spec)
    for number, (point, values) in enumerate(points(count)):
        if number % 17 == 5:
            sweep.trial(
                number, point, values[:1], "infeasible", f"out of memory at batch {number}; lower batch_seconds"
            )
        elif number % 29 == 7:
            sweep.trial(number, point, [], "failed", "ZeroDivisionError: a <b>bug</b>")
        elif values[1] > 0.62:
            sweep.trial(number, point, values[:2], "stopped")
        else:
            sweep.trial(number, point, values, "finished")
    sweep.close()
    sweep.promoted()
    sweep.sampled("quick")
    return sweep


def hostile(directory: Path) -> Written:
    """A sweep that says something wicked wherever it can."""
    sweep = Written(directory, {"space": {"model.text": f"choice({HOSTILE})"}, "overrides": [HOSTILE]})
    for number, (_, values) in enumerate(points(4)):
        sweep.trial(number, {"model.text": HOSTILE, f"key{HOSTILE}": number}, values, "finished")
    sweep.trial(4, {"model.text": HOSTILE}, [], "failed", HOSTILE)
    sweep.close(HOSTILE)
    sweep.promoted(metrics={HOSTILE: 0.1})
    sweep.sampled(HOSTILE)
    return sweep
