"""The doctor on one machine: processors, memory, disks, devices, and the tools and keys that runs make use of."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import rayconvai
from rayconvai.commands.check_packages import installed
from rayconvai.commands.finding import Finding, error, ok, warning
from rayconvai.data.espeak import Synthesizer
from rayconvai.experiment.loggers import has_wandb_key
from rayconvai.experiment.provenance import git_root
from rayconvai.places import cache_root, is_address

GIB = 2**30
CGROUP = Path("/sys/fs/cgroup")
"""Where the limits of a container are."""
DEVICE_SECONDS = 60.0
"""torch is imported in it, maybe from a slow disk."""


def gibibytes(size: float) -> str:
    """Return a number of bytes as people say it."""
    return f"{size / GIB:.1f} GiB"


def processors(ray_cpus: float | None, cgroup: Path = CGROUP) -> Iterator[Finding]:
    """Compare the processors of the machine with what this process may use, and with what Ray hands out."""
    there, may = os.cpu_count() or 1, len(os.sched_getaffinity(0))
    limit = min(may, _cpu_limit(cgroup))
    text = f"{limit:g} CPUs" + (f" of the machine's {there} may be used here" if limit < there else "")
    if ray_cpus is not None and ray_cpus > limit + 0.5:
        yield warning(
            "cpus", f"{text}, but Ray hands out {ray_cpus:g}", f"start Ray here with --num-cpus={int(max(limit, 1))}"
        )
    else:
        yield ok("cpus", text)


def memory(least: int = 4 * GIB, cgroup: Path = CGROUP) -> Iterator[Finding]:
    """See how much memory is left: a trial's process takes about 1 GiB before its model and data."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    known = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
    limit, used = _memory_limit(cgroup)
    total, free = min(known["MemTotal"], limit), min(known["MemAvailable"], limit - used)
    text = f"{gibibytes(free)} of {gibibytes(total)} free"
    if free < least:
        yield warning("memory", text, "end what else runs here, or let fewer trials run at once: resources.concurrent")
    else:
        yield ok("memory", text)


def shared_memory(object_store: float, path: str = "/dev/shm", least: int = 128 * 2**20) -> Iterator[Finding]:
    """See whether Ray's objects, and the batches of loaders' workers, find room.

    Args:
        object_store: bytes that Ray's store may take.
        path: where it lies.
        least: fewer free bytes than these are too few.
    """
    if not Path(path).is_dir():
        yield error("shared memory", f"there is no {path}", f"mount a tmpfs at {path}")
        return
    size = os.statvfs(path)
    free, total = size.f_bavail * size.f_frsize, size.f_blocks * size.f_frsize
    text, fix = f"{path}: {gibibytes(free)} of {gibibytes(total)} free", "docker run --shm-size=8g (or --ipc=host)"
    if free < least:
        yield error("shared memory", f"{text}; loaders' workers would die in it", fix)
    elif total < object_store:
        yield warning("shared memory", f"{text}, less than Ray's object store ({gibibytes(object_store)})", fix)
    else:
        yield ok("shared memory", text)


def disks(place: str | None, ray_directory: str) -> Iterator[Finding]:
    """See whether there is room where runs, the cache and Ray's own files are.

    Args:
        place: where runs are kept; of a bucket, or None, nothing is asked.
        ray_directory: where Ray keeps its sessions.
    """
    asked = {"cache": str(cache_root()), "ray": ray_directory} | (
        {} if place is None or is_address(place) else {"storage": place}
    )
    fixes = {"cache": "set RAYCONVAI_CACHE to a larger disk", "ray": "start Ray with --temp-dir on a larger disk"}
    for name, path in asked.items():
        size = shutil.disk_usage(_existing(Path(path)))
        text = f"{path}: {gibibytes(size.free)} of {gibibytes(size.total)} free"
        fix = f"free space, or {fixes.get(name, 'choose another storage')}"
        if size.free < GIB:  # checkpoints cannot be written before long
            yield error(f"disk: {name}", text, fix)
        elif size.free < 10 * GIB or (name == "ray" and size.free < 0.05 * size.total):  # Ray itself stops at 95 %
            yield warning(f"disk: {name}", text, fix)
        else:
            yield ok(f"disk: {name}", text)


