"""Hydra composes a run from ``configs/``; every key is then checked against the schema of a run."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

import rayconvai
from rayconvai.config.check import check, complete, interpolations, known_keys, nearest_full_key, run_defaults
from rayconvai.config.overrides import Split, parse, split
from rayconvai.config.sources import RUN_DEFAULTS, chosen, explain, group_names, locate, recipes
from rayconvai.errors import ConfigError

__all__ = ["Composer", "check", "compose", "config_root", "interpolations", "register"]


def config_root() -> Path:
    """Return the directory of the recipes and groups: the checkout's ``configs``, or the wheel's copy of it."""
    package = Path(rayconvai.__file__).parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def register() -> None:
    """Put ``run_defaults`` into Hydra's ConfigStore: every key of a run, for recipes to begin with."""
    ConfigStore.instance().store(name=RUN_DEFAULTS, node=run_defaults(), package="_global_", provider="rayconvai")


def compose(recipe: str, overrides: Sequence[str] = (), config_dirs: Sequence[Path] = ()) -> DictConfig:
    """Compose and check one run.

    Args:
        recipe: a name under ``configs/`` or one of ``config_dirs``, such as ``asr/conformer_ctc``.
        overrides: in Hydra's grammar.
        config_dirs: more directories of recipes and groups.

    Raises:
        ConfigError: what is wrong, by file and line or override, with the nearest right name.
    """
    return Composer(recipe, overrides, config_dirs).compose()


class Composer:
    """Composes many runs of one recipe: what all have in common is kept for each set of group choices."""

    def __init__(self, recipe: str, overrides: Sequence[str] = (), config_dirs: Sequence[Path] = ()) -> None:
        register()
        self.recipe = recipe
        self.overrides = tuple(overrides)
        hydra.version.setbase("1.3")
        self._loader = _loader(config_dirs)
        self._composed: dict[tuple[str, ...], bytes] = {}
        self._known_options: dict[str, list[str]] = {}

    def compose(self, overrides: Sequence[str] = ()) -> DictConfig:
        """Compose and check the recipe with its overrides and these.

        Raises:
            ConfigError: what is wrong, by file and line or override, with the nearest right name.
        """
        lines = self.split(overrides)
        config: DictConfig = pickle.loads(self._read(lines.groups))  # a third of the time of a deep copy
        self._apply(lines.values[len(self._values) :], config)
        if any(value.startswith("~") for value in lines.values):
            config = complete(config)
        try:
            check(config)
        except ConfigError as error:
            message = locate(str(error), self._loader, self.recipe, lines.groups, lines.values)
            raise ConfigError(message) from error
        OmegaConf.set_struct(config, True)
        return config

    def split(self, overrides: Sequence[str] = (), *, allow_sweeps: bool = False) -> Split:
        """Separate the recipe's overrides and these into choices of groups and values, in the order that they act.

        Raises:
            ConfigError: an override that cannot be read, or stands for several values where that is not allowed.
        """
        lines = split((*self.overrides, *overrides), self._options, allow_sweeps=allow_sweeps)
        if any(line.startswith("+") for line in lines.groups):  # to add what is there already is to choose it
            there = self._chosen_groups()
            groups = (line.lstrip("+") if line.strip("+").partition("=")[0] in there else line for line in lines.groups)
            lines = Split(tuple(groups), lines.values)
        return lines

    def explain(self, error: Exception) -> str:
        """Return one line for an error of Hydra's, OmegaConf's or YAML's."""
        return explain(error, self._loader, self.recipe)

    def groups(self) -> dict[str, list[str]]:
        """Return the config groups with their options; a nested group is called as in an override, model/encoder."""
        return {name: self._options(name) for name in group_names(self._loader)}

    def recipes(self) -> list[str]:
        """Return the names of all recipes that can be composed."""
        return recipes(self._loader)

    def keys(self) -> set[str]:
        """Return the full keys that an override of the recipe may set."""
        return known_keys(self.compose())

    @functools.cached_property
    def _values(self) -> tuple[str, ...]:
        """The recipe's own overrides that set values; they come before those of a run."""
        return self.split().values

    def _options(self, name: str) -> list[str]:
        if name not in self._known_options:
            self._known_options[name] = self._loader.repository.get_group_options(name)
        return self._known_options[name]

    def _chosen_groups(self) -> list[str]:
        try:
            return chosen(self._loader, self.recipe)
        except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, RecursionError) as error:
            raise ConfigError(self.explain(error)) from error

    def _read(self, groups: tuple[str, ...]) -> bytes:
        if groups not in self._composed:
            try:
                config = self._loader.load_configuration(self.recipe, list(groups), RunMode.RUN, from_shell=False)
            except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, RecursionError) as error:
                raise ConfigError(self.explain(error)) from error
            with open_dict(config):
                del config["hydra"]
            config = complete(config)
            self._apply(self._values, config)
            self._composed[groups] = pickle.dumps(config)
        return self._composed[groups]

    def _apply(self, values: Sequence[str], config: DictConfig) -> None:
        for override in parse(values):
            try:
                _refuse_interpolated(override, config)
                self._loader._apply_overrides_to_config([override], config)
            except (HydraException, OmegaConfBaseException) as error:
                line = str(override.input_line).lstrip("+")
                if override.is_delete():
                    hint = nearest_full_key(override.key_or_group, complete(config))
                    raise ConfigError(f"override {line!r}: there is no such key to delete{hint}") from error
                raise ConfigError(f"override {line!r}: {self.explain(error)}") from error


def _refuse_interpolated(override: Override, config: DictConfig) -> None:
    """Refuse to write into a section that is another's by interpolation: Hydra would silently replace it."""
    node: Any = config
    parts = override.key_or_group.split(".")
    for depth, part in enumerate(parts[:-1], start=1):
        node = node._get_node(part) if isinstance(node, DictConfig) else None
        if node is not None and node._is_interpolation():
            there = ".".join([node._value()[2:-1], *parts[depth:]])
            line = str(override.input_line).lstrip("+")
            raise ConfigError(f"override {line!r}: {'.'.join(parts[:depth])} is {node._value()}; set {there}")


def _loader(config_dirs: Sequence[Path]) -> ConfigLoaderImpl:
    search_path = create_config_search_path(f"file://{config_root()}")
    for directory in config_dirs:
        if not Path(directory).is_dir():
            raise ConfigError(f"config directory not found: {directory}")
        search_path.prepend("command-line", f"file://{Path(directory).absolute()}", SearchPathQuery(provider="schema"))
    return ConfigLoaderImpl(search_path)
