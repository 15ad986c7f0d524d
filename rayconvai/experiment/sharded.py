"""Sharded checkpoints: a directory into which each rank writes its part; any number of ranks can read it.

Like a checkpoint file it is written whole or not at all, and has a stamp with its checksum beside it.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import save
from typing_extensions import override

from rayconvai.core.artefact import sha256
from rayconvai.errors import StorageError
from rayconvai.experiment.background import BackgroundCheckpointIO
from rayconvai.experiment.storage import METADATA, REST, Stamp, combined, publish, read_stamps, write_file, write_stamps

WEIGHTS, TRAINED = "state_dict", "current_model_state"
"""The parts that hold weights. The second, of a run with a moving average, are those that are trained; the first are
then the average. (Lightning's names.)"""
_CHUNK = 2**22

Entry = tuple[str, str, int]
"""Of a file that some rank wrote: its name, checksum and size."""


class ShardedCheckpointIO(BackgroundCheckpointIO):
    """Writes sharded checkpoints in the background, together with all other ranks, which must be told the same."""

    _group: Any = None
    """The ranks, by a way of their own: what is trained meanwhile has the other one."""

    @override
    def save_checkpoint(self, checkpoint: Mapping[str, Any], path: str | Path, storage_options: Any = None) -> None:
        if self._group is None:
            self._group = dist.new_group(backend="gloo")
        super().save_checkpoint(checkpoint, path, storage_options)

    @override
    def _write_file(self, checkpoint: Mapping[str, Any], path: Path) -> None:
        rest = dict(checkpoint)
        parts = {name: rest.pop(name) for name in (WEIGHTS, TRAINED) if name in rest}
        for number, state in enumerate(rest.pop("optimizer_states", ())):
            parts[f"optimizer_{number}"] = state
        write_sharded(parts, rest, path, self._group)

    @override
    def teardown(self) -> None:
        super().teardown()
        if self._group is not None:
            dist.destroy_process_group(self._group)
        self._group = None


def write_sharded(parts: dict[str, Any], rest: Mapping[str, Any], path: Path, group: Any) -> None:
    """Write a checkpoint together with all other ranks; what they write on nodes that do not see the first rank's
    directory is sent there.

    Args:
        parts: state dicts of sharded tensors.
        rest: what is the same on all ranks.
        path: the directory.
        group: all ranks, by gloo.

    Raises:
        StorageError: some rank could not write; nothing is left of it and older checkpoints are untouched.
    """
    together = partial(_together, path, group)
    rank, made, elsewhere = dist.get_rank(), "", [False] * dist.get_world_size()

    def prepare() -> str:
        if rank:
            return ""
        new = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
        new.mkdir(parents=True)
        return new.name

    def write() -> list[Entry]:
        aside.mkdir(parents=True, exist_ok=True)
        save(parts, storage_writer=FileSystemWriter(aside), process_group=group)  # syncs its files
        whole = []
        if not rank:
            whole = [(REST, *write_file(rest, aside / REST))]
        mine = [*aside.glob(f"__{rank}_*"), *((aside / METADATA,) if not rank else ())]
        return [*whole, *((file.name, sha256(file), file.stat().st_size) for file in mine)]

    try:
        made = together(prepare)[0]
        aside = path.with_name(made)
        elsewhere = [not seen for seen in together(aside.is_dir)]
        written = together(write)
        together(partial(_bring, aside, written, elsewhere, group))
        together(partial(_finish, aside, path, rest, written) if not rank else list)
    finally:
        if made and (not rank or elsewhere[rank]):
            shutil.rmtree(path.with_name(made), ignore_errors=True)


def _bring(aside: Path, written: list[list[Entry]], elsewhere: list[bool], group: Any) -> None:
    """Send the first rank what was written elsewhere."""
    me, failures = dist.get_rank(), []
    for rank in (rank for rank, away in enumerate(elsewhere) if away):
        for name, _, size in written[rank]:
            if me == rank:
                _send(aside / name, group)
            elif me == 0:
                failures += _receive(aside / name, size, rank, group)
    if failures:
        raise failures[0]


def _send(path: Path, group: Any) -> None:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            dist.send(torch.frombuffer(bytearray(chunk), dtype=torch.uint8), 0, group)


def _receive(path: Path, size: int, rank: int, group: Any) -> list[OSError]:
    """Take a file from a rank, to its end also where it cannot be written; return why it could not."""
    chunks = _chunks(size, rank, group)
    try:
        with path.open("wb") as file:
            for chunk in chunks:
                file.write(chunk.numpy().data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return [error]
    finally:
        for _ in chunks:
            pass
    return []


def _chunks(size: int, rank: int, group: Any) -> Iterator[torch.Tensor]:
    for at in range(0, size, _CHUNK):
        chunk = torch.empty(min(_CHUNK, size - at), dtype=torch.uint8)
        dist.recv(chunk, rank, group)
        yield chunk


def _finish(aside: Path, path: Path, rest: Mapping[str, Any], written: list[list[Entry]]) -> None:
    files = [entry for entries in written for entry in entries]
    digest = combined({name: digest for name, digest, _ in files})
    write_stamps(path, [Stamp.of(rest, digest, sum(size for *_, size in files)), *read_stamps(path)[:1]])
    publish(aside, path)


def _together(path: Path, group: Any, action: Callable[[], Any]) -> list[Any]:
    """Do something on every rank and return what each returned; all raise if one failed, so that none waits for it."""
    result: Any = None
    problem = ""
    try:
        result = action()
    except (OSError, RuntimeError, CheckpointException) as error:
        problem = (isinstance(error, OSError) and error.strerror) or str(error).strip().splitlines()[-1]
    answers: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(answers, (result, problem), group)
    for rank, (_, failed) in enumerate(answers):
        if failed:
            raise StorageError(
                f"checkpoint {path.name} cannot be written in {path.parent} by rank {rank}: {failed}; free space there "
                "or set exp_manager.exp_dir; earlier checkpoints are untouched"
            )
    return [result for result, _ in answers]
