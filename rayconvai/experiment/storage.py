"""Checkpoints: written whole or not at all, and verified when read. Most are files; sharded ones are directories."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import re
import shutil
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, cast

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from rayconvai.core.artefact import sha256
from rayconvai.errors import CheckpointError, StorageError

log = logging.getLogger(__name__)

SUFFIX = ".ckpt"
REST = "meta.pt"
"""In the directory of a sharded checkpoint: what is not sharded. (Lightning's name.)"""
METADATA = ".metadata"
"""There, too: where each part of each tensor lies. (Torch's name.)"""


@dataclass(frozen=True)
class Stamp:
    """What is known of a checkpoint file without reading it."""

    sha256: str
    bytes: int
    step: int
    """Optimizer steps taken."""
    epoch: int
    time: float
    """When it was written: seconds since 1970."""

    @classmethod
    def of(cls, checkpoint: Mapping[str, Any], digest: str, size: int) -> Stamp:
        """Return the stamp of a checkpoint that is being written."""
        step, epoch = int(checkpoint.get("global_step", 0)), int(checkpoint.get("epoch", 0))
        return cls(sha256=digest, bytes=size, step=step, epoch=epoch, time=time.time())


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint aside, syncs it and renames it; a stamp with its checksum lies beside it."""

    def save_checkpoint(self, checkpoint: Mapping[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write ``checkpoint`` to ``path``.

        Raises:
            StorageError: it cannot be written; nothing is left of it and older checkpoints are untouched.
        """
        path = Path(path)
        aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            digest, size = write_file(checkpoint, aside)
            # The stamp goes first: a kill between the two renames then leaves the file before, whose stamp stays
            # second in the list, or no file at all.
            write_stamps(path, [Stamp.of(checkpoint, digest, size), *read_stamps(path)[:1]])
            publish(aside, path)
        except OSError as error:
            if not path.exists():
                _stamp_path(path).unlink(missing_ok=True)
            raise StorageError(
                f"checkpoint {path.name} cannot be written in {path.parent}: {error.strerror or error}; "
                "free space there or set exp_manager.exp_dir; earlier checkpoints are untouched"
            ) from error
        finally:
            aside.unlink(missing_ok=True)

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Callable[..., Any] | None = lambda storage, _: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a checkpoint after verifying it.

        Raises:
            CheckpointError: it does not exist, is damaged, or is no checkpoint.
        """
        path = Path(path)
        if not path.exists():
            raise CheckpointError(f"checkpoint not found: {path}")
        if (problem := damage(path)) is not None:
            raise CheckpointError(f"checkpoint {path} is damaged: {problem}; move it away to use the one before")
        ours = bool(read_stamps(path))
        if weights_only is None:
            # Ours hold what callbacks and models put there, and never leave the run's directory.
            weights_only = not ours
        try:
            if path.is_dir():
                return _read_shards(path)
            checkpoint: Any = torch.load(path, map_location=map_location, weights_only=weights_only)
        except Exception as error:  # whatever a foreign file may lead the unpickler to
            raise CheckpointError(f"{path} cannot be read as a checkpoint: {_reason(error)}") from error
        needed = ("state_dict",) if ours else ("state_dict", "pytorch-lightning_version")
        missing = [key for key in needed if not isinstance(checkpoint, dict) or key not in checkpoint]
        if missing:
            raise CheckpointError(f"{path} is no checkpoint of a run: it has no {missing[0]}")
        return cast("dict[str, Any]", checkpoint)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint and its stamp."""
        super().remove_checkpoint(path)
        _stamp_path(Path(path)).unlink(missing_ok=True)


def damage(path: Path) -> str | None:
    """Say what is wrong with a checkpoint file; None if nothing, or if it has no stamp to hold it against."""
    stamps = read_stamps(path)
    if path.is_dir() and not {METADATA, REST} <= {file.name for file in path.iterdir()}:
        return "parts of it are missing"
    if not stamps:
        return None
    size = sum(file.stat().st_size for file in _files(path))
    if all(size != stamp.bytes for stamp in stamps):
        return f"it has {size} bytes, {stamps[0].bytes} were written"
    digest = combined({file.name: sha256(file) for file in _files(path)}) if path.is_dir() else sha256(path)
    if all(digest != stamp.sha256 for stamp in stamps):
        return "its checksum is not that of what was written"
    return None


def is_sound(path: Path) -> bool:
    """Say whether a checkpoint is there and as it was written, with a warning if it is damaged."""
    if not path.exists():
        return False
    problem = damage(path)
    if problem is not None:
        log.warning("checkpoint %s is damaged (%s); it no longer counts among the best", path, problem)
    return problem is None


def find_last(directory: str | Path, *, set_aside: bool = True) -> Path | None:
    """Return the newest good checkpoint in a directory, None if there is none.

    A damaged one is passed over with a warning, and renamed to ``*.damaged`` if ``set_aside``.

    Raises:
        CheckpointError: two files are both called the last one and nothing tells which is newer.
    """
    found = sorted(_checkpoint_files(Path(directory)), key=_age, reverse=True)
    for index, path in enumerate(found):
        try:
            problem = damage(path)
        except OSError as error:
            problem = error.strerror or str(error)
        if problem is None:
            _check_unambiguous(path, found[index + 1 :])
            return path
        log.warning("checkpoint %s is damaged (%s); set aside, the one before it is used", path, problem)
        if set_aside:
            publish(path, path.with_name(path.name + ".damaged"))
            _stamp_path(path).unlink(missing_ok=True)
    return None


def steps_taken(path: Path) -> int:
    """Return the optimizer steps that a checkpoint's stamp, or else its name, speaks of; 0 if neither does."""
    stamps = read_stamps(path)
    named = re.search(r"step=(\d+)", path.name)
    return stamps[0].step if stamps else int(named[1]) if named else 0


def read_stamps(path: Path) -> list[Stamp]:
    """Return the stamps of a checkpoint file, newest first; none for a file that others wrote."""
    try:
        return [Stamp(**entry) for entry in json.loads(_stamp_path(path).read_text())]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError):
        log.warning("the stamp of checkpoint %s cannot be read; the checkpoint is taken unverified", path)
        return []


