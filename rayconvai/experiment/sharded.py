"""Sharded checkpoints: a directory into which each rank writes its part; any number of ranks can read it.

Like a checkpoint file it is written whole or not at all, and has a stamp with its checksum beside it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import save

from rayconvai.core.artefact import sha256
from rayconvai.errors import StorageError
from rayconvai.experiment.storage import REST, Stamp, combined, publish, read_stamps, write_file, write_stamps


def write_sharded(parts: dict[str, Any], rest: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint together with all other ranks.

    Args:
        parts: state dicts of sharded tensors: the model's under ``state_dict``.
        rest: what is the same on all ranks.
        path: the directory.

    Raises:
        StorageError: some rank could not write; nothing is left of it and older checkpoints are untouched.
    """
    aside = path.with_name(f".{path.name}.tmp")
    first = dist.get_rank() == 0

    def prepare() -> None:
        if first:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)

    def write() -> dict[str, tuple[str, int]]:
        save(parts, storage_writer=FileSystemWriter(aside))  # syncs its files
        whole = {}
        if first:
            whole = {REST: write_file(rest, aside / REST)}
        mine = [*aside.glob(f"__{dist.get_rank()}_*"), *((aside / ".metadata",) if first else ())]
        return {**whole, **{file.name: (sha256(file), file.stat().st_size) for file in mine}}

    try:
        _together(prepare, path)
        written = {name: entry for entries in _together(write, path) for name, entry in entries.items()}
        _together(partial(_finish, aside, path, rest, written) if first else dict, path)
    finally:
        if first:
            shutil.rmtree(aside, ignore_errors=True)


def _finish(aside: Path, path: Path, rest: Mapping[str, Any], written: Mapping[str, tuple[str, int]]) -> None:
    stamp = Stamp.of(
        rest, combined({name: digest for name, (digest, _) in written.items()}), sum(s for _, s in written.values())
    )
    write_stamps(path, [stamp, *read_stamps(path)[:1]])
    publish(aside, path)


def _together(action: Callable[[], Any], path: Path) -> list[Any]:
    """Do something on every rank and return what each returned; all raise if one failed, so that none waits for it."""
    result: Any = None
    problem = ""
    try:
        result = action()
    except (OSError, RuntimeError, CheckpointException) as error:
        problem = (isinstance(error, OSError) and error.strerror) or str(error).strip().splitlines()[-1]
    answers: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(answers, (result, problem))
    for rank, (_, failed) in enumerate(answers):
        if failed:
            raise StorageError(
                f"checkpoint {path.name} cannot be written in {path.parent} by rank {rank}: {failed}; free space there "
                "or set exp_manager.exp_dir; earlier checkpoints are untouched"
            )
    return [result for result, _ in answers]
