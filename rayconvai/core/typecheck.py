"""Typed calls: a method's arguments and results are checked against its object's ports.

Checks are left out under ``torch.compile``, ``torch.export``, ``torch.jit.script`` and ``torch.jit.trace``: what is
compiled or traced is the bare method.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from types import FunctionType
from typing import Any, ClassVar, TypeVar, cast

import torch
from torch import nn

from rayconvai.core.call import Call, Ports
from rayconvai.core.port import symbols
from rayconvai.errors import NeuralTypeError

Method = TypeVar("Method", bound=Callable[..., Any])


class Typing:
    """Mixin of whatever has ports.

    A class declares them as class attributes, as properties, or as ``functools.cached_property`` where they depend on
    its parameters. Each maps names to neural types, or to (lists of) a list of one; None is no check of that side.
    """

    __jit_unused_properties__: ClassVar[list[str]] = []

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Hide the ports from TorchScript, which compiles a module's properties and cannot compile these."""
        super().__init_subclass__(**kwargs)
        lists = (vars(base).get("__jit_unused_properties__", ()) for base in cls.__mro__)
        cls.__jit_unused_properties__ = sorted({"input_types", "output_types"}.union(*lists))

    @property
    def input_types(self) -> Ports | None:
        """The ports that a typed method's arguments go to."""
        return None

    @property
    def output_types(self) -> Ports | None:
        """The ports that a typed method's results come from, in order."""
        return None


class _Switches:
    """The state of checking in this process."""

    enabled: ClassVar[bool] = True
    semantic: ClassVar[bool] = True
    wrapping: ClassVar[bool] = True


class typecheck:
    """Check the calls of a method, which then takes keyword arguments only, if it has input ports.

    An argument is compared with its port in name, nesting, number of axes, and axes of known size; a tensor that a
    typed method returned carries its type, which is compared too. Named sizes, and batch sizes, must agree over the
    inputs and outputs of one call.

    Args:
        input_types: ports of this method, if they are not those of its class; None for no check.
        output_types: likewise for its results.
        ignore_collections: let values be nested as they please.

    Raises:
        NeuralTypeError: a call that does not fit; when it is made.
        RuntimeError: the object has no ports (is not ``Typing``); when the method is called.
    """

    class TypeState(Enum):
        """Stands for "the ports of the class"."""

        UNINITIALIZED = 0

    def __init__(
        self,
        input_types: Ports | TypeState | None = TypeState.UNINITIALIZED,
        output_types: Ports | TypeState | None = TypeState.UNINITIALIZED,
        ignore_collections: bool = False,
    ) -> None:
        self.input_types = input_types
        self.output_types = output_types
        self.ignore_collections = ignore_collections

    def __call__(self, method: Method) -> Method:
        """Return the method with checks around it."""
        return _wrap(method, self) if _Switches.wrapping else method

    @staticmethod
    def set_typecheck_enabled(enabled: bool = True) -> None:
        """Turn all checks of this process on or off."""
        _Switches.enabled = enabled

    @staticmethod
    @contextmanager
    def disable_checks() -> Iterator[None]:
        """Leave out all checks."""
        before, _Switches.enabled = _Switches.enabled, False
        try:
            yield
        finally:
            _Switches.enabled = before

    @staticmethod
    def set_semantic_check_enabled(enabled: bool = True) -> None:
        """Turn the checks of types and shapes on or off; names, counts and nesting are checked all the same."""
        _Switches.semantic = enabled

    @staticmethod
    @contextmanager
    def disable_semantic_checks() -> Iterator[None]:
        """Leave out the checks of types and shapes."""
        before, _Switches.semantic = _Switches.semantic, False
        try:
            yield
        finally:
            _Switches.semantic = before

    @staticmethod
    def enable_wrapping(enabled: bool = True) -> None:
        """Let the decorator wrap the methods that it is put on from now on; if not, also turn all checks off."""
        _Switches.wrapping = enabled
        _Switches.enabled = enabled


