"""Where things are kept: the cache on this machine, and buckets: ``s3://bucket/path``, ``gs://...``, or any other
address that fsspec knows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from rayconvai._optional import require
from rayconvai.errors import StorageError

_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}


def cache_root(cache_dir: str | Path | None = None) -> Path:
    """Return ``cache_dir``, else $RAYCONVAI_CACHE, else ~/.cache/rayconvai."""
    return Path(cache_dir or os.environ.get("RAYCONVAI_CACHE") or "~/.cache/rayconvai").expanduser().absolute()


def working_copy(place: str | Path) -> Path:
    """Return the directory to work in: a path itself, for an address its place in the cache."""
    if not is_address(place):
        return Path(place)
    scheme, _, path = str(place).partition("://")
    return cache_root() / "buckets" / scheme / path.strip("/")


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


def words(error: Exception) -> str:
    """Return an error's text in one line."""
    return " ".join(str(error).split()) or type(error).__name__
