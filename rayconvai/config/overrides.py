"""Overrides (``key=value``, ``+key``, ``++key``, ``~key``, ``group=option``) as Hydra writes them.

Every key of a run exists, whether or not a YAML file mentions it, so the three ways to give a value mean one thing:
set it. Whether the key exists is for the check of the composed config to say.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from rayconvai.errors import ConfigError


@dataclass(frozen=True)
class Split:
    """Overrides by what they choose; each is a line in Hydra's grammar."""

    groups: tuple[str, ...]
    """Choices of config files, and Hydra's own settings; a later choice replaces an earlier one."""
    values: tuple[str, ...]
    """In the order given."""


def parse(lines: Sequence[str]) -> list[Override]:
    """Parse overrides.

    Raises:
        ConfigError: one that is not in Hydra's grammar.
    """
    parsed = []
    for line in lines:
        try:
            parsed.append(_parse(line))
        except HydraException as error:
            reason = re.sub(r"\s+", " ", str(error)).partition(" See https")[0]
            hint = "" if "=" in line or line.startswith("~") else "; write key=value"
            raise ConfigError(f"override {line!r} cannot be read: {reason}{hint}") from error
    return parsed


@lru_cache(maxsize=4096)  # the points of a sweep have most of their overrides in common
def _parse(line: str) -> Override:
    return OverridesParser.create().parse_override(line)


def split(lines: Sequence[str], options: Callable[[str], Sequence[str]], *, allow_sweeps: bool = False) -> Split:
    """Separate the choices of groups from the values.

    Args:
        lines: in Hydra's grammar.
        options: gives the options of a config group, and none for a key that is no group.
        allow_sweeps: keep overrides that stand for several values.

    Raises:
        ConfigError: an override that cannot be read, or that stands for several values.
    """
    groups: dict[str, str] = {}
    values: list[str] = []
    for line, override in zip(lines, parse(lines), strict=True):
        if override.is_sweep_override() and not allow_sweeps:
            key = override.key_or_group
            raise ConfigError(
                f"override {line!r} stands for several values; for a list write {key}=[...], to try "
                "each of them use -m or a sweep"
            )
        name = override.get_key_element().lstrip("+~")
        value = override.value()
        if (choices := options(override.key_or_group)) and not isinstance(value, dict):
            if not (isinstance(value, (str, list)) or override.is_delete() or override.is_sweep_override()):
                raise ConfigError(f"override {line!r}: {name} is a config group: choose of {', '.join(choices)}")
            groups.pop(name, None)
            groups[name] = line.removeprefix("++")
        elif override.is_hydra_override():
            groups[line] = line
        else:
            values.append(line if override.is_delete() else f"++{line.lstrip('+')}")
    return Split(tuple(groups.values()), tuple(values))


def quote(text: str) -> str:
    """Write a string so that Hydra's grammar reads it back whatever is in it."""
    # Hydra takes a backslash as itself unless a quote, or a run of backslashes before one, follows.
    escaped = re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), text)
    return f"'{escaped}'"