def open_files(least: int = 4096) -> Iterator[Finding]:
    """See how many files a process may open; Ray raises its own limit as far as it may."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if most != resource.RLIM_INFINITY and most < least:
        yield warning("open files", f"{most} at most", "raise it: ulimit -Hn 65536, or LimitNOFILE of the service")
    else:
        yield ok("open files", "no limit" if most == resource.RLIM_INFINITY else f"{most} at most")


def devices(ray_gpus: float | None) -> Iterator[Finding]:
    """Look at the GPUs with torch, and compare with the driver and with what Ray hands out."""
    driver = _driver()
    seen = look_at_devices()
    torch_is = f"torch {seen['torch']}, CUDA {seen['cuda']}, NCCL {seen.get('nccl')}, driver {driver}"
    if not seen["devices"]:
        if driver and seen["cuda"] is None:
            yield error(
                "devices", f"driver {driver}, but torch {seen['torch']} is built for CPUs",
                "install a torch that is built for CUDA: pytorch.org says which",
            )  # fmt: skip
        elif driver:
            yield error(
                "devices", f"torch {seen['torch']} for CUDA {seen['cuda']} sees no GPU with driver {driver}: "
                f"{seen['problem']}", "take a newer driver, or a torch for an older CUDA; look at nvidia-smi",
            )  # fmt: skip
        else:
            yield ok("devices", "no GPU: runs train on CPUs (trainer=cpu)")
    for number, device in enumerate(seen["devices"]):
        capability = ".".join(map(str, device["capability"]))
        yield from _device(f"GPU {number}: {device['name']}, compute capability {capability}", device, seen)
    if seen["devices"]:
        yield ok("torch", torch_is)
    if ray_gpus is not None and ray_gpus != len(seen["devices"]):
        yield warning(
            "devices", f"Ray hands out {ray_gpus:g} GPUs, torch sees {len(seen['devices'])}",
            f"start Ray here with --num-gpus={len(seen['devices'])}",
        )  # fmt: skip


def _device(text: str, device: dict[str, Any], seen: dict[str, Any]) -> Iterator[Finding]:
    major, minor = device["capability"]
    # Code for 8.0 runs on 8.6 too; PTX (compute_90) on all that came later.
    natives = [arch.partition("_")[2].rstrip("af") for arch in seen["built_for"] if arch.startswith("sm_")]
    later = [arch.partition("_")[2] for arch in seen["built_for"] if arch.startswith("compute_")]
    fits = any(int(arch[:-1]) == major and int(arch[-1]) <= minor for arch in natives)
    text += f", {gibibytes(device['free'])} of {gibibytes(device['total'])} free"
    if not fits and not any(int(arch) <= 10 * major + minor for arch in later):
        built = " ".join(seen["built_for"])
        yield error("devices", f"{text}: this torch is built for {built}", "pip install a torch that is built for it")
    elif not device["bf16"]:
        yield warning("devices", f"{text}, no bf16", "train with trainer.precision=16-mixed, not bf16-mixed")
    else:
        yield ok("devices", f"{text}, bf16")


def look_at_devices() -> dict[str, Any]:
    """Return what ``devices`` prints, with all GPUs in sight, which Ray hides from who has asked for none.

    Raises:
        RuntimeError: torch cannot be imported, or the driver does not answer.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", "rayconvai.commands.devices"],
            env=program_environment(), capture_output=True, text=True, timeout=DEVICE_SECONDS, check=True,
        )  # fmt: skip
    except subprocess.TimeoutExpired as problem:
        raise RuntimeError(f"torch and the driver did not answer within {DEVICE_SECONDS:g} s") from problem
    except subprocess.CalledProcessError as problem:
        raise RuntimeError((problem.stderr.strip().splitlines() or [f"status {problem.returncode}"])[-1]) from problem
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def program_environment() -> dict[str, str]:
    """Return the environment for a program of ours: it finds this package, and sees GPUs although Ray hides them."""
    environment = dict(os.environ)
    if not environment.get("CUDA_VISIBLE_DEVICES"):
        environment.pop("CUDA_VISIBLE_DEVICES", None)
    places = [str(Path(rayconvai.__file__).parents[1]), *filter(None, [environment.get("PYTHONPATH")])]
    return {**environment, "PYTHONPATH": os.pathsep.join(places)}


