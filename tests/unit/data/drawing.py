"""A dataset for loader workers, which import this file: so it imports little."""

from __future__ import annotations

import sys

import torch
from torch import Tensor
from torch.utils.data import Dataset


class Drawing(Dataset):
    """Gives a draw from torch's own generator, and whether Lightning has been imported, which takes seconds."""

    def __getitem__(self, index: int) -> Tensor:
        return torch.tensor([torch.rand(()).item(), float("lightning" in sys.modules)])
