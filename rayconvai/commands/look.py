"""All that the doctor looks at on one machine."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping, Sequence
from typing import Any

from rayconvai.commands import check_machine as machine
from rayconvai.commands import check_packages as packages
from rayconvai.commands.finding import examine
from rayconvai.commands.nodes import ray_directory
from rayconvai.experiment.provenance import sources_digest

SECONDS = 20.0
"""How long a check may take; importing torch, longer."""


def look(place: str | None, asked: Sequence[str], python: str, resources: Mapping[str, float]) -> dict[str, Any]:
    """Check this machine.

    Args:
        place: where runs are kept; None: not known.
        asked: requirements of rayconvai.
        python: the range of Python's versions.
        resources: what Ray hands out here; empty without Ray.

    Returns:
        findings: as mappings; versions: of packages; gpus: how many.
    """
    of_ray = {name: resources.get(name, 0) for name in ("CPU", "GPU")} if resources else {}
    devices = examine("devices", machine.DEVICE_SECONDS + 5, machine.devices, of_ray.get("GPU"))
    findings = [
        *examine("packages", SECONDS, packages.check, asked, python),
        *devices,
        *examine("cpus", SECONDS, machine.processors, of_ray.get("CPU")),
        *examine("memory", SECONDS, machine.memory),
        *examine("shared memory", SECONDS, machine.shared_memory, resources.get("object_store_memory", 0)),
        *examine("disk", SECONDS, machine.disks, place, ray_directory()),
        *examine("open files", SECONDS, machine.open_files),
        *examine("espeak", SECONDS, machine.speech),
        *examine("wandb", SECONDS, machine.wandb),
        *examine("tensorboard", SECONDS, machine.tensorboard),
        *examine("git", SECONDS, machine.git),
    ]
    known = {"python": platform.python_version(), "rayconvai": sources_digest()[:12], **packages.versions(asked)}
    gpus = sum(finding.text.startswith("GPU ") for finding in devices)
    return {"findings": [dataclasses.asdict(finding) for finding in findings], "versions": known, "gpus": gpus}
