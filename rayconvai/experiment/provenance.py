"""Where a run comes from, and all that its numbers depend on besides its config, kept in provenance.json."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import shlex
import socket
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer

import rayconvai
from rayconvai.core.artefact import sha256
from rayconvai.experiment.layout import RunLayout, write_atomically

_LARGEST_DIFF = 1 << 20
_SOURCES = {".py", ".yaml", ".yml", ".toml"}
_CHANGE_NUMBERS = (
    *("OMP_", "KMP_", "MKL_", "OPENBLAS_", "ATEN_", "TORCH", "PYTORCH_", "CUBLAS_", "CUDNN_", "NCCL_"),
    *("CUDA_VISIBLE_DEVICES", "CUDA_LAUNCH_BLOCKING", "NVIDIA_TF32_OVERRIDE", "PYTHONHASHSEED"),
)
"""What names of environment variables begin with that may change numbers. No others are kept: some are secrets."""


def record(layout: RunLayout, **facts: Any) -> None:
    """Write or add to a run's provenance.json; what others know of it, the data's fingerprint say, is added by name.

    Raises:
        StorageError: it cannot be written.
    """
    known: dict[str, Any] = {}
    if layout.provenance.exists():
        known = json.loads(layout.provenance.read_text(encoding="utf-8"))
    write_atomically(layout.provenance, json.dumps({**known, **facts}, indent=2, default=str) + "\n")


def collect(trainer: Trainer) -> dict[str, Any]:
    """Return what can be known of this process, and of how it is about to train."""
    state = functools.cache(git_state)  # the two are often one
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command(),
        "directory": os.getcwd(),
        "seed": _int(os.environ.get("PL_GLOBAL_SEED")),
        "python": platform.python_version(),
        "hardware": _hardware(),
        "training": _training(trainer),
        "numerics": _numerics(),
        "environment": {name: value for name, value in sorted(os.environ.items()) if _changes_numbers(name)},
        "git": state(git_root(Path.cwd())),
        "rayconvai_git": state(git_root(Path(rayconvai.__file__).parent)),
        "rayconvai_sha256": sources_digest(),
        "packages": _packages(),
    }


def command() -> str:
    """Return the command line of this process."""
    return shlex.join([sys.executable, *sys.orig_argv[1:]])


def git_root(directory: Path) -> Path | None:
    """Return the top of the repository that holds a directory; None outside of one."""
    found = _git(directory, "rev-parse", "--show-toplevel")
    return Path(found.rstrip("\n")) if found else None


def git_state(root: Path | None) -> dict[str, Any] | None:
    """Return the commit of a repository, and what differs from it; None without one.

    Of untracked files that code and configs may be in, the checksums are kept, of others the names only.
    """
    found = _git(root, "rev-parse", "HEAD", "--abbrev-ref", "HEAD") if root else None
    if root is None or found is None:
        return None
    commit, branch = found.splitlines()
    diff = _git(root, "diff", "HEAD", "--no-ext-diff") or ""
    untracked = (_git(root, "ls-files", "-z", "--others", "--exclude-standard") or "").split("\0")[:-1]
    return {
        "root": str(root),
        "commit": commit,
        "branch": branch,
        "diff": diff if len(diff) <= _LARGEST_DIFF else f"{diff[:_LARGEST_DIFF]}\n... {len(diff)} characters in all",
        "untracked_files": {name: _source_digest(root / name) for name in untracked[:1000]},
    }


def _git(directory: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(directory), *arguments], capture_output=True, timeout=20, check=True, errors="replace"
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return str(done.stdout)


def _source_digest(file: Path) -> str | None:
    with contextlib.suppress(OSError):
        if file.suffix in _SOURCES and file.stat().st_size <= _LARGEST_DIFF:
            return sha256(file)
    return None


@functools.cache
def sources_digest() -> str:
    """Return one checksum of the package's sources: what tells versions apart where there is no git."""
    root = Path(rayconvai.__file__).parent
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def _changes_numbers(variable: str) -> bool:
    return variable.startswith(_CHANGE_NUMBERS) and not variable.endswith("_DIR")


def _training(trainer: Trainer) -> dict[str, Any]:
    return {
        "world_size": trainer.world_size,
        "nodes": trainer.num_nodes,
        "strategy": type(trainer.strategy).__name__,
        "accelerator": type(trainer.accelerator).__name__.removesuffix("Accelerator").lower(),
        "precision": trainer.precision,
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
    }


def _numerics() -> dict[str, Any]:
    return {
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
    }


def _hardware() -> dict[str, Any]:
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return {
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpus": [torch.cuda.get_device_name(i) for i in range(gpus)],
        "cuda": torch.version.cuda,
    }


def _processor() -> str:
    with contextlib.suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@functools.cache
def _packages() -> dict[str, str]:
    found = {str(d.metadata["Name"]): d.version for d in importlib.metadata.distributions()}
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def _int(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None
