"""Build objects from config: ``_target_`` names a class, the other keys are its arguments.

The schema of such a node is the signature of its target, so a class is described once, in its own code. Only targets
in allowed packages are imported: a config may come from a stranger.
"""

from __future__ import annotations

import functools
import inspect
import pkgutil
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rayconvai._optional import import_named
from rayconvai.core.coerce import below, coerce, nearest_key
from rayconvai.errors import ConfigError, RayconvaiError, nearest

TARGET = "_target_"
_OURS = ("rayconvai", "torch", "torchaudio", "torchmetrics", "lightning", "transformers")
_added: set[str] = set()


@dataclass(frozen=True)
class Parameter:
    """One key of a node: the parameter of its target that the key is passed to."""

    name: str
    type: Any
    """The annotation, resolved; ``Any`` where there is none."""
    default: Any = inspect.Parameter.empty

    @property
    def required(self) -> bool:
        """Whether the target cannot be called without it."""
        return self.default is inspect.Parameter.empty


_ANY = Parameter("", Any)


def allow(*packages: str) -> None:
    """Let configs of this process name targets in these top-level packages too."""
    for package in packages:
        if not package.isidentifier():
            raise ConfigError(f"packages: {package!r} is not the name of a top-level package")
    _added.update(packages)


def resolve_target(target: str) -> Callable[..., Any]:
    """Return the class, class method or function that a dotted name means.

    Functions are taken only from packages that the user allowed by name: those of ``torch`` can load pickles, say.

    Raises:
        ConfigError: the name lies outside the allow-list (nothing is imported then), or does not exist.
    """
    if not isinstance(target, str) or not target:
        raise ConfigError(f"{TARGET} must be a dotted name such as torch.nn.Linear, not {target!r}")
    parts = target.split(".")
    _check_allowed(target, parts[0])
    if len(parts) < 2 or not all(part.isidentifier() and not part.startswith("_") for part in parts):
        raise ConfigError(f"{TARGET} {target!r} is not the public dotted name of a class, such as torch.nn.Linear")
    found: Any = _import(parts[0], target)
    for depth, part in enumerate(parts[1:], start=1):
        found = _member(found, part, target, ".".join(parts[:depth]))
        # Names that a module merely imported must not lead out of the allowed packages (torch.os.system).
        _check_allowed(target, (found.__name__ if inspect.ismodule(found) else _home(found, parts[0])).split(".")[0])
    if not callable(found):
        raise ConfigError(f"{TARGET} {target!r} is not a class: it cannot be called")
    is_method = inspect.ismethod(found) and inspect.isclass(found.__self__)
    if not (inspect.isclass(found) or is_method or parts[0] in _added):
        raise ConfigError(f"{TARGET} {target!r} is a function; name a class, or a class method that makes one")
    return typing.cast(Callable[..., Any], found)


def parameters(target: Callable[..., Any] | str) -> dict[str, Parameter]:
    """Return the keys that a node of this target may have: those of its ``from_config``, or of its signature."""
    return dict(_parameters(_entry(resolve_target(target) if isinstance(target, str) else target))[0])


def check_node(node: Mapping[str, Any] | DictConfig) -> None:
    """Check a ``_target_`` node and all nodes in it without building them.

    Raises:
        ConfigError: unknown target, unknown key or wrong type, named by its full key. Keys that are missing cannot be
            told from those that the code derives, so they are found by ``build``.
    """
    config = _as_config(node)
    known = _schema(config)[1]
    for name in map(str, config):
        _check_value(_child(config, name), known.get(name, _ANY), full_key(config, name))


def build(node: Mapping[str, Any] | DictConfig, /, **derived: Any) -> Any:
    """Instantiate a ``_target_`` node.

    Nested nodes are built first, except for a target with a ``from_config`` (models), which gets them as they are and
    passes each what it derives. Other containers arrive as plain ones, values converted to the annotated types.

    Args:
        node: the section; as a DictConfig it knows its full key, which the errors then name.
        derived: arguments that follow from other parts; a config must not give them too.

    Raises:
        ConfigError: unknown, missing or wrongly typed key, by its full key; or what the target refused.
    """
    config = _as_config(node)
    call, known = _schema(config)
    for name in derived:
        if name in config:
            raise ConfigError(f"{full_key(config, name)} is derived from other parts of the config; remove it")
        if name not in known and not _parameters(call)[1]:
            where = full_key(config, TARGET)
            raise ConfigError(f"{where} is {config[TARGET]}, which does not take {name!r}; a run gives it that")
    nested_as_is = getattr(call, "__name__", "") == "from_config"
    arguments = dict(derived)
    for name in map(str, config):
        if name == TARGET:
            continue
        value = _child(config, name)
        if nested_as_is and _holds_target(value):
            arguments[name] = value
        else:
            arguments[name] = coerce(_plain(value), known.get(name, _ANY).type, full_key(config, name))
    missing = [p.name for p in known.values() if p.required and p.name not in arguments]
    if missing:
        raise ConfigError(f"{full_key(config, missing[0])} is missing; {config[TARGET]} requires {', '.join(missing)}")
    try:
        return call(**arguments)
    except ValueError as error:
        key, message = full_key(config, ""), str(error)
        lacks_key = type(error) is ConfigError and message.partition(" ")[0] in known
        if isinstance(error, RayconvaiError) and not lacks_key:
            raise
        raise ConfigError(below(key, message, known) if key else f"{config[TARGET]}: {message}") from error


