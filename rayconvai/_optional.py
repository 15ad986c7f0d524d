"""The one place that imports what an extra brings."""

from __future__ import annotations

import importlib
from types import ModuleType

from rayconvai.errors import ConfigError


def require(module: str, *, extra: str) -> ModuleType:
    """Import ``module``, or say which extra brings it.

    Raises:
        ConfigError: the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"{module} is not installed; run: pip install 'rayconvai[{extra}]'") from error
