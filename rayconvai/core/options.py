"""Options of parts that a config names by a short name (``adamw``, ``CosineAnnealing``), and their checks.

As for ``_target_`` nodes, the schema is the signature of the class, here with the keywords that it hands on to its
parents.
"""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError

from rayconvai.core.build import Parameter
from rayconvai.core.coerce import coerce, nearest_key, type_hints
from rayconvai.errors import ConfigError, nearest

T = typing.TypeVar("T")


class UnknownKeyError(ConfigError, ConfigKeyError):
    """A key that the named part does not take; caught as OmegaConf's error too, as NeMo's users do."""

    def __init__(self, message: str) -> None:
        ConfigKeyError.__init__(self, message)


def plain(config: Mapping[str, Any] | Any) -> dict[str, Any]:
    """Return a config section, which may be a dataclass, as a dict of its own, interpolations resolved."""
    if dataclasses.is_dataclass(config):
        config = OmegaConf.structured(config)
    if isinstance(config, DictConfig):
        return {str(key): value for key, value in typing.cast(dict[Any, Any], _resolved(config)).items()}
    return {str(key): _resolved(value) for key, value in config.items()}


def options_of(cls: type[Any]) -> dict[str, Parameter]:
    """Return what a class can be called with by keyword, apart from its first argument.

    A class with more options than a signature should have names a dataclass of them as its ``params_class``.
    """
    params_class = getattr(cls, "params_class", None)
    if params_class is not None:
        hints = type_hints(params_class)
        return {
            field.name: Parameter(field.name, hints[field.name], _default(field)) for field in _fields(params_class)
        }
    found: dict[str, Parameter] = {}
    for owner in cls.__mro__:
        if "__init__" not in vars(owner):
            continue
        init = vars(owner)["__init__"]
        parameters = list(inspect.signature(init).parameters.values())[2:]  # after self and what it acts on
        hints = _hints(init)
        for parameter in parameters:
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                kind = hints.get(parameter.name, Any)
                found.setdefault(parameter.name, Parameter(parameter.name, kind, parameter.default))
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    return found


def find(name: Any, available: Mapping[str, type[T]], what: str) -> type[T]:
    """Return the class of that name.

    Raises:
        ConfigError: there is none; with the nearest name and all of them.
    """
    if not isinstance(name, str) or name not in available:
        names = ", ".join(sorted(available, key=str.lower))
        raise ConfigError(f"{what} {name!r} does not exist{nearest(str(name), available)}; there are {names}")
    return available[name]


def check_options(given: Mapping[str, Any], accepted: Mapping[str, Parameter], where: str, of: str) -> dict[str, Any]:
    """Return the options converted to their types.

    Args:
        given: the options in the config, apart from the name.
        accepted: the options that there are.
        where: the section, for the message: ``optim``.
        of: the name of the part, for the message: ``adamw``.

    Raises:
        ConfigError: an unknown key, a wrong type, or a required key that is missing.
    """
    keys = ", ".join(accepted)
    for key in given:
        if key not in accepted:
            hint = nearest_key(f"{where}.{key}", accepted)
            raise UnknownKeyError(f"{where}.{key} is not a key of {of}{hint}; it takes {keys}")
    missing = [option.name for option in accepted.values() if option.required and option.name not in given]
    if missing:
        raise ConfigError(f"{where}.{missing[0]} is missing; {of} takes {keys}")
    return {key: coerce(value, accepted[key].type, f"{where}.{key}") for key, value in given.items()}


def params_dataclass(cls: type[Any]) -> type[Any]:
    """Return the dataclass of a class's options (``SGDParams`` for ``SGD``); ``???`` stands for what is required."""
    params_class = getattr(cls, "params_class", None)
    if params_class is not None:
        return typing.cast(type[Any], params_class)
    fields: Iterable[tuple[str, Any, Any]] = [
        (option.name, Any, dataclasses.field(default="???" if option.required else option.default))
        for option in options_of(cls).values()
    ]
    return dataclasses.make_dataclass(f"{cls.__name__}Params", fields, kw_only=True)


def _resolved(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _fields(params_class: Any) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(params_class)


def _default(field: dataclasses.Field[Any]) -> Any:
    return inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default


def _hints(function: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError):  # a name imported for type checkers only: the values go through unchecked
        return {}
