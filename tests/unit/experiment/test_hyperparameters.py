"""A run that goes on with a changed optim section: the change holds, and what is not changed is as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer

from rayconvai.config.compose import compose
from rayconvai.train.fit import fit
from rayconvai.train.runtime import Runtime
from rayconvai.train.until import StopAfter

RECIPES = Path(__file__).parents[2] / "sweep"
ROW = {"audio_filepath": "none.wav", "duration": 1.0, "text": "2"}


class _Rates(Callback):
    """The rate and the decay of each step."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, float]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        group = trainer.optimizers[0].param_groups[0]
        self.seen.append((group["lr"], group["weight_decay"]))


@pytest.mark.parametrize("schedule", ["none", "cosine"])
def test_what_changed_holds_from_there_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, schedule: str) -> None:
    monkeypatch.syspath_prepend(str(RECIPES))
    (tmp_path / "rows.jsonl").write_text((json.dumps(ROW) + "\n") * 4)
    corpus = [f"data.corpus.{split}='{tmp_path}/rows.jsonl'" for split in ("train", "dev", "test")]
    resume = ["exp_manager.resume_if_exists=true", "exp_manager.resume_ignore_no_checkpoint=true"]

    def rates(name: str, until: int, rate: float, decay: float) -> list[tuple[float, float]]:
        lines = [*corpus, *resume, f"schedule={schedule}", f"optim.lr={rate}", f"optim.weight_decay={decay}"]
        config, seen = compose("line/line", lines, [RECIPES / "configs"]), _Rates()
        fit(config, Runtime(run_dir=tmp_path / name, callbacks=[seen, StopAfter(until)], progress=False))
        return seen.seen

    whole = rates("whole", 4, 0.02, 0.1)
    assert rates("same", 2, 0.02, 0.1) + rates("same", 4, 0.02, 0.1) == whole
    assert rates("changed", 2, 0.01, 0.0) != whole[:4]
    # The lowest rate, which does not scale with the base, is a ten-thousandth of these.
    resumed = [*rates("changed", 3, 0.02, 0.1), *rates("changed", 4, 0.02, 0.1)]
    assert [value for step in resumed for value in step] == pytest.approx(
        [value for step in whole[4:] for value in step], rel=1e-3
    )
