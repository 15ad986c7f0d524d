"""The options of each optimizer and schedule as a dataclass, under the names that NeMo's users know.

``SGDParams``, ``AdamWParams``, ``CosineAnnealingParams`` and so on are made from the signatures, so they have the keys
and the defaults of what they configure.
"""

from __future__ import annotations

from typing import Any

from rayconvai.core.optim import AVAILABLE_OPTIMIZERS
from rayconvai.core.options import params_dataclass
from rayconvai.core.schedules import AVAILABLE_SCHEDULERS
from rayconvai.errors import nearest


def __getattr__(name: str) -> Any:
    classes = [*AVAILABLE_OPTIMIZERS.values(), *AVAILABLE_SCHEDULERS.values()]
    by_name: dict[str, type[Any]] = {f"{cls.__name__}Params": cls for cls in classes}
    if name not in by_name:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{nearest(name, by_name)}")
    return params_dataclass(by_name[name])
