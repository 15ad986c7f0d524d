"""The decays: each schedule is a WarmupPolicy that says what the rate is after warm-up and plateau.

``p`` is the progress of the decay, from 0 at its start to 1 at ``max_steps``.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from torch import Tensor
from torch.optim import Optimizer

from rayconvai.core.policies import WarmupHoldPolicy, WarmupPolicy, phase_length
from rayconvai.errors import ConfigError


class WarmupAnnealing(WarmupPolicy):
    """Linear decay to ``min_lr``; like all schedules that decay, it requires ``max_steps``."""

    decays = True

    def anneal(self, base_lr: float, step: int) -> float:
        return self.between(base_lr, 1.0 - self.progress(step))


class SquareAnnealing(WarmupPolicy):
    """Decay with the square of what is left, ``(1 - p) ** 2``, cut off at ``min_lr``."""

    decays = True

    def __init__(self, optimizer: Optimizer, *, min_lr: float = 1e-5, **warmup: Any) -> None:
        super().__init__(optimizer, min_lr=min_lr, **warmup)

    def anneal(self, base_lr: float, step: int) -> float:
        return base_lr * (1.0 - self.progress(step)) ** 2


class SquareRootAnnealing(WarmupPolicy):
    """Decay with the square root of what is left of all steps, warm-up included, cut off at ``min_lr``."""

    decays = True

    def anneal(self, base_lr: float, step: int) -> float:
        return base_lr * math.sqrt(max(0.0, 1.0 - step / max(1, self.max_steps or 1)))


class CosineAnnealing(WarmupPolicy):
    """Decay by half a cosine to ``min_lr`` (SGDR without restarts, arXiv 1608.03983).

    Args:
        optimizer: see WarmupPolicy, as for the other arguments.
        max_steps: the step at which ``min_lr`` is reached.
        constant_steps: the last steps, at ``min_lr``; the warm-up then starts at 0.
        constant_ratio: the same as a share of ``max_steps``.
    """

    decays = True

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        constant_steps: int | None = None,
        constant_ratio: float | None = None,
        max_steps: int | None = None,
        **warmup: Any,
    ) -> None:
        self.constant_steps = phase_length("constant", constant_steps, constant_ratio, max_steps)
        super().__init__(optimizer, max_steps=max_steps, **warmup)

    def warmup(self, step: int) -> float:
        """Return the share of the base rate at a step of the warm-up."""
        return step / self.warmup_steps if self.constant_steps else super().warmup(step)

    def anneal(self, base_lr: float, step: int) -> float:
        progress = self.progress(step, (self.max_steps or 0) - self.constant_steps)
        return self.between(base_lr, 0.5 * (1.0 + math.cos(math.pi * progress)))


class InverseSquareRootAnnealing(WarmupPolicy):
    """Decay with the inverse square root of the step, joined to the end of the warm-up; needs no ``max_steps``."""

    def anneal(self, base_lr: float, step: int) -> float:
        return base_lr * math.sqrt((self.warmup_steps + 1) / (step + 1))


class T5InverseSquareRootAnnealing(WarmupPolicy):
    """``1 / sqrt(max(step, constant_steps))``, T5's rule (arXiv 1910.10683, section 3.1.2).

    The rate is absolute: the optimizer's rates set only the proportions between its groups.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        constant_steps: int | None = None,
        constant_ratio: float | None = None,
        max_steps: int | None = None,
        **warmup: Any,
    ) -> None:
        given = constant_steps is not None or constant_ratio is not None
        self.constant_steps = (
            max(1, phase_length("constant", constant_steps, constant_ratio, max_steps)) if given else 10_000
        )
        super().__init__(optimizer, max_steps=max_steps, **warmup)

    def anneal(self, base_lr: float, step: int) -> float:
        return base_lr / max(self.rates) / math.sqrt(max(step, self.constant_steps))


class NoamAnnealing(WarmupPolicy):
    """``d_model ** -0.5 * min(step ** -0.5, step * warmup_steps ** -1.5)`` of the base rate (arXiv 1706.03762, eq. 3).

    It goes on after ``max_steps``, which only ``warmup_ratio`` refers to; ``min_lr`` holds after the warm-up.
    """

    def __init__(self, optimizer: Optimizer, *, d_model: int, **warmup: Any) -> None:
        self.scale = d_model**-0.5
        super().__init__(optimizer, **warmup)

    def get_lr(self) -> list[float | Tensor]:
        """Return the rate of each parameter group at the current step."""
        step = max(1, self.last_epoch)
        if step > self.warmup_steps:
            return self._get_lr(step)
        return [self.anneal(lr, step) for lr in self.rates]

    def anneal(self, base_lr: float, step: int) -> float:
        rising = step * self.warmup_steps**-1.5 if self.warmup_steps else math.inf
        return float(self.scale * min(step**-0.5, rising)) * base_lr


