"""Where things are kept: the cache on this machine, and buckets: ``s3://bucket/path``, ``gs://...``, or any other
address that fsspec knows."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from rayconvai._optional import require
from rayconvai.errors import ConfigError, RayconvaiError, StorageError

T = TypeVar("T")
_MOST_SECONDS = 15.0
"""How long it waits at most before it tries again to reach a bucket."""
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}


def cache_root(cache_dir: str | Path | None = None) -> Path:
    """Return ``cache_dir``, else $RAYCONVAI_CACHE, else ~/.cache/rayconvai."""
    return Path(cache_dir or os.environ.get("RAYCONVAI_CACHE") or "~/.cache/rayconvai").expanduser().absolute()


def in_ray_job() -> bool:
    """Tell whether this process was started by ``ray job submit``, whose directory is a temporary one."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def lasting_place(place: str) -> str:
    """Return where runs are kept: in a job of Ray's, a relative path begins at $RAYCONVAI_STORAGE.

    Raises:
        StorageError: it is relative, this is a job, and the cluster has no $RAYCONVAI_STORAGE.
    """
    if is_address(place):
        return place.rstrip("/")
    path, root = Path(place).expanduser(), os.environ.get("RAYCONVAI_STORAGE", "")
    if path.is_absolute() or not in_ray_job():
        return str(path)
    if not is_address(root) and not os.path.isabs(root):
        raise StorageError(
            f"{place!r} is relative, and a Ray job's working directory is temporary; give an absolute path that all "
            "nodes see or a bucket, or set RAYCONVAI_STORAGE to one on the cluster"
        )
    return f"{root.rstrip('/')}/{path}"


def working_copy(place: str | Path) -> Path:
    """Return the directory to work in: a path itself, for an address its place in the cache."""
    if not is_address(place):
        return Path(place)
    scheme, _, path = str(place).partition("://")
    return cache_root() / "buckets" / scheme / path.strip("/")


def pretrained(source: str) -> Path:
    """Return the directory that a pretrained model lies in.

    Args:
        source: the directory; ``package:NAME/DIRECTORY``, one inside an installed Python package, of which nothing is
            run; or the name of a model on the Hugging Face hub, which is fetched into its cache.

    Raises:
        ConfigError: there is no such directory, package or model, or the hub cannot be reached.
    """
    if not source.startswith("package:"):
        here = Path(source).expanduser()
        return here.absolute() if here.is_dir() else _from_hub(source)
    package, _, inside = source.removeprefix("package:").partition("/")
    found = importlib.util.find_spec(package) if package.isidentifier() else None
    if found is None or not found.submodule_search_locations:
        raise ConfigError(f"{source}: the package {package!r} is not installed; install it, or give a directory")
    place = Path(found.submodule_search_locations[0], inside)
    if not place.is_dir():
        raise ConfigError(f"{source}: the package has no directory {inside!r}; it lies in {place.parent}")
    return place


def _from_hub(name: str) -> Path:
    hub = require("huggingface_hub", extra="nlp")
    try:
        return Path(hub.snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model"]))
    except Exception as error:
        raise ConfigError(
            f"{name}: there is no such directory, and no such model on the Hugging Face hub: {words(error)[:160]}"
        ) from error


def is_address(place: str | Path) -> bool:
    """Tell an address from a path."""
    return "://" in str(place)


def open_address(address: str) -> tuple[Any, str]:
    """Return the file system of an address, and what it calls the place.

    Raises:
        StorageError: no file system has such addresses.
        ConfigError: the package that knows them is not installed.
    """
    scheme = address.partition("://")[0]
    if scheme in _PACKAGES:
        require(_PACKAGES[scheme], extra="cloud")
    fsspec: Any = require("fsspec", extra="cloud")
    try:
        fs, root = fsspec.core.url_to_fs(address, use_listings_cache=False, skip_instance_cache=True)
    except ValueError as error:
        raise StorageError(f"{address}: {error}") from error
    return fs, root.rstrip("/")


def exists(place: str) -> bool:
    """Say whether there is a file or directory, here or in a bucket.

    Raises:
        StorageError: the bucket cannot be read.
    """
    if not is_address(place):
        return Path(place).exists()
    fs, path = open_address(place)
    try:
        return bool(fs.exists(path))
    except Exception as error:
        raise StorageError(f"{place} cannot be read: {words(error)}") from error


def read(place: str) -> bytes:
    """Return what a file holds, here or in a bucket; nothing if there is none.

    Raises:
        StorageError: it cannot be read.
    """
    try:
        if not is_address(place):
            return Path(place).read_bytes()
        fs, path = open_address(place)
        data: bytes = fs.cat_file(path)
    except FileNotFoundError:
        return b""
    except Exception as error:
        raise StorageError(f"{place} cannot be read: {words(error)}") from error
    return data


def patiently(action: Callable[[], T], seconds: float) -> T:
    """Do something with a bucket and return what comes of it; while the bucket is away, try again, for so long.

    Raises:
        Exception: what it raised last; at once what does not pass: no such bucket or object, no access, our own errors.
    """
    until, wait = time.monotonic() + seconds, 0.5
    while True:
        try:
            return action()
        except (FileNotFoundError, FileExistsError, PermissionError, RayconvaiError):
            raise
        except Exception:
            if time.monotonic() > until:
                raise
        time.sleep(wait)
        wait = min(2 * wait, _MOST_SECONDS)


def words(error: Exception) -> str:
    """Return an error's text in one line."""
    return " ".join(str(error).split()) or type(error).__name__
