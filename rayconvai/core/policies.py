"""What learning-rate schedules share: a warm-up, an optional plateau, then a decay that is a function of the step.

All count optimizer steps. Step ``s`` of the warm-up has ``(s + 1) / (warmup_steps + 1)`` of the base rate; after
``max_steps`` the rate is ``min_lr``. Each parameter group keeps its own base rate; a group whose base rate is below
``min_lr`` stays at it instead of rising.
"""

from __future__ import annotations

from typing import Any, ClassVar, cast

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rayconvai.errors import ConfigError

_POSITION = ("last_epoch", "base_lrs", "_step_count", "_last_lr")


class WarmupPolicy(LRScheduler):
    """Linear warm-up, then the base rate until ``max_steps``; the parent of all our schedules.

    A checkpoint holds the position only. The settings are the config's, so that a run that is resumed with more epochs
    decays towards its new end.

    Args:
        optimizer: its groups' rates are the base rates.
        warmup_steps: optimizer steps of warm-up.
        warmup_ratio: the same as a share of ``max_steps``.
        max_steps: the step after which the rate is ``min_lr``; None: never.
        min_lr: the lowest rate after the warm-up.
        last_epoch: the step to start from, -1 for the first.

    Raises:
        ConfigError: two lengths for one phase, a ratio without ``max_steps``, or ``min_lr`` above the base rate.
    """

    decays: ClassVar[bool] = False
    """Whether it decays towards ``max_steps``, which it then requires."""
    endless = False
    """Whether it goes on after ``max_steps``."""

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        warmup_steps: int | None = None,
        warmup_ratio: float | None = None,
        max_steps: int | None = None,
        min_lr: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        if self.decays and max_steps is None:
            raise ConfigError(f"schedule {type(self).__name__} decays towards max_steps; give it")
        self.max_steps = max_steps
        self.min_lr = min_lr
        self.warmup_steps = phase_length("warmup", warmup_steps, warmup_ratio, max_steps)
        highest = max(float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups)
        if min_lr > highest:
            raise ConfigError(f"schedule.min_lr ({min_lr}) is above the learning rate ({highest}); lower it")
        super().__init__(optimizer, last_epoch)

    @property
    def decay_start(self) -> int:
        """The step until which the base rate holds."""
        return self.warmup_steps

    @property
    def rates(self) -> list[float]:
        """The base rates of the groups. Where a group has a one-element tensor, it computes like a float."""
        return cast(list[float], self.base_lrs)

    def get_lr(self) -> list[float | Tensor]:
        """Return the rate of each parameter group at the current step."""
        step = self.last_epoch
        if step <= self.warmup_steps and self.warmup_steps > 0:
            return [lr * self.warmup(step) for lr in self.rates]
        if step < self.decay_start:
            return [*self.rates]
        if self.max_steps is not None and step > self.max_steps and not self.endless:
            return [self.floor(lr) for lr in self.rates]
        return self._get_lr(step)

    def warmup(self, step: int) -> float:
        """Return the share of the base rate at a step of the warm-up."""
        return (step + 1) / (self.warmup_steps + 1)

    def anneal(self, base_lr: float, step: int) -> float:
        """Return the rate of a group after warm-up and plateau, before the cut at ``min_lr``: a schedule's own."""
        return base_lr

    def floor(self, base_lr: float) -> float:
        """Return the lowest rate of a group."""
        return min(self.min_lr, base_lr)

    def progress(self, step: int, end: int | None = None) -> float:
        """Return how much of the decay is done at a step, from 0 to 1."""
        end = self.max_steps if end is None else end
        assert end is not None, "a schedule that decays requires max_steps"
        return min(1.0, (step - self.decay_start) / max(1, end - self.decay_start))

    def between(self, base_lr: float, share: float) -> float:
        """Return the rate at a share of the way from ``min_lr`` up to the base rate; exact at both ends."""
        return base_lr * share + self.floor(base_lr) * (1.0 - share)

    def state_dict(self) -> dict[str, Any]:
        """Return the position: what a resumed run needs besides its config."""
        return {name: getattr(self, name) for name in _POSITION}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the position, leaving the settings as they are."""
        self.__dict__.update({name: state_dict[name] for name in _POSITION})

    def _get_lr(self, step: int) -> list[float | Tensor]:
        return [max(self.anneal(lr, step), self.floor(lr)) for lr in self.rates]


class WarmupHoldPolicy(WarmupPolicy):
    """Warm-up, then a plateau of ``hold_steps`` (or ``hold_ratio`` of ``max_steps``) before any decay."""

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        hold_steps: int | None = None,
        hold_ratio: float | None = None,
        max_steps: int | None = None,
        **warmup: Any,
    ) -> None:
        self.hold_steps = phase_length("hold", hold_steps, hold_ratio, max_steps)
        super().__init__(optimizer, max_steps=max_steps, **warmup)

    @property
    def decay_start(self) -> int:
        """The end of the plateau."""
        return self.warmup_steps + self.hold_steps


class Constant(WarmupPolicy):
    """Warm-up, then the base rate for ever."""

    endless = True

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        warmup_steps: int | None = None,
        warmup_ratio: float | None = None,
        max_steps: int | None = None,
        last_epoch: int = -1,
    ) -> None:
        options: dict[str, Any] = {"warmup_steps": warmup_steps, "warmup_ratio": warmup_ratio, "max_steps": max_steps}
        super().__init__(optimizer, last_epoch=last_epoch, **options)


def phase_length(phase: str, steps: int | None, ratio: float | None, max_steps: int | None) -> int:
    """Return the length of a phase in steps."""
    if steps is not None and ratio is not None:
        raise ConfigError(
            f"schedule.{phase}_steps and schedule.{phase}_ratio exclude each other; set one of them to null"
        )
    if ratio is None:
        if (steps or 0) < 0:
            raise ConfigError(f"schedule.{phase}_steps must not be negative, not {steps}")
        return steps or 0
    if not 0 <= ratio <= 1:
        raise ConfigError(f"schedule.{phase}_ratio must lie between 0 and 1, not {ratio}")
    if max_steps is None:
        raise ConfigError(f"schedule.{phase}_ratio is a share of max_steps; give max_steps too")
    return int(ratio * max_steps)
