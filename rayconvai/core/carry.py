"""An optimizer that takes over the moments of another one and keeps its own hyperparameters."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from rayconvai.core.optim import build_optimizer
from rayconvai.core.policies import WarmupPolicy

_NEED_NO_STATE = ("lr", "weight_decay", "initial_lr", "params")


def carry_moments(optimizer: Optimizer, config: Mapping[str, Any], saved: Mapping[str, Any], module: nn.Module) -> None:
    """Give a new optimizer the state that another had; its groups stay as they are.

    One of another class, or one that now uses what was off before (a momentum of 0, amsgrad), begins afresh.

    Args:
        optimizer: the new one.
        config: the ``optim`` section of the other.
        saved: the other's ``state_dict``.
        module: whose parameters both train.
    """
    before = build_optimizer(config, module)
    was = {parameter: group for group in before.param_groups for parameter in group["params"]}
    places = {parameter: place for place, parameter in enumerate(was)}
    now = [(parameter, group) for group in optimizer.param_groups for parameter in group["params"]]
    if type(before) is not type(optimizer):
        return
    state = {
        place: saved["state"][places[parameter]]
        for place, (parameter, group) in enumerate(now)
        if places.get(parameter) in saved["state"] and not _switched_on(was[parameter], group)
    }
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def move_schedule(schedule: LRScheduler | ReduceLROnPlateau, steps: int) -> None:
    """Bring a new schedule to where it is after so many of its steps; one that goes by a metric begins afresh."""
    if isinstance(schedule, ReduceLROnPlateau):
        return
    if not isinstance(schedule, WarmupPolicy):  # PyTorch's compute each rate from the one before
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that no optimizer stepped in between
            for _ in range(steps):
                schedule.step()
        return
    schedule.last_epoch, schedule._step_count = steps, steps + 1
    schedule._last_lr = rates = schedule.get_lr()
    for group, rate in zip(schedule.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def _switched_on(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    return any(bool(value) and not before.get(key) for key, value in now.items() if key not in _NEED_NO_STATE)
