"""The same with the loader that recognition trains with: bucketed batches, its position in the checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rayconvai.data.loader import StatefulLoader
from rayconvai.data.sampler import LengthBatchSampler


class Sounds(torch.utils.data.Dataset):
    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.randn(4, generator=torch.Generator().manual_seed(int(index)))


def collate(items: list[torch.Tensor]) -> list[torch.Tensor]:
    return [torch.stack(items)]


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_resumed_from_any_checkpoint_equals_unstopped(
    workers: int,
    net_class: type,
    run: Callable[..., Any],
    tmp_path: Path,
    copies: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def loader(_: Any) -> StatefulLoader:
        durations = np.linspace(1, 5, 17, dtype=np.float32)
        sampler = LengthBatchSampler(durations, batch_length=12, num_buckets=3, shuffle=True, seed=3)
        return StatefulLoader(Sounds(), batch_sampler=sampler, collate_fn=collate, num_workers=workers)

    monkeypatch.setattr(net_class, "train_dataloader", loader)
    options = {"checkpoint_callback_params": {"every_n_train_steps": 1}}
    _, unstopped, _ = run(tmp_path / "unstopped", **options)
    for copy in copies if workers == 0 else copies[2:9:3]:
        _, resumed, _ = run(copy, seed=99, resume_if_exists=True, **options)
        assert torch.equal(resumed.flat(), unstopped.flat()), copy
