"""How workers train together: Lightning's strategies, as Ray Train's workers need them."""

from __future__ import annotations

import torch
from lightning.pytorch.strategies import Strategy
from ray.train.lightning import RayDDPStrategy
from ray.train.torch import get_device
from typing_extensions import override

from rayconvai.errors import ConfigError
from rayconvai.train.sharding import FSDP2Strategy


class _RayFSDP2Strategy(FSDP2Strategy):
    @property
    @override
    def root_device(self) -> torch.device:
        device: torch.device = get_device()
        return device


def worker_strategy(name: str) -> Strategy:
    """Return the strategy that ``trainer.strategy`` names, for one worker of several.

    Raises:
        ConfigError: workers cannot train together by it.
    """
    if name == "fsdp2":
        return _RayFSDP2Strategy()
    if name in ("auto", "ddp"):
        strategy: Strategy = RayDDPStrategy()  # type: ignore[no-untyped-call]
        return strategy
    raise ConfigError(f"trainer.strategy is {name}; several workers train by ddp or fsdp2")
