"""What loader workers draw and import: ``python -m tests.unit.data.drawing`` prints both, as a fork server once started
knows what others had it import."""

from __future__ import annotations

import json
import sys

import torch
from torch import Tensor
from torch.utils.data import Dataset

from rayconvai.data.loader import StatefulLoader
from rayconvai.data.sampler import LengthBatchSampler, Ranks


class Drawing(Dataset):
    """Gives a draw from torch's own generator, and whether Lightning has been imported, which takes seconds."""

    def __getitem__(self, index: int) -> Tensor:
        return torch.tensor([torch.rand(()).item(), float("lightning" in sys.modules)])


def main() -> None:
    from lightning.fabric.utilities.data import _auto_add_worker_init_fn

    seen = []
    for rank in range(2):
        sampler = LengthBatchSampler([1.0] * 60, batch_length=6, ranks=Ranks(rank=rank, count=2))
        loading = StatefulLoader(Drawing(), batch_sampler=sampler, num_workers=2)
        _auto_add_worker_init_fn(loading, rank)  # as a trainer does
        seen += [row for batch in loading for row in batch.tolist()]
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
