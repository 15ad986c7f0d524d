"""Where a key of a composed config was written, and Hydra's errors in one line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf.errors import OmegaConfBaseException

from rayconvai.config.overrides import parse
from rayconvai.errors import nearest

RUN_DEFAULTS = "run_defaults"
"""The name under which recipes find every key of a run, with its default."""

_KEY = re.compile(r"^([\w\-]+(?:\.[\w\-]+)*)")
_QUOTED = re.compile(r"'([^']*)'")


def locate(message: str, loader: ConfigLoaderImpl, recipe: str, groups: Sequence[str], values: Sequence[str]) -> str:
    """Prefix the message of a wrong key (which begins with that key) with the override or ``file:line`` that set it."""
    match = _KEY.match(message)
    if match is None:
        return message
    key = match[1]
    for override in reversed(parse(values)):
        line = str(override.input_line)
        if not override.is_delete() and _sets(override, key):
            return f"override {line.lstrip('+')!r}: {message}"
    for file, node, package in _files(loader, recipe, groups):
        rest = _within(key, package)
        if rest is not None and (found_line := _line(node, rest)):
            return f"{_short(file)}:{found_line}: {message}"
    return message


def explain(error: Exception, loader: ConfigLoaderImpl, recipe: str) -> str:
    """Return one line for an error that Hydra, OmegaConf or YAML raised while composing."""
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        where = f"{_short(Path(mark.name))}:{mark.line + 1}: " if mark else ""
        return f"{where}not valid YAML: {error.problem or error.context}"
    if isinstance(error, UnicodeDecodeError):
        return f"{_not_utf8(loader)}: not UTF-8 (byte {error.start + 1}); save it as UTF-8"
    if isinstance(error, RecursionError):
        return f"recipe {recipe}: its defaults lists lead back to where they began; leave one of them out"
    if isinstance(error, MissingConfigException):
        return _explain_missing(error, loader, recipe)
    if isinstance(error, OverrideParseException):
        return f"override {error.override!r} cannot be read: {_one_line(str(error.message))}"
    if isinstance(error.__cause__, (OmegaConfBaseException, yaml.MarkedYAMLError)) and not str(error).strip():
        return explain(error.__cause__, loader, recipe)
    text = _one_line(str(error))
    quoted = _QUOTED.search(text)
    if quoted and "No match in the defaults list" in text:
        there = ", ".join(chosen(loader, recipe)) or "none"
        return f"recipe {recipe} does not choose a {quoted[1].lstrip('~+')!r}; it chooses: {there}"
    if "appears more than once in the final defaults list" in text:
        return f"recipe {recipe} chooses {text.split()[0]!r} already; leave out the + to choose another"
    if quoted and "Could not delete from config" in text:
        return f"override '~{quoted[1]}': there is no such key to delete"
    cause = f": {_one_line(str(error.__cause__))}" if error.__cause__ is not None else ""
    return text + cause


def recipes(loader: ConfigLoaderImpl) -> list[str]:
    """Return the names of all recipes: files that are placed at the top of the config."""
    found: list[str] = []
    for folder in ("", *loader.repository.get_group_options("", ObjectType.GROUP)):
        names = [f"{folder}/{option}".lstrip("/") for option in loader.repository.get_group_options(folder)]
        if folder != "hydra" and all(_is_global(loader, name) for name in names if folder):
            found.extend(name for name in names if not _is_structured(loader, name))
    return found


def _not_utf8(loader: ConfigLoaderImpl) -> str:
    """Return the config file that cannot be decoded; Hydra's error does not name it."""
    for source in loader.get_sources():
        for file in Path(source.path).rglob("*.yaml") if source.scheme() == "file" else ():
            try:
                file.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                return _short(file)
    return "config"


