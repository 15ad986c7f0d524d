"""One typed call: its values against the ports that they are given to."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NoReturn

from torch import Tensor

from rayconvai.core.neural_type import NeuralType, describe_mismatch
from rayconvai.core.port import Port
from rayconvai.errors import GraphError, NeuralTypeError, nearest

Ports = Mapping[str, Any]
"""Port names to neural types, or to lists of lists of one."""


class Call:
    """The check of one call, and the sizes that its ports have been bound to so far.

    A call of plain tensors that fit takes the short way, one loop over the ports; whatever else it is, and whatever is
    wrong with it, the long way finds out.

    Args:
        owner: the object whose method is called.
        method: the method's name.
        semantic: check types and shapes; else only names, counts and nesting.
        nesting: check how deep values are nested.
    """

    __slots__ = ("method", "nesting", "owner", "semantic", "sizes", "symbolic")

    paths: ClassVar[Mapping[int, str] | None] = None
    """While a graph is checked: the path of each module in its model, by id."""

    def __init__(self, owner: object, method: str, semantic: bool, nesting: bool) -> None:
        self.owner = owner
        self.method = method
        self.semantic = semantic
        self.nesting = nesting
        self.symbolic = False
        """Whether a Port was given: the method's body cannot run then."""
        self.sizes: dict[str, tuple[int, str]] = {}

    @property
    def where(self) -> str:
        """The module for messages: its path in the model, if that is known, and its class."""
        kind = type(self.owner).__name__
        path = self.paths.get(id(self.owner)) if self.paths else None
        return f"{path} ({kind})" if path else kind

    def inputs(self, ports: Ports, given: Mapping[str, Any]) -> None:
        """Check what a method was given.

        Raises:
            NeuralTypeError: a port that is missing, unknown, or given what it does not take.
        """
        if self.semantic and self._fit(ports, given):
            return
        fed = 0
        for name, port in ports.items():
            if name in given:
                fed += 1
                self._value("input", name, port, given[name])
            elif not _base(port).optional:
                self._fail_names(ports, given)
        if fed != len(given):
            self._fail_names(ports, given)

    def outputs(self, ports: Ports, result: Any) -> None:
        """Check what a method returned, and write each tensor's type on it.

        Raises:
            NeuralTypeError: another number of outputs than ports, or an output that its port does not give.
        """
        if self.semantic and type(result) in (tuple, Tensor):
            values: Sequence[Any] = result if type(result) is tuple else (result,)
            if len(values) == len(ports) and self._fit(ports, dict(zip(ports, values, strict=True)), attach=True):
                return
        if isinstance(result, Mapping) and (len(ports) > 1 or next(iter(ports), None) in result):
            self._fail_unknown("output", ports, result)
            items = list(result.items())
        else:
            values = self._parts(ports, result)
            if len(values) > len(ports):
                self._fail_count(ports, len(values))
            items = list(zip(ports, values, strict=False))
        if len(items) < len(ports) and len(items) < sum(not _base(port).optional for port in ports.values()):
            self._fail_count(ports, len(items))
        for name, value in items:
            self._value("output", name, ports[name], value)

    def _parts(self, ports: Ports, result: Any) -> Sequence[Any]:
        """Return the outputs one by one, as the ports are."""
        if not isinstance(result, (list, tuple)):
            return (result,)
        if len(ports) == 1 and _holds_lists(next(iter(ports.values()))) and not _is_wrapped(result):
            return (result,)  # a list is the one output; a tuple of one holds the one output
        return result

    def _fit(self, ports: Ports, given: Mapping[str, Any], attach: bool = False) -> bool:
        """Whether the values are plain tensors, one for each port, and certainly right; attach writes types on them."""
        sizes = self.sizes
        fed = 0
        for name, port in ports.items():
            value = given.get(name)
            if type(port) is not NeuralType or type(value) is not Tensor:
                if value is None and type(port) is NeuralType and port.optional:
                    fed += name in given
                    continue
                return False
            fed += 1
            carried = getattr(value, "neural_type", None)
            if carried is None:
                if attach:
                    value.neural_type = port  # type: ignore[attr-defined]
            elif carried is not port.accepted and not port.takes(carried):
                return False
            layout = port.layout
            if layout is None:
                continue
            shape = value.shape
            if len(shape) != layout.rank:
                return False
            for axis, size in layout.sized:
                found = shape[axis]
                if type(size) is str:
                    if sizes.setdefault(size, (found, name))[0] != found:
                        return False
                elif size != found:
                    return False
        return fed == len(given)

    def symbols(self, ports: Ports) -> Any:
        """Return ports as the method returns values: one, or a tuple whose parts also go by name."""
        made = [self._symbol(name, port) for name, port in ports.items()]
        if len(made) == 1:
            return made[0]
        return namedtuple("Outputs", ports, rename=True)(*made)

    def _symbol(self, name: str, port: Any) -> Any:
        if not isinstance(port, NeuralType):
            return [self._symbol(name, port[0])]
        return Port(self._with_bound_sizes(port), f"{self.where}.{name}")

    def _with_bound_sizes(self, port: NeuralType) -> NeuralType:
        """Return a port's type with the sizes that this call has bound its names to."""
        if port.layout is None:
            return port
        sizes: list[int | None] = [None] * port.layout.rank
        for axis, size in port.layout.sized:
            sizes[axis] = self.sizes.get(size, (None,))[0] if isinstance(size, str) else size
        return port.with_sizes(sizes)

    def _value(self, side: str, name: str, port: Any, value: Any) -> None:
        if isinstance(port, NeuralType):
            if not isinstance(value, (list, tuple)):
                self._leaf(side, name, port, value)
            else:
                self._nested(side, name, port, value, declared=0, depth=0)
            return
        if value is not None:
            self._nested(side, name, _base(port), value, declared=_depth(port), depth=0)

    def _nested(self, side: str, name: str, port: NeuralType, value: Any, declared: int, depth: int) -> None:
        lists = port.layout.lists if port.layout else 0
        if not isinstance(value, (list, tuple)):
            skip = depth - declared
            if self.nesting and skip not in (0, lists):
                self._fail_depth(side, name, port, declared, depth)
            self._leaf(side, name, port, value, skip=skip if self.nesting else 0, in_container=declared > 0)
            return
        axis = depth - declared
        if self.nesting and self.semantic and port.layout and 0 <= axis < lists:
            self._size(side, name, port, value, axis, len(value))
        for item in value:
            self._nested(side, name, port, item, declared, depth + 1)

    def _leaf(
        self, side: str, name: str, port: NeuralType, value: Any, skip: int = 0, in_container: bool = False
    ) -> None:
        carried = getattr(value, "neural_type", None)
        if side == "output":
            # What a method hands on may carry a more specific type: overwriting it would change its giver's value.
            if isinstance(value, Tensor) and not (carried is not None and port.takes(carried)):
                value.neural_type = port  # type: ignore[attr-defined]
        elif carried is not None:
            self.symbolic = self.symbolic or isinstance(value, Port)
            if self.semantic:
                taker = port if skip == 0 or port.axes is None else NeuralType(port.axes[skip:], port.elements_type)
                if not taker.takes(carried):
                    self._fail(side, name, port, value, describe_mismatch(taker, carried))
        if self.semantic and port.layout is not None:
            self._shape(side, name, port, value, skip, in_container)

    def _shape(self, side: str, name: str, port: NeuralType, value: Any, skip: int, in_container: bool) -> None:
        layout = port.layout
        assert layout is not None
        shape = value.sizes if isinstance(value, Port) else getattr(value, "shape", None)
        if not isinstance(shape, (tuple, list)):
            return
        if len(shape) != layout.rank - skip:
            self._fail(side, name, port, value, f" (it has {len(shape)} axes, not {layout.rank - skip})")
        sizes = self.sizes
        for axis, size in layout.sized:
            # Members of a container may be batches of their own; names and numbers hold for them too.
            if axis < skip or (in_container and size == "batch"):
                continue
            found = shape[axis - skip]
            if found is None:
                continue
            if isinstance(size, int):
                if found != size:
                    self._fail(side, name, port, value, f" (axis {axis} has {found}, not {size})")
            else:
                known = sizes.setdefault(size, (found, name))
                if known[0] != found:
                    self._fail_size(side, name, port, value, axis)

    def _size(self, side: str, name: str, port: NeuralType, value: Any, axis: int, found: int) -> None:
        for number, size in port.layout.sized if port.layout else ():
            if number == axis and isinstance(size, str) and self.sizes.setdefault(size, (found, name))[0] != found:
                self._fail_size(side, name, port, value, axis)

    # Failures: one line each, with the module, its method, the port, both types and both shapes.

    @property
    def _at(self) -> str:
        return f"{self.where}.{self.method}"

    def _raise(self, message: str) -> NoReturn:
        graph = self.symbolic or self.paths is not None
        raise (GraphError if graph else NeuralTypeError)(f"{self._at}: {message}")

    def _fail(self, side: str, name: str, port: NeuralType, value: Any, why: str) -> NoReturn:
        bound = self._with_bound_sizes(port)
        self._raise(f"{side} {name!r} {'takes' if side == 'input' else 'gives'} {bound}, got {_describe(value)}{why}")

    def _fail_size(self, side: str, name: str, port: NeuralType, value: Any, axis: int) -> NoReturn:
        assert port.layout is not None
        size = str(dict(port.layout.sized)[axis])
        known, other = self.sizes[size]
        where = "before it in this list" if other == name else f"in {other!r}"
        self._fail(side, name, port, value, f" (axis {axis} is a {size!r} axis, and that is {known} {where})")

    def _fail_depth(self, side: str, name: str, port: NeuralType, declared: int, depth: int) -> NoReturn:
        lists = declared + (port.layout.lists if port.layout else 0)
        shown = ["by itself", "in a list", "in a list of lists"]
        expected, got = (shown[n] if n < len(shown) else f"in {n} lists, nested" for n in (lists, depth))
        self._raise(f"{side} {name!r} is {port} {expected}, got it {got}")

    def _fail_count(self, ports: Ports, count: int) -> NoReturn:
        self._raise(f"gives {len(ports)} outputs ({', '.join(ports)}), but the method returned {count}")

    def _fail_unknown(self, side: str, ports: Ports, given: Mapping[str, Any]) -> None:
        for name in given:
            if name not in ports:
                hint = nearest(name, [port for port in ports if port not in given])
                shown = ", ".join(f"{port!r} {ports[port]}" for port in ports) or "none"
                self._raise(f"no {side} is called {name!r}{hint} ({side}s: {shown}); got {_describe(given[name])}")

    def _fail_names(self, ports: Ports, given: Mapping[str, Any]) -> NoReturn:
        self._fail_unknown("input", ports, given)
        missing = [name for name, port in ports.items() if name not in given and not _base(port).optional]
        shown = ", ".join(f"{name!r} {ports[name]}" for name in missing)
        self._raise(f"required input {shown} is not fed (fed: {', '.join(given) or 'nothing'})")


def _base(port: Any) -> NeuralType:
    """Return the neural type in a nest of lists."""
    while not isinstance(port, NeuralType):
        if not isinstance(port, (list, tuple)) or len(port) != 1:
            raise NeuralTypeError(f"a port is a NeuralType, or a list of one: {port!r}")
        port = port[0]
    return port


def _depth(port: Any) -> int:
    return 0 if isinstance(port, NeuralType) else 1 + _depth(port[0])


def _holds_lists(port: Any) -> bool:
    return not isinstance(port, NeuralType) or (port.layout is not None and port.layout.lists > 0)


def _is_wrapped(result: Any) -> bool:
    return isinstance(result, tuple) and len(result) == 1


def _describe(value: Any) -> str:
    if isinstance(value, Port):
        return f"{value.neural_type} from {value.name}"
    carried = getattr(value, "neural_type", None)
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple):
        return f"{carried or f'an untyped {type(value).__name__}'} of shape {tuple(shape)}"
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__} of length {len(value)}"
    return type(value).__name__