class NoamHoldAnnealing(WarmupHoldPolicy):
    """``(warmup_steps / (step - hold_steps)) ** decay_rate`` of the base rate after the plateau (Squeezeformer).

    Raises:
        ConfigError: no warm-up.
    Source: arXiv 2206.00888, section 3.2.
    """

    def __init__(self, optimizer: Optimizer, *, decay_rate: float = 0.5, **hold: Any) -> None:
        self.decay_rate = decay_rate
        super().__init__(optimizer, **hold)
        if not self.warmup_steps:
            raise ConfigError("schedule NoamHoldAnnealing requires a warm-up: give warmup_steps or warmup_ratio")

    def anneal(self, base_lr: float, step: int) -> float:
        return base_lr * math.pow(self.warmup_steps / max(1, step - self.hold_steps), self.decay_rate)


class PolynomialDecayAnnealing(WarmupPolicy):
    """Decay with ``(1 - p) ** power`` to ``min_lr``.

    Args:
        optimizer: see WarmupPolicy, as for the other arguments.
        max_steps: the step at which ``min_lr`` is reached.
        power: 1 is linear.
        cycle: after ``max_steps``, start again towards the next multiple of the decay's length instead of ending.
    """

    decays = True

    def __init__(self, optimizer: Optimizer, *, power: float = 1.0, cycle: bool = False, **warmup: Any) -> None:
        self.power, self.endless = power, cycle
        super().__init__(optimizer, **warmup)

    def anneal(self, base_lr: float, step: int) -> float:
        return self.between(base_lr, _polynomial(self, step, self.power))


class PolynomialHoldDecayAnnealing(WarmupHoldPolicy):
    """PolynomialDecayAnnealing after a plateau of ``hold_steps`` or ``hold_ratio``."""

    decays = True

    def __init__(self, optimizer: Optimizer, *, power: float = 1.0, cycle: bool = False, **hold: Any) -> None:
        self.power, self.endless = power, cycle
        super().__init__(optimizer, **hold)

    def anneal(self, base_lr: float, step: int) -> float:
        return self.between(base_lr, _polynomial(self, step, self.power))


class WarmupHoldAnnealLinear(WarmupHoldPolicy):
    """Linear decay to ``min_lr`` after a plateau."""

    decays = True

    def anneal(self, base_lr: float, step: int) -> float:
        return self.between(base_lr, 1.0 - self.progress(step))


class WarmupHoldAnnealOneMinusSquareRoot(WarmupHoldPolicy):
    """Decay with one minus the square root of the progress after a plateau, to ``min_lr`` (arXiv 2405.18392)."""

    decays = True

    def anneal(self, base_lr: float, step: int) -> float:
        return base_lr * (1.0 - math.sqrt(self.progress(step)))


class WSD(WarmupPolicy):
    """Warm-up, a stable phase at the base rate, and a decay to ``min_lr`` in the last steps (arXiv 2404.06395).

    Args:
        optimizer: see WarmupPolicy, as for the other arguments.
        max_steps: the step at which ``min_lr`` is reached.
        decay_steps: optimizer steps of decay.
        decay_ratio: the same as a share of ``max_steps``; 0.1 if neither is given.
        decay: the shape, from 1 to 0 over the decay; ``exponential`` halves ten times.
    """

    decays = True

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        decay_steps: int | None = None,
        decay_ratio: float | None = None,
        decay: Literal["linear", "cosine", "sqrt", "exponential"] = "linear",
        max_steps: int | None = None,
        **warmup: Any,
    ) -> None:
        if decay_steps is None and decay_ratio is None:
            decay_ratio = 0.1
        self.decay_steps = phase_length("decay", decay_steps, decay_ratio, max_steps)
        self.decay = decay
        super().__init__(optimizer, max_steps=max_steps, **warmup)

    @property
    def decay_start(self) -> int:
        """The end of the stable phase."""
        return max(self.warmup_steps, (self.max_steps or 0) - self.decay_steps)

    def anneal(self, base_lr: float, step: int) -> float:
        progress = self.progress(step)
        if self.decay == "linear":
            share = 1.0 - progress
        elif self.decay == "cosine":
            share = 0.5 * (1.0 + math.cos(math.pi * progress))
        elif self.decay == "sqrt":
            share = 1.0 - math.sqrt(progress)
        else:
            share = 0.5 ** (10 * progress) if progress < 1 else 0.0
        return self.between(base_lr, share)


def _polynomial(schedule: WarmupPolicy, step: int, power: float) -> float:
    """Return the share of the way up from ``min_lr``; past the end, towards the next multiple of the decay's length."""
    assert schedule.max_steps is not None
    length = max(1, schedule.max_steps - schedule.decay_start)
    done = step - schedule.decay_start
    cycles = max(1, math.ceil(done / length))
    return math.pow(1.0 - done / (length * cycles), power)