def remove_half_written(directory: Path) -> None:
    """Remove what a killed writer left in a directory of checkpoints."""
    for aside in directory.glob(f".*{SUFFIX}*.tmp"):
        remove(aside)


def publish(aside: Path, path: Path) -> None:
    """Give what is written its name; what had it before, a file or a directory, goes."""
    before = path.with_name(f".{path.name}.before.tmp")
    if aside.is_dir() or path.is_dir():  # which no rename replaces
        remove(before)
        if path.exists():
            os.replace(path, before)
    os.replace(aside, path)
    sync_directory(path.parent)
    remove(before)


def combined(digests: Mapping[str, str]) -> str:
    """Return the checksum of a directory from those of its files."""
    return hashlib.sha256("".join(f"{name} {digests[name]}\n" for name in sorted(digests)).encode()).hexdigest()


def remove(path: Path) -> None:
    """Remove a file or a directory, or nothing."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _files(path: Path) -> list[Path]:
    return list(path.iterdir()) if path.is_dir() else [path]


def places_of_weights(path: Path, device: str = "meta", part: str = "state_dict") -> dict[str, torch.Tensor]:
    """Return tensors of the names, shapes and types of a sharded checkpoint's weights."""
    return {
        key.removeprefix(f"{part}."): torch.empty(entry.size, dtype=entry.properties.dtype, device=device)
        for key, entry in FileSystemReader(path).read_metadata().state_dict_metadata.items()
        if key.startswith(f"{part}.") and isinstance(entry, TensorStorageMetadata)
    }


def _read_shards(path: Path) -> dict[str, Any]:
    """Read the weights of a sharded checkpoint whole, and all else but the states of optimizers."""
    weights = places_of_weights(path, "cpu")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # each process reads by itself
        load({"state_dict": weights}, storage_reader=FileSystemReader(path), no_dist=True)
    rest: dict[str, Any] = torch.load(path / REST, map_location="cpu", weights_only=False)
    return {**rest, "state_dict": weights}


def _checkpoint_files(directory: Path) -> list[Path]:
    return [p for p in directory.rglob("*" + SUFFIX) if not p.name.startswith(".")]


def _age(path: Path) -> tuple[bool, float, str]:
    stamps = read_stamps(path)
    # Of a file that others wrote, the time may be that of a copy: one called the last is newer than any other of them.
    known = bool(stamps) or path.stem.endswith(("last", "end"))
    return (known, stamps[0].time if stamps else path.stat().st_mtime, path.name)


def _check_unambiguous(path: Path, older: list[Path]) -> None:
    rivals = [p for p in older if p.stem.endswith("last") and p.parent == path.parent and not read_stamps(p)]
    if rivals and path.stem.endswith("last") and not read_stamps(path):
        raise CheckpointError(
            f"{path.parent} has several last checkpoints ({path.name}, {rivals[0].name}) and nothing tells which is "
            "newer; move all but one away"
        )


class _HashingFile:
    """A file that only grows, and knows the hash of what it was given."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def write_file(checkpoint: Mapping[str, Any], path: Path) -> tuple[str, int]:
    """Write and sync a file; return its checksum and size.

    Raises:
        OSError: it cannot be written.
    """
    with path.open("wb") as file:
        hashing = _HashingFile(file)
        try:
            torch.save(checkpoint, cast(IO[bytes], hashing))
        except RuntimeError as error:
            # torch's zip writer hides a failed write behind an error of its own.
            raise hashing.error or error from error
        file.flush()
        os.fsync(file.fileno())
        return hashing.digest.hexdigest(), file.tell()


def _reason(error: Exception) -> str:
    if unsafe := re.search(r"Unsupported global: GLOBAL (\S+)", str(error)):
        return f"it holds {unsafe[1]}, and others' checkpoints may hold plain data alone"
    if isinstance(error, (pickle.UnpicklingError, KeyError, EOFError)):
        return "it holds something else"
    return " ".join(str(error).split())[:100] or type(error).__name__


def _stamp_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def write_stamps(path: Path, stamps: list[Stamp]) -> None:
    """Write the stamps of a checkpoint file, newest first."""
    target = _stamp_path(path)
    aside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with aside.open("w") as file:
            json.dump([asdict(stamp) for stamp in stamps], file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, target)
    finally:
        aside.unlink(missing_ok=True)


def sync_directory(directory: Path) -> None:
    """Let the names in a directory be on the disk."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
