"""What torch sees of this machine's GPUs; a program of its own, so that a driver that hangs or dies takes nobody along.

``python -m rayconvai.commands.devices`` prints one line of JSON.
"""

from __future__ import annotations

import json
from typing import Any

import torch


def look() -> dict[str, Any]:
    """Return torch's version, what it is built for, and each device; why there is none, where CUDA says so."""
    found: dict[str, Any] = {"torch": torch.__version__, "cuda": torch.version.cuda, "devices": [], "problem": ""}
    if torch.version.cuda is None:
        return found
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except Exception as error:  # noqa: BLE001 (of no one kind)
        return {**found, "problem": " ".join(str(error).split())}
    found["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))  # type: ignore[no-untyped-call]
    found["built_for"] = torch.cuda.get_arch_list()
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        free, total = torch.cuda.mem_get_info(number)
        found["devices"].append({
            "name": about.name, "free": free, "total": total, "capability": [about.major, about.minor],
            "bf16": about.major >= 8,
        })  # fmt: skip
    return found


if __name__ == "__main__":
    print(json.dumps(look()))
