"""Whether the weights of a checkpoint fit a model, said in one line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rayconvai.errors import CheckpointError, nearest

_NAMED = 2
"""How many weights of a kind a message names."""


def check_weights(module: torch.nn.Module, weights: Mapping[str, Any], source: str | Path) -> None:
    """Check that a model has a place for every weight, and a weight for every place.

    Raises:
        CheckpointError: it has not; with some of the names and shapes, and the nearest names.
    """
    own = module.state_dict()
    missing, extra = [key for key in own if key not in weights], [key for key in weights if key not in own]
    shapes = [
        f"{key} is {list(weights[key].shape)} in it and {list(value.shape)} here"
        for key, value in own.items()
        if isinstance(weights.get(key), torch.Tensor) and weights[key].shape != value.shape
    ]
    parts = [
        _some(shapes),
        _some([key + nearest(key, extra).replace(";", ",") for key in missing], "not in it: "),
        _some([key + nearest(key, missing).replace(";", ",") for key in extra], "not here: "),
    ]
    if any(parts):
        raise CheckpointError(
            f"checkpoint {source} is of another model: {'; '.join(filter(None, parts))}. "
            "Give the model that it was made with, or start anew in another directory"
        )


def _some(names: list[str], what: str = "") -> str:
    if not names:
        return ""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return what + ", ".join(names[:_NAMED]) + more
