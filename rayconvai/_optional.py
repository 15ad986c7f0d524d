"""The one place that copes with a module that cannot be imported."""

from __future__ import annotations

import importlib
from types import ModuleType

from rayconvai.errors import ConfigError


def require(module: str, *, extra: str = "") -> ModuleType:
    """Import ``module``, or say how it is installed: by itself, or with one of our extras.

    Raises:
        ConfigError: the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        package = f"'rayconvai[{extra}]'" if extra else name
        raise ConfigError(f"{name} is not installed; run: pip install {package}") from error


def import_named(module: str, *, where: str) -> ModuleType:
    """Import a module that a config names.

    Raises:
        ConfigError: it cannot be imported; ``where`` says which key named it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"{where}: cannot import {module} ({error})") from error
