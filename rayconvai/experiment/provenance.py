"""Where a run comes from: code, packages, hardware, seed and command, kept in provenance.json."""

from __future__ import annotations

import functools
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

from rayconvai.experiment.layout import RunLayout, write_atomically

_LARGEST_DIFF = 1 << 20


def record(layout: RunLayout, **facts: Any) -> None:
    """Write or add to a run's provenance.json; what others know of it, the data's fingerprint say, is added by name.

    Raises:
        StorageError: it cannot be written.
    """
    known: dict[str, Any] = {}
    if layout.provenance.exists():
        known = json.loads(layout.provenance.read_text(encoding="utf-8"))
    write_atomically(layout.provenance, json.dumps({**known, **facts}, indent=2, default=str) + "\n")


def collect() -> dict[str, Any]:
    """Return what can be known of this process."""
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join([sys.executable, *sys.orig_argv[1:]]),
        "directory": os.getcwd(),
        "seed": _int(os.environ.get("PL_GLOBAL_SEED")),
        "python": platform.python_version(),
        "hardware": _hardware(),
        "git": git_state(Path.cwd()),
        "rayconvai_git": git_state(Path(__file__).parent),
        "packages": _packages(),
    }


def git_state(directory: Path) -> dict[str, Any] | None:
    """Return the commit of the repository that holds a directory, and what differs from it; None outside of one."""
    commit = _git(directory, "rev-parse", "HEAD")
    if commit is None:
        return None
    diff = _git(directory, "diff", "HEAD", "--no-ext-diff") or ""
    untracked = _git(directory, "ls-files", "--others", "--exclude-standard") or ""
    state: dict[str, Any] = {
        "commit": commit.strip(),
        "branch": (_git(directory, "branch", "--show-current") or "").strip(),
    }
    state["diff"] = diff if len(diff) <= _LARGEST_DIFF else f"{diff[:_LARGEST_DIFF]}\n... {len(diff)} characters in all"
    state["untracked"] = untracked.splitlines()[:1000]
    return state


def _git(directory: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(directory), *arguments], capture_output=True, timeout=20, check=True, errors="replace"
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return str(done.stdout)


def _hardware() -> dict[str, Any]:
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return {
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpus": [torch.cuda.get_device_name(i) for i in range(gpus)],
        "cuda": torch.version.cuda,
    }


@functools.cache
def _packages() -> dict[str, str]:
    found = {str(d.metadata["Name"]): d.version for d in importlib.metadata.distributions()}
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def _int(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None
