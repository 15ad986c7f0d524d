"""Objects from configs and configs from objects, under the names that NeMo's users know."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from typing_extensions import Self

from rayconvai.core.build import TARGET, build, parameters
from rayconvai.errors import ConfigError, StorageError, nearest


class Serialization:
    """Mixin of what a config can build."""

    _cfg = cast("DictConfig | None", None)  # not annotated: TorchScript reads a module's annotations, but not this one
    """The config that this was built from, interpolations resolved."""

    @classmethod
    def from_config_dict(cls, config: Mapping[str, Any] | DictConfig) -> Self:
        """Build an object from a config.

        With ``_target_``, the class that it names, from the allowed packages. With ``target``, one of the subclasses
        that are already defined, or this class if it is a subclass of that one. Else this class. A class whose
        ``__init__`` takes ``cfg`` is given the whole config, as NeMo's are; any other takes its keys as arguments.

        Raises:
            ConfigError: a key that the class does not take, a class that is not found or not allowed, or another class
                than this one was called on.
        """
        node = _resolved(config)
        plain = {str(key): value for key, value in node.items()}
        instance: Any
        if TARGET in plain:
            instance = build(config)  # as it was given: it knows its place in a larger config, for messages
        else:
            kind: type[Serialization] = cls
            if "target" in plain:
                named = _subclass(plain["target"])
                kind = cls if issubclass(cls, named) else named
            instance = _construct(kind, node, plain)
        if not isinstance(instance, cls) and cls is not Serialization:
            raise ConfigError(f"the config builds a {type(instance).__name__}, not a {cls.__name__}")
        if getattr(instance, "_cfg", None) is None:
            instance._cfg = node
        return cast(Self, instance)

    def to_config_dict(self) -> DictConfig:
        """Return the config that this object was built from.

        Raises:
            NotImplementedError: it was not built from a config.
        """
        if self._cfg is None:
            raise NotImplementedError(
                f"this {type(self).__name__} was not built from a config; use {type(self).__name__}.from_config_dict"
            )
        return _resolved(self._cfg)


class FileIO:
    """Mixin of what is kept in files: its config as YAML, itself as an artefact (which models implement)."""

    @classmethod
    def from_config_file(cls, path2yaml_file: str | Path) -> Self:
        """Build an object from a config in a YAML file; its weights are new.

        Raises:
            ConfigError: the file cannot be read, or the config not built.
            NotImplementedError: the class does not build from configs.
        """
        from_config_dict: Callable[[DictConfig], Self] | None = getattr(cls, "from_config_dict", None)
        if from_config_dict is None:
            raise NotImplementedError(f"{cls.__name__} does not build from configs: it is no subclass of Serialization")
        try:
            config = OmegaConf.load(path2yaml_file)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path2yaml_file}: cannot be read as a config: {error}") from error
        if not isinstance(config, DictConfig):
            raise ConfigError(f"{path2yaml_file}: a config is a mapping, not a list")
        return from_config_dict(config)

    def to_config_file(self, path2yaml_file: str | Path) -> None:
        """Write the config that this object was built from as YAML.

        Raises:
            NotImplementedError: it was not built from a config.
            StorageError: the file cannot be written.
        """
        to_config_dict: Callable[[], DictConfig] | None = getattr(self, "to_config_dict", None)
        if to_config_dict is None:
            raise NotImplementedError(f"{type(self).__name__} has no config: it is no subclass of Serialization")
        config = to_config_dict()
        try:
            OmegaConf.save(config, path2yaml_file, resolve=True)
        except OSError as error:
            raise StorageError(f"{path2yaml_file}: cannot be written: {error.strerror}") from error

    def save_to(self, save_path: str | Path) -> Any:
        """Write this object with its weights.

        Raises:
            NotImplementedError: unless a subclass says how.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot be saved by itself; save the model that it is part of")

    @classmethod
    def restore_from(
        cls,
        restore_path: str | Path,
        override_config_path: str | Path | DictConfig | None = None,
        map_location: torch.device | str | None = None,
        strict: bool = True,
        return_config: bool = False,
    ) -> Any:
        """Read an object with its weights.

        Raises:
            NotImplementedError: unless a subclass says how.
        """
        raise NotImplementedError(f"{cls.__name__} cannot be restored by itself; restore the model that it is part of")


def _resolved(config: Mapping[str, Any] | DictConfig) -> DictConfig:
    node = config if isinstance(config, DictConfig) else OmegaConf.create(dict(config))
    try:
        return OmegaConf.create(cast("dict[str, Any]", OmegaConf.to_container(node, resolve=True)))
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from error


def _subclass(path: str) -> type[Serialization]:
    """Return the subclass of that full name; nothing is imported for it."""
    found = {f"{kind.__module__}.{kind.__qualname__}": kind for kind in _subclasses(Serialization)}
    if path not in found:
        raise ConfigError(f"target {path!r} is no class that is defined here{nearest(path, found)}")
    return found[path]


def _subclasses(kind: type[Serialization]) -> set[type[Serialization]]:
    return {kind}.union(*map(_subclasses, kind.__subclasses__()))


def _construct(kind: type[Serialization], node: DictConfig, plain: Mapping[str, Any]) -> Serialization:
    is_model = hasattr(kind, "from_config")
    make: Any = getattr(kind, "from_config", kind)
    signature = inspect.signature(make).parameters
    if not is_model and "cfg" in signature:
        return cast(Serialization, make(cfg=node))
    takes_all = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in signature.values())
    known = parameters(kind)
    for name in plain:
        if name not in known and not takes_all:
            raise ConfigError(f"{name} is not a parameter of {kind.__name__}{nearest(name, known)}")
    missing = [parameter.name for parameter in known.values() if parameter.required and parameter.name not in plain]
    if missing:
        raise ConfigError(f"{kind.__name__} requires {', '.join(missing)}")
    arguments = {name: _built(value) for name, value in plain.items()} if not is_model else plain
    return cast(Serialization, make(**arguments))


def _built(value: Any) -> Any:
    """Build the nodes in a value; other containers come out plain."""
    if isinstance(value, (DictConfig, dict)):
        items = {str(key): item for key, item in value.items()}
        return build(value) if TARGET in items else {key: _built(item) for key, item in items.items()}
    if OmegaConf.is_list(value) or isinstance(value, list):
        return [_built(item) for item in value]
    return value
