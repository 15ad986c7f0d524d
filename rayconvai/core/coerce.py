"""Check a config value against a type annotation and convert it where nothing is lost."""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import inspect
import pathlib
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Any, Literal

from omegaconf import BooleanNode, EnumNode, FloatNode, IntegerNode, PathNode, StringNode, ValueNode
from omegaconf.errors import ValidationError

from rayconvai.errors import ConfigError, nearest

_LEAVES: dict[Any, Callable[[], ValueNode]] = {
    int: IntegerNode,
    float: FloatNode,
    bool: BooleanNode,
    str: StringNode,
    pathlib.Path: PathNode,
}
_SCALARS = (str, int, float, bool, bytes)
_LISTS = (list, tuple, set, frozenset, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
_MAPS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


@functools.cache
def type_hints(kind: type) -> Mapping[str, Any]:
    """Return the annotations of a class, resolved; reading them takes longer than checking a value by them."""
    return types.MappingProxyType(typing.get_type_hints(kind))


def coerce(value: Any, kind: Any, key: str) -> Any:
    """Return ``value`` as ``kind``.

    Args:
        value: a plain value, plain container, or built object.
        kind: an annotation; what this module does not know (type variables, protocols) lets everything through.
        key: the full key, for the message.

    Raises:
        ConfigError: the value is not of that kind and cannot be read as it.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any or kind is inspect.Parameter.empty or isinstance(kind, typing.TypeVar):
        return value
    if origin is typing.Annotated:
        return coerce(value, arguments[0], key)
    if origin is Literal:
        return _literal(value, arguments, key)
    if origin in (typing.Union, types.UnionType):
        return _union(value, arguments, kind, key)
    if kind in (None, type(None)):
        return None if value is None else _refuse(value, kind, key)
    if kind in _LEAVES or (inspect.isclass(kind) and issubclass(kind, Enum)):
        return _leaf(value, kind, key)
    container = origin or kind
    if container in _LISTS:
        return _sequence(value, container, arguments, kind, key)
    if container in _MAPS:
        return _mapping(value, arguments, kind, key)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type) and isinstance(value, dict):
        return _dataclass(value, kind, key)
    return _instance(value, container, kind, key)


def nearest_key(key: str, names: Iterable[str]) -> str:
    """Return ``"; nearest: x"`` with the full key that ``key`` was most likely meant to be, among its siblings."""
    parent, dot, last = key.rpartition(".")
    return nearest(last, names).replace(": ", f": {parent}{dot}", 1)


def _refuse(value: Any, kind: Any, key: str) -> typing.NoReturn:
    raise ConfigError(f"{key} must be {_name(kind)}, not {value!r}")


def _name(kind: Any) -> str:
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return " or ".join(_name(argument) for argument in typing.get_args(kind))
    if kind is type(None):
        return "null"
    container = typing.get_origin(kind) or kind
    if container in _MAPS:
        return "a section"
    if container in _LISTS:
        items = [argument for argument in typing.get_args(kind) if argument is not Ellipsis]
        return f"a list of {_name(items[0])}" if len(set(items)) == 1 else "a list"
    return kind.__name__ if inspect.isclass(kind) and not typing.get_args(kind) else str(kind).replace("typing.", "")


def _leaf(value: Any, kind: Any, key: str) -> Any:
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    if value is None or not isinstance(value, _SCALARS):
        _refuse(value, kind, key)
    node = EnumNode(kind) if issubclass(kind, Enum) else _LEAVES[kind]()
    try:
        return node.validate_and_convert(value)
    except (ValidationError, ValueError) as error:
        hint = nearest(str(value), [member.name for member in kind]) if issubclass(kind, Enum) else ""
        raise ConfigError(f"{key} must be {_name(kind)}, not {value!r}{hint}") from error


def _literal(value: Any, choices: tuple[Any, ...], key: str) -> Any:
    for choice in choices:
        if type(choice) is type(value) and choice == value:
            return choice
    shown = ", ".join(dict.fromkeys(map(str, choices)))
    raise ConfigError(f"{key} must be one of {shown}, not {value!r}{nearest(str(value), map(str, choices))}")


def _union(value: Any, kinds: tuple[Any, ...], union: Any, key: str) -> Any:
    if any(type(value) is kind for kind in kinds):  # "4" for `int | str` stays a string
        return value
    literals = [kind for kind in kinds if typing.get_origin(kind) is Literal]
    if literals and all(kind in literals or kind is type(None) for kind in kinds):
        choices = tuple(choice for literal in literals for choice in typing.get_args(literal))
        return None if value is None and len(literals) < len(kinds) else _literal(value, choices, key)
    kinds_here = [kind for kind in kinds if kind is not type(None)]
    if value is None and len(kinds_here) < len(kinds):
        return None
    if len(kinds_here) == 1:
        try:
            return coerce(value, kinds_here[0], key)
        except ConfigError as error:
            raise ConfigError(str(error).replace(", not ", " or null, not ", 1)) from error
    for kind in sorted(kinds_here, key=lambda kind: kind is str):  # anything can be read as a string: that comes last
        try:
            return coerce(value, kind, key)
        except ConfigError:
            continue
    return _refuse(value, union, key)


def _sequence(value: Any, container: Any, arguments: tuple[Any, ...], kind: Any, key: str) -> Any:
    if value is None or isinstance(value, (*_SCALARS, dict)):
        _refuse(value, kind, key)
    if not isinstance(value, collections.abc.Collection):
        return value
    if container is tuple and arguments and arguments[-1] is not Ellipsis:
        if len(value) != len(arguments):
            raise ConfigError(f"{key} must have {len(arguments)} values, not {len(value)}: {value!r}")
        kinds = list(arguments)
    else:
        kinds = [arguments[0] if arguments else Any] * len(value)
    converted = [coerce(item, kinds[index], f"{key}.{index}") for index, item in enumerate(value)]
    return container(converted) if container in (tuple, set, frozenset) else converted


def _mapping(value: Any, arguments: tuple[Any, ...], kind: Any, key: str) -> Any:
    if not isinstance(value, collections.abc.Mapping):
        _refuse(value, kind, key)
    key_kind, value_kind = arguments or (Any, Any)
    return {coerce(name, key_kind, key): coerce(item, value_kind, f"{key}.{name}") for name, item in value.items()}


def _dataclass(value: dict[str, Any], kind: type, key: str) -> Any:
    hints = type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind) if field.init]
    for name in value:
        if name not in names:
            full = f"{key}.{name}"
            raise ConfigError(f"{full} is not a key of {kind.__name__}{nearest_key(full, names)}")
    arguments = {name: coerce(item, hints[name], f"{key}.{name}") for name, item in value.items()}
    try:
        return kind(**arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(below(key, str(error), names)) from error


def below(key: str, message: str, names: Iterable[str]) -> str:
    """Prefix what a constructor refused with its key: the argument's own where the message begins with its name."""
    return f"{key}.{message}" if message.partition(" ")[0] in names else f"{key}: {message}"


def _instance(value: Any, container: Any, kind: Any, key: str) -> Any:
    plain = isinstance(value, (*_SCALARS, dict, list))
    protocol = getattr(container, "_is_protocol", False)
    if inspect.isclass(container) and container is not object and plain and not protocol:
        if isinstance(value, container):
            return value
        raise ConfigError(f"{key} must be a section with the _target_ of a {_name(kind)}, not {value!r}")
    return value