def wandb() -> Iterator[Finding]:
    """See whether W&B has a key; which one is nobody's business."""
    if has_wandb_key():
        yield ok("wandb", "an API key is there")
    else:
        yield warning(
            "wandb", "no API key: its runs stay offline, in the runs' directories",
            "wandb login, or set WANDB_API_KEY on every node; without W&B there is nothing to do",
        )  # fmt: skip


def tensorboard() -> Iterator[Finding]:
    """See what writes TensorBoard's logs, and what shows them."""
    shows = installed("tensorboard")
    text = f"tensorboardX {installed('tensorboardX')} writes the logs"
    yield ok(
        "tensorboard", text + (f", tensorboard {shows} shows them" if shows else "; to look: pip install tensorboard")
    )


def speech() -> Iterator[Finding]:
    """Let the wheel that speaks the embedded corpus say a word."""
    if not installed("espeakng-loader"):
        yield warning(
            "espeak", "not installed: there is no embedded corpus (data=synthetic, data=digits)",
            "pip install 'rayconvai[demo]'",
        )  # fmt: skip
        return
    with Synthesizer() as synthesizer:
        samples = synthesizer.speak("one", "en-us")
    yield ok("espeak", f"espeakng-loader {installed('espeakng-loader')} speaks ({len(samples)} samples)")


def git() -> Iterator[Finding]:
    """See whether runs can record the commit that they come from."""
    root = git_root(Path.cwd())
    if root is not None:
        yield ok("git", f"the commit of {root} goes into each run's provenance")
    elif shutil.which("git") is None:
        yield warning("git", "not installed: runs cannot record their commit", "install git")
    else:
        yield ok("git", "no repository here: runs record the code's checksum, not a commit")


def _existing(path: Path) -> Path:
    return next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())


def _driver() -> str:
    """Return the version of NVIDIA's driver; empty where there is none."""
    file = Path("/proc/driver/nvidia/version")
    if not file.exists():
        return ""
    words = file.read_text(encoding="utf-8").split()
    return next((word for word in words if word[:1].isdigit() and "." in word), "of unknown version")


def _cpu_limit(root: Path) -> float:
    """Return how many CPUs the container may use; without end where nobody says."""
    if (root / "cpu.max").exists():
        quota, period = (root / "cpu.max").read_text(encoding="ascii").split()
    elif (root / "cpu/cpu.cfs_quota_us").exists():
        quota, period = ((root / f"cpu/cpu.cfs_{kind}_us").read_text(encoding="ascii") for kind in ("quota", "period"))
    else:
        return float("inf")
    return int(quota) / int(period) if quota != "max" and int(quota) > 0 else float("inf")


def _memory_limit(root: Path) -> tuple[float, float]:
    """Return how many bytes the container may use, and how many it does, without what caches would give back."""
    for limit, used, stat in (
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ):
        if (root / limit).exists():
            text = (root / limit).read_text(encoding="ascii").strip()
            known = dict(line.split() for line in (root / stat).read_text(encoding="ascii").splitlines())
            cached = int(known.get("total_inactive_file", known.get("inactive_file", 0)))
            in_use = int((root / used).read_text(encoding="ascii")) - cached
            return (float("inf") if text == "max" else int(text)), in_use
    return float("inf"), 0
