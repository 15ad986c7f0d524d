"""The values that a key of a space may take: drawn, counted, listed, and named to Optuna."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
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
    def sample(self, rng: np.random.Generator) -> Value:
        """Draw one value."""

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

    def sample(self, rng: np.random.Generator) -> Value:
        return self.options[int(rng.integers(len(self.options)))]

    def contains(self, value: Value) -> bool:
        return any(type(value) is type(option) and value == option for option in self.options)

    def corners(self) -> tuple[Value, ...]:
        return self.options

    def values(self) -> tuple[Value, ...]:
        return self.options

    # By index: Optuna has no lists among its categories, and would take 1 for true.
    def distribution(self) -> BaseDistribution:
        return CategoricalDistribution(range(len(self.options)))

    def encode(self, value: Value) -> int:
        return next(i for i, option in enumerate(self.options) if type(value) is type(option) and value == option)

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

    def sample(self, rng: np.random.Generator) -> int:
        if self.log:
            # Bins of equal width around the integers, so that both ends get their share.
            drawn = math.exp(rng.uniform(math.log(self.low - 0.5), math.log(self.high + 0.5)))
            return min(max(round(drawn), self.low), self.high)
        return self.low + self.step * int(rng.integers((self.high - self.low) // self.step + 1))

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

    def sample(self, rng: np.random.Generator) -> float:
        if self.step is not None:
            return self._at(int(rng.integers(self._steps + 1)))
        if self.log:
            drawn = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
            return min(max(drawn, self.low), self.high)
        return float(rng.uniform(self.low, self.high))

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