def _wrap(method: Method, check: typecheck) -> Method:
    def bind(  # names of the wrapper's own, which no module's code is likely to use: TorchScript sees them
        _method_: Callable[..., Any],
        _check_: typecheck,
        _run_: Callable[..., Any],
        _is_compiling_: Callable[[], bool],
    ) -> Callable[..., Any]:
        def typed(self: Any, *args: Any, **kwargs: Any) -> Any:
            if _is_compiling_():
                return _method_(self, *args, **kwargs)
            return _run_(_check_, _method_, self, args, kwargs)

        return typed

    typed = bind(method, check, _run, torch.compiler.is_compiling)
    # torch.compile counts recompilations by code object: all typed methods of a process must not share one.
    code = typed.__code__.replace(co_name=method.__name__)
    # TorchScript compiles the source of the method (found by __wrapped__), but looks up names in the wrapper.
    in_scope = FunctionType(code, _scope(method), method.__name__, None, typed.__closure__)
    return cast(Method, functools.update_wrapper(in_scope, method))


def _scope(method: Callable[..., Any]) -> dict[str, Any]:
    """Return the names that a method's code can mean: its module's, and those of the function that its class is in."""
    bare = cast(FunctionType, inspect.unwrap(method))
    if not bare.__closure__:
        return bare.__globals__
    enclosing = {}
    for name, cell in zip(bare.__code__.co_freevars, bare.__closure__, strict=True):
        with suppress(ValueError):  # the cell of __class__: the class is still being made
            enclosing[name] = cell.cell_contents
    return {**bare.__globals__, **enclosing}


def _run(
    check: typecheck, method: Callable[..., Any], owner: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    if not _Switches.enabled or torch._C._is_tracing():  # what torch.jit.is_tracing asks, at half its price
        return method(owner, *args, **kwargs)
    if not isinstance(owner, Typing):
        where = f"{type(owner).__name__}.{method.__name__}"
        raise RuntimeError(f"@typecheck() is on {where}, whose class is no subclass of Typing")  # noqa: TRY004
    input_types, output_types = check.input_types, check.output_types
    if input_types is typecheck.TypeState.UNINITIALIZED:
        input_types = owner.input_types
    if output_types is typecheck.TypeState.UNINITIALIZED:
        output_types = owner.output_types
    if input_types is None and output_types is None:
        return method(owner, *args, **kwargs)
    call = Call(owner, method.__name__, _Switches.semantic, not check.ignore_collections)
    if input_types is not None:
        if args:
            raise NeuralTypeError(
                f"{call.where}.{call.method}: {len(args)} positional arguments; "
                f"a typed method takes keywords only: {', '.join(input_types)}"
            )
        call.inputs(input_types, kwargs)
    if call.symbolic and output_types is not None:
        return call.symbols(output_types)
    result = method(owner, *args, **kwargs)
    if output_types is not None:
        call.outputs(output_types, result)
    return result


def trace(function: Callable[..., Any], root: nn.Module | None = None, /, **values: Any) -> Any:
    """Walk a model's graph without a tensor: call ``function`` with ports, through all typed methods that it calls.

    Each typed method checks that its ports are fed with types and sizes that fit, and gives its own outputs as ports;
    its body does not run. What is not a typed method runs, and fails if it does more with a port than pass it on.

    Args:
        function: a method of the model, or a module.
        root: the module whose submodules messages name by their path; the function's own, unless given.
        values: its arguments: neural types, ports, or lists and dicts of them; anything else is passed as it is.

    Returns:
        What the function returns, with ports for tensors.

    Raises:
        GraphError: a required port that is not fed, an unknown one, types or sizes that do not fit, or a port that is
            used as if it held data.
    """
    owner = root if root is not None else getattr(function, "__self__", function)
    modules = owner.named_modules() if isinstance(owner, nn.Module) else ()
    before = _Switches.enabled, _Switches.semantic, Call.paths
    _Switches.enabled = _Switches.semantic = True
    Call.paths = {id(module): path for path, module in modules}
    try:
        return function(**symbols(values, ""))
    finally:
        _Switches.enabled, _Switches.semantic, Call.paths = before
