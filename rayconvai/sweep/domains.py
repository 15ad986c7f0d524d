"""The values that a key of a space may take: drawn, counted, listed, and named to Optuna."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

Value = Any
"""What a config key can hold: text, number, truth value, null, or a list or mapping of these."""
Point = dict[str, Value]
"""One assignment: space key -> value."""


class Domain(ABC):
    """The values that one key of a space may take."""

    @abstractmethod
    def at(self, share: float) -> Value:
        """Return the value below which this share, from 0 to less than 1, of all draws lies."""

    def sample(self, rng: np.random.Generator) -> Value:
        return self.at(rng.random())

    @abstractmethod
    def contains(self, value: Value) -> bool:
        """Tell whether ``value`` can be drawn."""

    @abstractmethod
    def corners(self) -> tuple[Value, ...]:
        """Return the values to try before a sweep: the bounds of a range, every option of a choice."""

    @abstractmethod
    def values(self) -> tuple[Value, ...] | None:
        """Return all values in order, or None where there is no end of them."""

    @abstractmethod
    def distribution(self) -> BaseDistribution:
        """Return Optuna's distribution of ``encode``'s values."""

    def encode(self, value: Value) -> Value:
        """Return Optuna's name for a value."""
        return value

    def decode(self, value: Value) -> Value:
        return value


@dataclass(frozen=True)
class Choice(Domain):
    """One of the options."""

    options: tuple[Value, ...]

    def at(self, share: float) -> Value:
        return self.options[int(share * len(self.options))]

    def contains(self, value: Value) -> bool:
        return any(same(value, option) for option in self.options)

    def corners(self) -> tuple[Value, ...]:
        return self.options

    def values(self) -> tuple[Value, ...]:
        return self.options

    # By index: Optuna has no lists among its categories, and would take 1 for true.
    def distribution(self) -> BaseDistribution:
        return CategoricalDistribution(range(len(self.options)))

    def encode(self, value: Value) -> int:
        return next(index for index, option in enumerate(self.options) if same(value, option))

    def decode(self, value: Value) -> Value:
        return self.options[int(value)]


@dataclass(frozen=True)
class Grid(Choice):
    """Each of the options in its turn."""


@dataclass(frozen=True)
class Fixed(Choice):
    """One value, always."""

    def __init__(self, value: Value) -> None:
        super().__init__((value,))


@dataclass(frozen=True)
class Int(Domain):
    """Integers ``low, low + step, ... high``, both ends in."""

    low: int
    high: int
    log: bool = False
    step: int = 1

    def at(self, share: float) -> int:
        if self.log:
            # Bins of equal width around the integers, so that both ends get their share.
            drawn = math.exp(_between(math.log(self.low - 0.5), math.log(self.high + 0.5), share))
            return min(max(round(drawn), self.low), self.high)
        return self.low + self.step * int(share * ((self.high - self.low) // self.step + 1))

    def contains(self, value: Value) -> bool:
        return type(value) is int and self.low <= value <= self.high and (value - self.low) % self.step == 0

    def corners(self) -> tuple[int, ...]:
        return (self.low, self.high) if self.low < self.high else (self.low,)

    def values(self) -> tuple[int, ...]:
        return tuple(range(self.low, self.high + 1, self.step))

    def distribution(self) -> BaseDistribution:
        return IntDistribution(self.low, self.high, log=self.log, step=self.step)

    def decode(self, value: Value) -> int:
        return int(value)


@dataclass(frozen=True)
class Float(Domain):
    """Numbers between ``low`` and ``high``, or only ``low, low + step, ... high``."""

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def at(self, share: float) -> float:
        if self.step is not None:
            return self._at(int(share * (self._steps + 1)))
        if self.log:
            drawn = math.exp(_between(math.log(self.low), math.log(self.high), share))
            return min(max(drawn, self.low), self.high)
        return _between(self.low, self.high, share)

    def contains(self, value: Value) -> bool:
        if type(value) is not float or not self.low <= value <= self.high:
            return False
        return self.step is None or math.isclose(value, self._at(round((value - self.low) / self.step)))

    def corners(self) -> tuple[float, ...]:
        return (self.low, self.high) if self.low < self.high else (self.low,)

    def values(self) -> tuple[float, ...] | None:
        return None if self.step is None else tuple(self._at(index) for index in range(self._steps + 1))

    def distribution(self) -> BaseDistribution:
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def decode(self, value: Value) -> float:
        return float(value) if self.step is None else self._at(round((value - self.low) / self.step))

    @property
    def _steps(self) -> int:
        assert self.step is not None
        return round((self.high - self.low) / self.step)

    def _at(self, index: int) -> float:
        assert self.step is not None
        return min(round(self.low + index * self.step, 12), self.high)  # 0.1 + 2 * 0.1 is to be 0.3


@dataclass(frozen=True)
class Normal(Domain):
    """Numbers around ``mean``; Optuna searches their quantiles, which have ends."""

    mean: float
    sd: float

    def at(self, share: float) -> float:
        return NormalDist(self.mean, self.sd).inv_cdf(min(max(share, _TAIL), 1 - _TAIL))

    def contains(self, value: Value) -> bool:
        return type(value) is float and math.isfinite(value)

    def corners(self) -> tuple[float, float]:
        return self.mean - 2 * self.sd, self.mean + 2 * self.sd

    def values(self) -> None:
        return None

    def distribution(self) -> BaseDistribution:
        return FloatDistribution(0, 1)

    def encode(self, value: Value) -> float:
        return NormalDist(self.mean, self.sd).cdf(value)

    def decode(self, value: Value) -> float:
        return self.at(value)


_TAIL = 1e-12
"""No value lies further out than this quantile: about seven standard deviations."""


def same(one: Value, other: Value) -> bool:
    """Tell whether two values are equal, and of one type: 1, 1.0 and true are three options."""
    return type(one) is type(other) and bool(one == other)


def _between(low: float, high: float, share: float) -> float:
    return low + share * (high - low)
