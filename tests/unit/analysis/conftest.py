"""Sweeps whose journals are written as a driver would, without a trial."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rayconvai.sweep.journal import Journal

SPACE = {
    "optim.lr": "loguniform(1e-4, 1e-1)",
    "layers": "choice(2, 4)",
    "optim": "choice(adamw, muon)",
    "optim.momentum": {"when": {"optim": "muon"}, "is": "uniform(0.8, 0.99)"},
}
SPEC = {
    "name": "demo", "recipe": "asr/conformer_ctc", "metric": {"name": "val_wer", "mode": "min"}, "space": SPACE,
    "scheduler": {"name": "asha"}, "budget": {"trials": 12, "epochs": 4},
}  # fmt: skip


class Writer:
    """Writes the journal of a sweep."""

    def __init__(self, directory: Path, **keys: Any) -> None:
        self.directory = directory
        self.journal = Journal(directory)
        self.journal.open({"recipe": "asr/conformer_ctc"}, {**SPEC, **keys})

    def point(self, trial: int, point: dict[str, Any], repeat: int = 0, group: int | None = None) -> None:
        where = {"trial": trial, "group": trial if group is None else group, "repeat": repeat}
        self.journal.append("point", **where, point=point, overrides=[f"{k}={v}" for k, v in point.items()], notes={})

    def attempt(self, trial: int, values: list[float | None], number: int = 1, node: str = "a", first: int = 1) -> None:
        """Let an attempt report these values, an epoch each."""
        self.journal.append("attempt", trial=trial, attempt=number)
        for epoch, value in enumerate(values, start=first):
            metrics = {"val_wer": value, "train_loss": 3 * value if value else None}
            cost = {"wall": 10.0 * epoch, "cpu": 9.0 * epoch, "gpu": 0.0, "memory": 1000, "gpu_memory": 0,
                    "seen": {"audio_seconds": 100.0 * epoch}}  # fmt: skip
            fields = {"epoch": epoch, "step": 5 * epoch - 1, "metrics": metrics, "cost": cost}
            self.journal.append("result", trial=trial, attempt=number, node=node, **fields)

    def end(self, trial: int, status: str = "finished", reason: str = "", **known: Any) -> None:
        self.journal.append("end", trial=trial, status=status, reason=reason, **{"parameters": 1000 + trial, **known})

    def close(self) -> Path:
        self.journal.append("close", reason="done")
        self.journal.close()
        return self.directory


@pytest.fixture
def writer(tmp_path: Path) -> Callable[..., Writer]:
    return lambda directory="demo", **keys: Writer(tmp_path / directory, **keys)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve trials: some stopped early, one infeasible, one that lost a process and went to another node."""
    made = Writer(tmp_path_factory.mktemp("sweeps") / "demo")
    for trial in range(12):
        optim = ("adamw", "muon")[trial % 2]
        momentum = {"optim.momentum": 0.8 + 0.01 * trial} if optim == "muon" else {}
        lr = 10 ** (-4 + trial / 4)
        made.point(trial, {"optim.lr": lr, "layers": 2 + 2 * (trial % 3 == 0), "optim": optim, **momentum})
        curve = [0.9 / epoch + 0.05 * abs(trial - 7) for epoch in range(1, 5)]
        if trial == 3:
            made.attempt(trial, curve[:1])
            made.journal.append("lost", trial=trial, attempt=1, reason="its node died")
            made.attempt(trial, curve[1:], number=2, node="b", first=2)
            made.end(trial)
        elif trial == 5:
            made.attempt(trial, [])
            made.end(trial, "infeasible", "out of memory")
        elif trial in (0, 11):
            made.attempt(trial, curve[:2])
            made.end(trial, "stopped")
        else:
            made.attempt(trial, curve)
            made.end(trial)
    return made.close()
