"""Neural types: what a tensor means, its axes and, where they are known, their sizes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Any

from typing_extensions import override

from rayconvai.core.elements import ElementType, NeuralTypeComparisonResult, VoidType
from rayconvai.errors import NeuralTypeError

_FITS = (NeuralTypeComparisonResult.SAME, NeuralTypeComparisonResult.GREATER)


class AxisKindAbstract(Enum):
    """Base of axis kinds; subclass it to add kinds of your own."""

    def __str__(self) -> str:
        return self.name.lower()

    def __repr__(self) -> str:
        return str(self)


class AxisKind(AxisKindAbstract):
    """What one runs through along an axis."""

    Batch = 0
    Time = 1
    Dimension = 2
    Channel = 2
    """Another name of Dimension."""
    Width = 3
    Height = 4
    Any = 5
    """Takes every kind."""
    Sequence = 6
    FlowGroup = 7
    Singleton = 8

    @staticmethod
    def from_str(label: str) -> AxisKind:
        """Return the kind that a short name means, whatever its case; ``T_text`` and the like are Time.

        Raises:
            ValueError: no kind has that name.
        """
        name = label.strip().lower()
        if name.startswith("t_"):
            return AxisKind.Time
        try:
            return _SHORT_NAMES[name]
        except KeyError:
            known = ", ".join(_SHORT_NAMES)
            raise ValueError(f"no axis kind is called {label!r}; the short names are {known}") from None


_SHORT_NAMES = {
    **dict.fromkeys(("b", "n", "batch"), AxisKind.Batch),
    **dict.fromkeys(("t", "time"), AxisKind.Time),
    **dict.fromkeys(("d", "c", "channel"), AxisKind.Dimension),
    **dict.fromkeys(("w", "width"), AxisKind.Width),
    **dict.fromkeys(("h", "height"), AxisKind.Height),
    **dict.fromkeys(("s", "singleton"), AxisKind.Singleton),
    **dict.fromkeys(("seq", "sequence"), AxisKind.Sequence),
    "flowgroup": AxisKind.FlowGroup,
    "any": AxisKind.Any,
}
_LETTERS: dict[AxisKindAbstract, str] = {
    AxisKind.Batch: "B",
    AxisKind.Time: "T",
    AxisKind.Dimension: "D",
    AxisKind.Width: "W",
    AxisKind.Height: "H",
    AxisKind.Singleton: "S",
}


@dataclass(frozen=True)
class AxisType:
    """One axis.

    Args:
        kind: what runs along it.
        size: a number that the axis must have, or a name: all axes of one call that bear it must be equally long.
            Batch axes bear the name ``batch`` unless they have another size or name.
        is_list: the axis is that of a list (of lists) of tensors; a tensor may stand for it too, with one axis more.

    Raises:
        ValueError: not an axis kind, a negative size, or a list axis of fixed size.
    """

    kind: AxisKindAbstract
    size: int | str | None = None
    is_list: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.kind, AxisKindAbstract):
            raise ValueError(f"the kind of an axis is an AxisKind, not {self.kind!r}")  # noqa: TRY004
        if isinstance(self.size, int) and self.size < 0:
            raise ValueError(f"the size of an axis is not negative: {self.size}")
        if isinstance(self.size, int) and self.is_list:
            raise ValueError("a list axis has no fixed size; give it a name, or none")

    @classmethod
    def from_str(cls, label: str) -> AxisType:
        """Read a short form: ``B``, ``D:80`` (of size 80), ``T:frames`` (as long as every other axis of that name)."""
        kind, _, size = label.partition(":")
        size = size.strip()
        return cls(AxisKind.from_str(kind), int(size) if size.isdecimal() else size or None)

    @property
    def fixed(self) -> int | None:
        """The size, if it is a number."""
        return self.size if isinstance(self.size, int) else None

    @override
    def __repr__(self) -> str:
        label = _LETTERS.get(self.kind, self.kind.name)
        label = label if self.size is None else f"{label}:{self.size}"
        return f"[{label}]" if self.is_list else label


@dataclass(frozen=True)
class Layout:
    """The axes of a type as a check of a shape needs them."""

    rank: int
    lists: int
    """How many of the axes are those of lists; they come first."""
    sized: tuple[tuple[int, int | str], ...]
    """Each axis with a size or name: its number, and that."""

    def has_list_sizes(self) -> bool:
        """Whether a list axis has a name, its length so to be compared."""
        return any(axis < self.lists for axis, _ in self.sized)


@lru_cache(maxsize=4096)
def _parse_axes(axes: tuple[Any, ...]) -> tuple[tuple[AxisType, ...], Layout]:
    parsed = []
    for axis in axes:
        if not isinstance(axis, (str, AxisType)):
            raise ValueError(f"an axis is given as a string or an AxisType, not as {axis!r}")  # noqa: TRY004
        parsed.append(AxisType.from_str(axis) if isinstance(axis, str) else axis)
    lists = sum(axis.is_list for axis in parsed)
    if any(axis.is_list for axis in parsed[lists:]):
        raise ValueError(f"list axes stand before tensor axes: {tuple(parsed)}")
    sizes = ["batch" if axis.kind is AxisKind.Batch and axis.size is None else axis.size for axis in parsed]
    sized = tuple((number, size) for number, size in enumerate(sizes) if size is not None)
    return tuple(parsed), Layout(len(parsed), lists, sized)


class NeuralType:
    """What a tensor, or a list of tensors, means.

    Immutable. Equal if the axes and the elements are; whether a port is optional is no part of what it means.

    Args:
        axes: short strings (see ``AxisType.from_str``) or ``AxisType``s; None for any.
        elements_type: an instance of an element type; anything unless given.
        optional: a port of this type may be left unfed.

    Raises:
        ValueError: an axis that is none, a list axis after a tensor axis, or elements that are no element type.
    """

    __slots__ = ("accepted", "axes", "elements_type", "layout", "optional")

    def __init__(
        self,
        axes: Iterable[str | AxisType] | None = None,
        elements_type: ElementType | None = None,
        optional: bool = False,
    ) -> None:
        elements: Any = VoidType() if elements_type is None else elements_type
        if not isinstance(elements, ElementType):
            hint = "; add ()" if isinstance(elements, type) else ""
            raise ValueError(f"elements_type is an instance of an ElementType, not {elements!r}{hint}")  # noqa: TRY004
        self.elements_type: ElementType = elements
        self.axes: tuple[AxisType, ...] | None = None
        self.layout: Layout | None = None
        if axes is not None:
            self.axes, self.layout = _parse_axes(tuple(axes))
        self.optional = optional
        self.accepted: NeuralType | None = None
        """The type that this port took last, so that the next call need not compare again."""

    def compare(self, second: NeuralType) -> NeuralTypeComparisonResult:
        """Say how this type stands to another: a port takes what it is SAME as or GREATER than.

        A named size counts as none here: names hold within one call.
        """
        if self.axes is None and isinstance(self.elements_type, VoidType):
            return NeuralTypeComparisonResult.SAME
        elements = self.elements_type.compare(second.elements_type)
        if self.axes is None or second.axes is None:
            return elements if self.axes is second.axes else NeuralTypeComparisonResult.INCOMPATIBLE
        if self.axes is second.axes:  # as where both were given as the same strings
            return elements
        if len(self.axes) != len(second.axes):
            return NeuralTypeComparisonResult.INCOMPATIBLE
        if all(map(_axis_takes, self.axes, second.axes)):
            return elements
        if elements is not NeuralTypeComparisonResult.SAME or _kinds(self.axes) != _kinds(second.axes):
            return NeuralTypeComparisonResult.INCOMPATIBLE
        if _kinds_and_sizes(self.axes) != _kinds_and_sizes(second.axes):
            return NeuralTypeComparisonResult.DIM_INCOMPATIBLE
        return NeuralTypeComparisonResult.TRANSPOSE_SAME

    def takes(self, second: NeuralType) -> bool:
        """Whether a port of this type takes a value of the other; a size that the other leaves open does not matter."""
        if self.accepted is second or self.compare(second) in _FITS:
            self.accepted = second
            return True
        if self.axes is None or second.axes is None or len(self.axes) != len(second.axes):
            return False
        return self.compare(second.with_sizes([axis.fixed for axis in self.axes])) in _FITS

    def with_sizes(self, sizes: Sequence[int | None]) -> NeuralType:
        """Return this type with the sizes that it leaves open filled in, axis by axis; None leaves one open."""
        if self.axes is None or len(sizes) != len(self.axes):
            return self
        axes = [
            axis if size is None or axis.is_list or axis.fixed is not None else AxisType(axis.kind, size)
            for axis, size in zip(self.axes, sizes, strict=True)
        ]
        return NeuralType(axes, self.elements_type, self.optional)

    def compare_and_raise_error(self, parent_type_name: str, port_name: str, other: NeuralType) -> None:
        """Refuse a value of the other type at this port.

        Raises:
            NeuralTypeError: this type is neither the SAME nor GREATER.
        """
        if self.compare(other) not in _FITS:
            raise NeuralTypeError(
                f"{parent_type_name}: port {port_name!r} takes {self}, got {other}{describe_mismatch(self, other)}"
            )

    @override
    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NeuralType):
            return NotImplemented
        mine, its = self.elements_type, other.elements_type
        return (
            self.axes == other.axes
            and type(mine) is type(its)
            and mine.type_parameters == its.type_parameters
            and mine.fields == its.fields
        )

    @override
    def __hash__(self) -> int:
        return hash((self.axes, type(self.elements_type)))

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        return NeuralType, (self.axes, self.elements_type, self.optional)

    @override
    def __str__(self) -> str:
        parameters = ", ".join(f"{key}={value}" for key, value in self.elements_type.type_parameters.items())
        name = f"{self.elements_type!r}({parameters})" if parameters else repr(self.elements_type)
        axes = "any axes" if self.axes is None else ", ".join(map(repr, self.axes))
        return f"{name} ({axes})"

    @override
    def __repr__(self) -> str:
        return f"NeuralType({self}{', optional' if self.optional else ''})"


def _axis_takes(port: AxisType, value: AxisType) -> bool:
    if port.kind is AxisKind.Any:
        return True
    sizes_match = port.fixed is None or port.fixed == value.fixed
    return port.kind is value.kind and port.is_list == value.is_list and sizes_match


def _kinds(axes: tuple[AxisType, ...]) -> Counter[AxisKindAbstract]:
    return Counter(axis.kind for axis in axes)


def _kinds_and_sizes(axes: tuple[AxisType, ...]) -> Counter[tuple[AxisKindAbstract, int | None]]:
    return Counter((axis.kind, axis.fixed) for axis in axes)


def describe_mismatch(port: NeuralType, value: NeuralType) -> str:
    """Say in a clause why the port does not take the value, and what may help."""
    result = port.compare(value)
    if result is NeuralTypeComparisonResult.INCOMPATIBLE:  # sizes that the value leaves open are not what is wrong
        result = port.compare(value.with_sizes([axis.fixed for axis in port.axes or ()]))
    hint = {
        NeuralTypeComparisonResult.LESS: "the port takes only a more specific type",
        NeuralTypeComparisonResult.DIM_INCOMPATIBLE: "axis sizes differ",
        NeuralTypeComparisonResult.TRANSPOSE_SAME: "transpose the axes",
        NeuralTypeComparisonResult.SAME_TYPE_INCOMPATIBLE_PARAMS: "the same type with other parameters",
    }.get(result, "")
    return f" ({result.name}{': ' if hint else ''}{hint})"
