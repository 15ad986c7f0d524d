"""Ports as values: what flows through a model while its graph is checked, before any tensor exists."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from typing_extensions import override

from rayconvai.core.neural_type import NeuralType
from rayconvai.errors import GraphError


class Port:
    """A value with a neural type and no data.

    Typed methods take it, check it and give the ports of their outputs; nothing else can be done with it.

    Args:
        neural_type: its type; axes of fixed size are known sizes, all others are open.
        name: where it comes from, for messages: ``encoder.encoded``.
    """

    __slots__ = ("name", "neural_type")

    def __init__(self, neural_type: NeuralType, name: str = "port") -> None:
        self.neural_type = neural_type
        self.name = name

    @property
    def sizes(self) -> list[int | None]:
        """The size of each axis, None where it is open."""
        return [axis.fixed for axis in self.neural_type.axes or ()]

    @override
    def __repr__(self) -> str:
        return f"Port({self.name}: {self.neural_type})"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # hooks of the language: that they are absent is an answer
            raise AttributeError(name)
        self._refuse(f".{name}")

    def __bool__(self) -> bool:
        self._refuse("as a condition")

    @classmethod
    def __torch_function__(cls, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Refuse torch's functions, and so modules without ports."""
        ports = [value for value in (*args, *(kwargs or {}).values()) if isinstance(value, Port)]
        name = getattr(function, "__name__", repr(function))
        (ports[0] if ports else cls(NeuralType()))._refuse(f"in {name}()")

    def _refuse(self, use: str) -> NoReturn:
        raise GraphError(
            f"{self.name} ({self.neural_type}) was used {use} while the graph is checked, where it has no data; "
            "do this inside a module, or in a method with @typecheck()"
        )


def symbols(ports: Any, name: str) -> Any:
    """Turn neural types, in whatever containers, into ports: each named after its key."""
    if isinstance(ports, NeuralType):
        return Port(ports, name)
    if isinstance(ports, dict):
        return {key: symbols(value, str(key)) for key, value in ports.items()}
    if isinstance(ports, (list, tuple)):
        return [symbols(value, name) for value in ports]
    return ports