def _explain_missing(error: MissingConfigException, loader: ConfigLoaderImpl, recipe: str) -> str:
    missing = str(error.missing_cfg_file)
    if missing.removesuffix(".yaml") == recipe.removesuffix(".yaml"):
        names = recipes(loader)
        return f"there is no recipe {recipe!r}{nearest(recipe, names)}; recipes: {', '.join(names)}"
    group, _, option = missing.rpartition("/")
    where = _QUOTED.match(str(error).partition("In ")[2])
    prefix = f"in {where[1]}: " if where else ""
    if error.options:
        return f"{prefix}{group} has no {option!r}{nearest(option, error.options)}; it has: {', '.join(error.options)}"
    groups = group_names(loader)
    return f"{prefix}there is no config {missing!r}{nearest(group, groups)}; groups: {', '.join(groups)}"


def group_names(loader: ConfigLoaderImpl, parent: str = "") -> list[str]:
    """Return the names of all config groups, nested ones as ``model/encoder``; folders of recipes are none."""
    homes = {recipe.rpartition("/")[0] for recipe in recipes(loader)} if not parent else set()
    names = []
    for name in loader.repository.get_group_options(parent, ObjectType.GROUP):
        full = f"{parent}/{name}".lstrip("/")
        if full in homes or full == "hydra":
            continue
        if loader.repository.get_group_options(full):
            names.append(full)
        names.extend(group_names(loader, full))
    return sorted(names)


def _is_structured(loader: ConfigLoaderImpl, name: str) -> bool:
    """Tell whether a config of that name is in Hydra's ConfigStore only: run_defaults, and Hydra's own."""
    files = (source for source in loader.get_sources() if source.scheme() != "structured")
    return not any(source.is_config(name) for source in files if source.available())


def _is_global(loader: ConfigLoaderImpl, name: str) -> bool:
    try:
        loaded = loader.repository.load_config(name)
    except (OmegaConfBaseException, yaml.YAMLError, UnicodeDecodeError):  # reported when it is chosen
        return False
    return loaded is not None and loaded.header["package"] == "_global_"


def chosen(loader: ConfigLoaderImpl, recipe: str) -> list[str]:
    """Return the config groups that a recipe chooses an option of."""
    defaults = loader.compute_defaults_list(recipe, [], RunMode.RUN)
    return [name for name in defaults.overrides.known_choices if not name.startswith("hydra")]


def _sets(override: Override, key: str) -> bool:
    name = override.key_or_group
    return key == name or key.startswith(f"{name}.") or name.startswith(f"{key}.")


def _files(loader: ConfigLoaderImpl, recipe: str, groups: Sequence[str]) -> Iterable[tuple[Path, yaml.Node, str]]:
    """Yield the YAML files of a composition with their parsed text and package, the last to be applied first."""
    try:
        defaults = loader.compute_defaults_list(recipe, list(groups), RunMode.RUN).defaults
    except HydraException:
        return
    for default in reversed(defaults):
        if default.config_path is None or default.config_path.startswith("hydra/"):
            continue
        for source in loader.get_sources():
            file = Path(source.path) / f"{default.config_path.removesuffix('.yaml')}.yaml"
            if source.scheme() == "file" and file.is_file():
                node = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
                if node is not None:
                    yield file, node, default.package or ""
                break


def _within(key: str, package: str) -> list[str] | None:
    """Return the parts of ``key`` below ``package``; None if it lies elsewhere."""
    parts, packages = key.split("."), [part for part in package.split(".") if part and part != "_global_"]
    return parts[len(packages) :] if parts[: len(packages)] == packages else None


def _walk(node: Any, parts: Sequence[str]) -> Any:
    for part in parts:
        if isinstance(node, yaml.MappingNode):
            node = next((value for name, value in node.value if name.value == part), None)
        elif isinstance(node, yaml.SequenceNode) and part.isdigit() and int(part) < len(node.value):
            node = node.value[int(part)]
        else:
            return None
    return node


def _line(node: yaml.Node, parts: Sequence[str]) -> int | None:
    """Return the 1-based line of a key."""
    if not parts:
        return None
    parent = _walk(node, parts[:-1])
    if isinstance(parent, yaml.MappingNode):
        return next((name.start_mark.line + 1 for name, _ in parent.value if name.value == parts[-1]), None)
    found = _walk(node, parts)
    return found.start_mark.line + 1 if found is not None else None


def _short(file: Path) -> str:
    try:
        return str(file.relative_to(Path.cwd()))
    except ValueError:
        return str(file)


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()
