"""The space of a sweep: what varies, on which conditions, and which points may be tried.

A key stands with an expression of the grammar in grammar.py, or with ``{when: {KEY: VALUE or [VALUES]}, is:
EXPRESSION}``: it is then a key of a point only where that point's KEY has one of the VALUES. Conditions may nest: a key
whose KEY is not in a point isn't in it either.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from rayconvai.errors import ConfigError, SweepError, nearest
from rayconvai.sweep.constraints import ABSENT, Constraint, Lookup, parse_constraint
from rayconvai.sweep.domains import Choice, Domain, Fixed, Float, Int, Normal, Point, Value, same
from rayconvai.sweep.grammar import parse_domain, quote, to_overrides

TRIES = 1000
"""So many points in a row may be refused by the constraints."""
DRAWS = 50
"""So many are drawn where each has to be composed, only to find one that has a certain value."""


@dataclass(frozen=True)
class Dimension:
    """One key of a space."""

    key: str
    domain: Domain
    when: Mapping[str, tuple[Value, ...]]
    """The key is in the points in which each of these keys has one of its values; empty: in all."""

    def active(self, point: Point) -> bool:
        return all(
            key in point and any(same(point[key], value) for value in values) for key, values in self.when.items()
        )


Chooser = Callable[[Dimension], Value]


class Space(Mapping[str, Domain]):
    """All keys with their domains; a key comes after those of its condition. A point holds only active keys.

    Args:
        dimensions: in the order of the sweep file.
        constraints: what is to hold for every point.
        config_of: composes a point; asked where a constraint names a key that does not vary.

    Raises:
        SweepError: a condition that can never be met, or goes round in a circle; ``key`` says whose.
    """

    def __init__(
        self,
        dimensions: Sequence[Dimension] = (),
        constraints: Sequence[Constraint] = (),
        config_of: Callable[[Point], DictConfig] | None = None,
    ) -> None:
        self.dimensions = {dimension.key: dimension for dimension in _sorted(dimensions)}
        self.constraints, self.config_of = tuple(constraints), config_of
        self.within = [item for item in constraints if config_of is None or {*item.names} <= {*self.dimensions}]
        self.beyond = [item for item in constraints if item not in self.within]
        self._known: dict[tuple[str, ...], Constraint | None] = {}
        self.parents = {key for dimension in dimensions for key in dimension.when}

    def __getitem__(self, key: str) -> Domain:
        return self.dimensions[key].domain

    def __iter__(self) -> Iterator[str]:
        return iter(self.dimensions)

    def __len__(self) -> int:
        return len(self.dimensions)

    @property
    def size(self) -> float:
        """How many points there are, whatever the constraints say."""

        def count(key: str) -> float:
            values = self[key].values()
            return math.inf if values is None else len(values)

        rest = [dimension for dimension in self.dimensions.values() if dimension.key not in self.parents]
        heads = self._combinations([self.dimensions[key] for key in self if key in self.parents], {})
        return sum(math.prod(count(dimension.key) for dimension in rest if dimension.active(head)) for head in heads)

    def all_points(self) -> Iterator[Point]:
        """Go through all points once, whatever the constraints say; the last key varies fastest."""
        return self._combinations(list(self.dimensions.values()), {})

    def walk(self, choose: Chooser) -> Point:
        """Make a point: ``choose`` gives the value of each key that is active."""
        point: Point = {}
        for dimension in self.dimensions.values():
            if dimension.active(point):
                point[dimension.key] = choose(dimension)
        return point

    def at(self, shares: Sequence[float], given: Point | None = None) -> Point:
        """Return the point at these quantiles, one for each key, active or not; what is given stays as it is."""
        values = {key: domain.at(share) for share, (key, domain) in zip(shares, self.items(), strict=True)}
        values |= given or {}
        return self.walk(lambda dimension: values[dimension.key])

    def sample(self, rng: np.random.Generator, given: Point | None = None) -> Point:
        return self.at(rng.random(len(self)).tolist(), given)

    def complete(self, given: Point, choose: Chooser) -> Point:
        """Make a point that has the given values; ``choose`` says the rest, but keys that the given ones need.

        Raises:
            SweepError: an unknown key, a value outside its domain, or a key that is not active beside the others.
        """
        given = {key: self._checked(key, value) for key, value in given.items()}
        needed: dict[str, tuple[Value, ...]] = {}
        pending = list(given)
        for key in pending:
            for parent, values in self.dimensions[key].when.items():
                both = [value for value in values if any(same(value, other) for other in needed.get(parent, values))]
                needed[parent] = tuple(both)
                pending.append(parent)

        def value(dimension: Dimension) -> Value:
            if dimension.key in given:
                return given[dimension.key]
            chosen = choose(dimension)
            allowed = needed.get(dimension.key, (chosen,))
            return chosen if any(same(chosen, option) for option in allowed) or not allowed else allowed[0]

        point = self.walk(value)
        for key in given:
            if key not in point:
                raise SweepError(f"'{key}' is not active here: {_condition(self.dimensions[key].when)}")
        return point

    def contains(self, point: Point) -> bool:
        """Tell whether a point has all active keys and no others, with values of their domains."""
        try:
            return self.complete(point, lambda _: ABSENT) == point
        except SweepError:
            return False

    def refused_by(self, point: Point) -> Constraint | None:
        """Return the first constraint that does not hold for a point.

        Raises:
            SweepError: a constraint cannot be evaluated there.
        """
        try:
            refused = _first_broken(self.within, lambda name: point.get(name, ABSENT))
            if refused is None and self.beyond:
                refused = self._refused_beyond(point)
        except SweepError as error:
            raise SweepError(f"{error}, at {', '.join(to_overrides(point))}", key="constraints") from error
        return refused

    def _refused_beyond(self, point: Point) -> Constraint | None:
        """Compose a point, for the constraints that name keys which do not vary; once for each point."""
        name = tuple(to_overrides(point))
        if name not in self._known:
            assert self.config_of is not None
            try:
                config = self.config_of(point)
            except ConfigError:  # its trial will end as infeasible, with the reason
                self._known[name] = None
            else:
                self._known[name] = _first_broken(self.beyond, lambda key: self._value(key, point, config))
        return self._known[name]

    def _value(self, key: str, point: Point, config: DictConfig) -> Value:
        if key in self.dimensions:
            return point.get(key, ABSENT)
        value = OmegaConf.select(config, key, default=ABSENT)
        return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value

    def first_allowed(self, points: Iterable[Point]) -> Point:
        """Return the first point that all constraints allow, of at most TRIES.

        Raises:
            SweepError: there is none; names the constraint that refused most.
        """
        refusals: Counter[str] = Counter()
        for _, point in zip(range(TRIES), points, strict=False):
            constraint = self.refused_by(point)
            if constraint is None:
                return point
            refusals[constraint.text] += 1
        ((text, count),) = refusals.most_common(1)
        raise SweepError(
            f"constraint '{text}' refused {count} of {refusals.total()} points, and no other was found; "
            "widen the space or drop the constraint",
            key="constraints",
        )

    def corner(self, side: int) -> Point:
        """Return the point of the first (0) or the last (-1) values to try of all keys."""
        return self.walk(lambda dimension: dimension.domain.corners()[side])

    def holding(self, given: Point) -> Point | None:
        """Return a point with these values that the constraints allow; None if none was found.

        The rest is at the first corner, or else the last, or else drawn.

        Raises:
            SweepError: a constraint cannot be evaluated.
        """
        rng = np.random.default_rng(0)
        draws = DRAWS if self.beyond else TRIES if self.constraints else 0  # composing takes its time
        choosers: list[Chooser] = [
            lambda dimension: dimension.domain.corners()[0],
            lambda dimension: dimension.domain.corners()[-1],
            *[lambda dimension: dimension.domain.sample(rng)] * draws,
        ]
        try:
            self.complete(given, choosers[0])
        except SweepError:  # they exclude each other
            return None
        if _first_broken(self.within, lambda name: given.get(name, ABSENT)) is not None:
            return None
        points = (self.complete(given, choose) for choose in choosers)
        return next((point for point in points if self.refused_by(point) is None), None)

    def corner_points(self) -> list[Point]:
        """Return allowed points that together have each value to try of each key: the joint corners come first."""
        each = [self.holding({key: value}) for key in self for value in self[key].corners()]
        joint = [point for point in (self.corner(0), self.corner(-1)) if self.refused_by(point) is None]
        points = [*joint, *(point for point in each if point is not None)]
        return [point for index, point in enumerate(points) if point not in points[:index]]

    def _checked(self, key: str, value: Value) -> Value:
        if key not in self.dimensions:
            raise SweepError(f"'{key}' is not a key of the space{nearest(key, self)}")
        domain = self[key]
        value = float(value) if type(value) is int and isinstance(domain, (Float, Normal)) else value
        if not domain.contains(value):
            raise SweepError(f"{key}={quote(value)} lies outside the space{_options(domain, quote(value))}")
        return domain.decode(value) if isinstance(domain, Float) else value  # on its step, to the last bit

    def _combinations(self, dimensions: Sequence[Dimension], head: Point) -> Iterator[Point]:
        if not dimensions:
            yield head
        elif not dimensions[0].active(head):
            yield from self._combinations(dimensions[1:], head)
        else:
            for value in dimensions[0].domain.values() or ():
                yield from self._combinations(dimensions[1:], {**head, dimensions[0].key: value})


def parse_space(
    space: Mapping[str, Any],
    constraints: Sequence[str] = (),
    config_of: Callable[[Point], DictConfig] | None = None,
) -> Space:
    """Parse what a sweep file says of its space.

    Raises:
        SweepError: ``key`` is the file's key that is at fault.
    """
    dimensions = [parse_dimension(key, expression) for key, expression in space.items()]
    groups = [key for key in space if "/" in key]
    try:
        parsed = [parse_constraint(text, groups) for text in constraints]
    except SweepError as error:
        raise SweepError(str(error), key="constraints") from error
    return Space(dimensions, parsed, config_of)


def parse_dimension(key: str, expression: Any) -> Dimension:
    """Parse what stands behind one space key.

    Raises:
        SweepError: outside the grammar.
    """
    where = f"space key '{key}'"
    when: Any = {}
    if isinstance(expression, Mapping):
        unknown = next((name for name in expression if name not in ("when", "is")), None)
        when, missing = expression.get("when"), not {"when", "is"} <= set(expression)
        if unknown is not None or missing or not isinstance(when, Mapping) or not when:
            hint = "" if unknown is None else f"; it has a key '{unknown}'{nearest(str(unknown), ('when', 'is'))}"
            if unknown is not None and not {"when", "is"} & set(expression) and "nearest" not in hint:
                hint += f"; keys of the recipe are written with dots, '{key}.{unknown}: ...'"
            raise SweepError(
                f"{where}: a condition is written {{when: {{KEY: VALUE}}, is: EXPRESSION}}{hint}", key=f"space.{key}"
            )
        expression = expression["is"]
    try:
        if isinstance(expression, (list, Mapping)):
            raise SweepError(f"{expression!r} is not an expression; write choice(...) for values to choose from")
        domain = parse_domain(expression)
    except SweepError as error:
        raise SweepError(f"{where}: {error}", key=f"space.{key}") from error
    values = {str(parent): tuple(value) if isinstance(value, list) else (value,) for parent, value in when.items()}
    return Dimension(key, domain, values)


def _sorted(dimensions: Sequence[Dimension]) -> list[Dimension]:
    """Check the conditions, and put each key behind those that it depends on; else the order stays."""
    by_key = {dimension.key: dimension for dimension in dimensions}
    for dimension in dimensions:
        for parent, values in dimension.when.items():
            where = f"space key '{dimension.key}': its condition"
            if parent not in by_key:
                message = f"{where} names '{parent}', which is not a key of the space{nearest(parent, by_key)}"
                raise SweepError(message, key=f"space.{dimension.key}")
            domain = by_key[parent].domain
            never = [value for value in values if domain.values() is None or not domain.contains(value)]
            if isinstance(domain, Fixed) and len(never) < len(values):
                never = []  # one of its values is left, as when the command line fixes a key
            if never or not values:
                value = quote(never[0]) if never else "nothing"
                message = f"{where} is never met: {parent} cannot be {value}{_options(domain, value)}"
                if domain.values() is None:
                    message = f"{where} is never met: {parent} is any number of its range, never just {value}"
                raise SweepError(message, key=f"space.{dimension.key}")
    ordered: dict[str, Dimension] = {}
    while len(ordered) < len(dimensions):
        ready = [item for item in dimensions if item.key not in ordered and item.when.keys() <= ordered.keys()]
        if not ready:
            circle = [key for key in by_key if key not in ordered]
            message = f"space key '{circle[0]}': the conditions of {', '.join(circle)} go round in a circle"
            raise SweepError(message, key=f"space.{circle[0]}")
        ordered[ready[0].key] = ready[0]
    return list(ordered.values())


def _first_broken(constraints: Sequence[Constraint], lookup: Lookup) -> Constraint | None:
    return next((constraint for constraint in constraints if not constraint.holds(lookup)), None)


def _condition(when: Mapping[str, tuple[Value, ...]]) -> str:
    return " and ".join(f"{key} is to be {' or '.join(map(quote, values))}" for key, values in when.items())


def _options(domain: Domain, value: str) -> str:
    """Say what a domain has, where that is not long."""
    match domain:
        case Choice():
            options = [quote(option) for option in domain.options]
            return f"{nearest(value, options)}; it has: {', '.join(options)}"
        case Int() | Float():
            step = "" if domain.step in (None, 1) else f" in steps of {domain.step:g}"
            return f", which goes from {quote(domain.low)} to {quote(domain.high)}{step}"
    return ""
