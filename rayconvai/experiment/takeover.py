"""A run goes on from the checkpoint of another: its weights and moments, with hyperparameters of its own."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from time import time

from rayconvai.core.artefact import sha256
from rayconvai.errors import CheckpointError, StorageError
from rayconvai.experiment.layout import RunLayout
from rayconvai.experiment.storage import (
    SUFFIX,
    AtomicCheckpointIO,
    find_last,
    is_sound,
    read_stamps,
    sync_directory,
    write_stamps,
)

TAKEN = "from-"
"""What the name of a checkpoint begins with that was taken over."""


def take_over(donor: Path, member: Path, epoch: int) -> Path:
    """Make the donor's newest checkpoint the only one of the member, and return it.

    It is there twice: should one be damaged, there is none of the member's own before it. Whole or not at all. Called
    again before the member goes on, it changes nothing, even if the donor has gone on.

    Args:
        donor: the run directory to take from; it stands at the end of ``epoch``.
        member: the run directory that goes on from there.
        epoch: how many epochs the donor has ended.

    Raises:
        CheckpointError: the donor has no sound checkpoint of that epoch's end.
        StorageError: it cannot be written.
    """
    directory = RunLayout(member).checkpoints
    # The name ends as that of each newest checkpoint does: the next one takes its place.
    spare = directory / f"{TAKEN}{donor.name}-epochs={epoch}{SUFFIX}"
    target = spare.with_stem(f"{spare.stem}-last")
    if not (is_sound(target) and is_sound(spare)):
        source = find_last(RunLayout(donor).checkpoints, set_aside=False)
        if source is None or (ended := _epochs_ended(source)) != epoch:
            found = "no checkpoint" if source is None else f"one of epoch {ended}"
            raise CheckpointError(f"{donor} has {found}, not one of the end of epoch {epoch}, to be taken over")
        try:
            directory.mkdir(parents=True, exist_ok=True)
            _copy(source, spare)
            _copy(source, target)
        except OSError as error:
            raise StorageError(f"{directory} cannot be written: {error.strerror or error}") from error
    for old in directory.glob("*" + SUFFIX):
        if old not in (target, spare):
            AtomicCheckpointIO().remove_checkpoint(old)
    return target


def _epochs_ended(path: Path) -> int:
    checkpoint = AtomicCheckpointIO().load_checkpoint(path)
    return int(checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])


def _copy(source: Path, target: Path) -> None:
    stamp = read_stamps(source)[0]
    aside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with source.open("rb") as original, aside.open("wb") as copy:
            shutil.copyfileobj(original, copy, 1 << 20)
            copy.flush()
            os.fsync(copy.fileno())
        if sha256(aside) != stamp.sha256:
            raise CheckpointError(f"checkpoint {source} changed while it was copied")
        # Newer than what the member has itself, also if a kill leaves that beside it.
        write_stamps(target, [replace(stamp, time=time())])
        os.replace(aside, target)
        sync_directory(target.parent)
    finally:
        aside.unlink(missing_ok=True)
