"""How workers train together: Lightning's strategies, as Ray Train's workers need them."""

from __future__ import annotations

from lightning.pytorch.strategies import Strategy
from ray.train.lightning import RayDDPStrategy

from rayconvai.errors import ConfigError


def worker_strategy(name: str) -> Strategy:
    """Return the strategy that ``trainer.strategy`` names, for one worker of several.

    Raises:
        ConfigError: workers cannot train together by it.
    """
    if name in ("auto", "ddp"):
        strategy: Strategy = RayDDPStrategy()  # type: ignore[no-untyped-call]
        return strategy
    raise ConfigError(f"trainer.strategy is {name}; several workers train by ddp")