def _schema(config: DictConfig) -> tuple[Callable[..., Any], Mapping[str, Parameter]]:
    """Return what the node calls and its parameters, having refused keys that are none of them."""
    if TARGET not in config:
        raise ConfigError(f"{full_key(config, '') or 'config'} has no {TARGET}; name the class that it configures")
    try:
        target = resolve_target(config[TARGET])
    except ConfigError as error:
        raise ConfigError(full_key(config, TARGET).removesuffix(TARGET) + str(error)) from error
    call = _entry(target)
    known, takes_any = _parameters(call)
    for name in map(str, config):
        if name != TARGET and name not in known and not takes_any:
            key = full_key(config, name)
            raise ConfigError(f"{key} is not a parameter of {config[TARGET]}{nearest_key(key, known)}")
    return call, known


@functools.lru_cache(maxsize=1024)
def _parameters(call: Callable[..., Any]) -> tuple[Mapping[str, Parameter], bool]:
    """Return the named parameters, and whether the call takes any other by ``**``."""
    hints = _hints(call)
    signature = _signature(call).values()
    known = {
        parameter.name: Parameter(parameter.name, hints.get(parameter.name, Any), parameter.default)
        for parameter in signature
        if parameter.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    }
    return types.MappingProxyType(known), any(p.kind is inspect.Parameter.VAR_KEYWORD for p in signature)


def _check_value(value: Any, parameter: Parameter, key: str) -> None:
    if isinstance(value, DictConfig) and TARGET in value:
        check_node(value)
    elif isinstance(value, (DictConfig, ListConfig)) and _holds_target(value):
        for name in range(len(value)) if isinstance(value, ListConfig) else list(value):
            _check_value(_child(value, name), _ANY, full_key(value, name))
    else:
        coerce(_plain(value), parameter.type, key)


def _holds_target(value: Any) -> bool:
    if isinstance(value, DictConfig):
        return TARGET in value or any(_holds_target(_child(value, name)) for name in value)
    if isinstance(value, ListConfig):
        return any(_holds_target(_child(value, index)) for index in range(len(value)))
    return False


def _plain(value: Any) -> Any:
    """Turn a config value into plain containers, with the nodes in it built."""
    if isinstance(value, DictConfig):
        if TARGET in value:
            return build(value)
        return {name: _plain(_child(value, name)) for name in value}
    if isinstance(value, ListConfig):
        return [_plain(_child(value, index)) for index in range(len(value))]
    return value


def _child(config: DictConfig | ListConfig, name: Any) -> Any:
    """Return one value, interpolations resolved; None for a section that is null."""
    try:
        if OmegaConf.is_missing(config, name):
            raise ConfigError(f"{full_key(config, name)} has no value yet; give it one")
        return config[name]
    except OmegaConfBaseException as error:
        raise ConfigError(f"{full_key(config, name)}: {str(error).splitlines()[0]}") from error


def full_key(config: DictConfig | ListConfig, name: Any) -> str:
    """Return the full key as an override has it: a list's first item is ``.0``."""
    return re.sub(r"\[(\d+)\]", r".\1", str(config._get_full_key(name if name != "" else None)))


def _as_config(node: Mapping[str, Any] | DictConfig) -> DictConfig:
    if isinstance(node, DictConfig):
        return node
    if not isinstance(node, Mapping):
        raise ConfigError(f"expected a section with {TARGET}, not {node!r}")
    return OmegaConf.create(dict(node), flags={"allow_objects": True})


def _entry(target: Callable[..., Any]) -> Callable[..., Any]:
    from_config = getattr(target, "from_config", None)
    return from_config if inspect.isclass(target) and callable(from_config) else target


def _signature(call: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(call).parameters
    except (TypeError, ValueError):  # some classes written in C have none: take what they are given
        return {"arguments": inspect.Parameter("arguments", inspect.Parameter.VAR_KEYWORD)}


def _hints(call: Callable[..., Any]) -> dict[str, Any]:
    function: Any = call.__init__ if inspect.isclass(call) else getattr(call, "__func__", call)
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError):  # a name imported for type checkers only, say: the value goes through unchecked
        return {}


def _check_allowed(target: str, package: str) -> None:
    allowed = sorted({*_OURS, *_added})
    if package not in allowed:
        hint = nearest(package, allowed)
        raise ConfigError(
            f"{TARGET} {target!r} is outside the allowed packages ({', '.join(allowed)}){hint}; "
            "to allow one, list it in a run's `packages`, or for an artefact call rayconvai.core.build.allow()"
        )


def _home(found: Any, default: str) -> str:
    """Return the module that an object was defined in; a class method's is that of the class it was taken from."""
    owner = found.__self__ if isinstance(found, types.MethodType) else found
    return str(getattr(owner, "__module__", None) or default)


def _import(name: str, target: str) -> Any:
    return import_named(name, where=f"{TARGET} {target!r}")


def _member(owner: Any, name: str, target: str, path: str) -> Any:
    """Return an attribute, importing it where it is a submodule."""
    if inspect.ismodule(owner) and not hasattr(owner, name) and hasattr(owner, "__path__"):
        modules = {module.name for module in pkgutil.iter_modules(owner.__path__)}
        if name in modules:
            return _import(f"{path}.{name}", target)
    else:
        modules = set()
    try:
        return getattr(owner, name)
    except AttributeError as error:
        public = {member for member in (*dir(owner), *modules) if not member.startswith("_")}
        raise ConfigError(f"{TARGET} {target!r}: {path} has no {name!r}{nearest(name, public)}") from error
