"""A loader whose exact position goes into checkpoints."""

from __future__ import annotations

import multiprocessing
import os
import random
import re
import threading
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.context import BaseContext, ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from rayconvai.data.sampler import LengthBatchSampler, Share, mixed
from rayconvai.errors import RayconvaiError


class StatefulLoader(DataLoader[Any]):
    """A ``DataLoader`` that can be stopped after any batch and goes on with the next one.

    Lightning keeps ``state_dict()`` of such a loader in its checkpoints and gives it back on resume. The state counts
    batches handed out, not those that workers have prepared ahead. Nothing is drawn from the sampler before the first
    batch is asked for, as Lightning makes the iterator before it sets the epoch. The global random state is not
    touched, so it may be restored by others.

    The dataset is given ``Draw`` indices: integers with the ``epoch`` they are drawn for.

    Args:
        dataset: indexed by number; it must be possible to pickle it if there are workers.
        batch_sampler: says which examples make a batch.
        collate_fn: makes a batch of a list of items.
        num_workers: processes that prepare batches; 0 prepares them here. Workers are started through a fork server
            (forking a process that has threads, such as a Ray actor, can hang it), kept from epoch to epoch, and end
            with the process that reads from them, however that ends.
        prefetch_factor: batches that each worker prepares ahead.
        pin_memory: put batches into page-locked memory, for fast copies to a GPU.

    Raises (while iterating):
        RayconvaiError: what the dataset raised, in a worker too.
        MemoryError: the system killed a worker for want of memory.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        *,
        batch_sampler: LengthBatchSampler,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        num_workers: int = 0,
        prefetch_factor: int | None = None,
        pin_memory: bool = False,
    ) -> None:
        self._plan = batch_sampler
        super().__init__(
            dataset,
            batch_sampler=_Ahead(batch_sampler),
            collate_fn=collate_fn,
            num_workers=num_workers,
            prefetch_factor=prefetch_factor if num_workers else None,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
            multiprocessing_context=_context(dataset) if num_workers else None,
            worker_init_fn=partial(_seed, batch_sampler.ranks.rank) if num_workers else None,
            generator=torch.Generator().manual_seed(batch_sampler.seed),
        )

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        kills_before = _killed_for_memory()
        # The body of a generator runs at the first next(): by then the epoch is known.
        try:
            for batch in super().__iter__():
                self._plan.advance()
                yield batch
        except RayconvaiError as error:
            raise _plain(error) from error
        except RuntimeError as error:
            if (kills := _killed_for_memory()) > kills_before and "DataLoader worker" in str(error):
                raise MemoryError(f"the system killed a loader worker ({kills - kills_before} for memory)") from error
            raise

    @property
    def share(self) -> Share:
        """What the batch that was handed out last is of its step."""
        return self._plan.share

    @property
    def position(self) -> int:
        """How many of its batches this rank has behind it in this epoch."""
        return self._plan.position

    @property
    def moved(self) -> bool:
        """Whether the state that was loaded is one of another number of ranks."""
        return self._plan.moved

    def state_dict(self) -> dict[str, Any]:
        """Return the sampler's state after the last batch that was handed out."""
        return self._plan.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next iteration begin where the state was taken.

        Raises:
            CheckpointError: it was taken with other examples or settings.
        """
        self._plan.load_state_dict(state)


class _Ahead(Sampler[list[int]]):
    """The batches of a sampler, drawn without being counted: workers draw them ahead of their use."""

    def __init__(self, plan: LengthBatchSampler) -> None:
        self.sampler = plan  # where Lightning looks for set_epoch

    def __iter__(self) -> Iterator[list[int]]:
        yield from self.sampler.begin()  # a generator: torch makes two iterators and uses one

    def __len__(self) -> int:
        return len(self.sampler)


def _context(dataset: Dataset[Any]) -> BaseContext:
    """Return a way to start workers that does not fork this process.

    The fork server imports torch and the dataset's module once; workers then start at once.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = _ForkServer()
    context.set_forkserver_preload(["__main__", __name__, type(dataset).__module__])
    return context


def _seed(rank: int, worker: int) -> None:
    """Let what a dataset draws from the global generators differ between ranks, as it does between workers.

    (Lightning's way of doing so has each worker import all of Lightning first.)
    """
    seed = mixed(torch.initial_seed(), rank)
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def end_with_the_starter() -> None:
    """Let this process, which came through a fork server, end when the one that started it does, by SIGKILL too.

    Nothing else does so: its parent is the fork server, which ends with the last process that came through it.
    """
    starter = multiprocessing.parent_process()
    assert starter is not None, "another process has started this one"

    def watch() -> None:
        starter.join()
        os._exit(1)

    threading.Thread(target=watch, name="starter_watch", daemon=True).start()


class _Worker(ForkServerProcess):
    def run(self) -> None:
        end_with_the_starter()
        super().run()


class _ForkServer(ForkServerContext):
    Process = _Worker


def _killed_for_memory() -> int:
    """Return how many processes this machine has killed for want of memory since it started."""
    try:
        counted = re.search(r"^oom_kill (\d+)$", Path("/proc/vmstat").read_text(encoding="ascii"), re.M)
    except OSError:
        return 0
    return int(counted[1]) if counted else 0


def _plain(error: RayconvaiError) -> RayconvaiError:
    """Return a worker's error in one line, without the worker's trace, which torch puts into the message."""
    line = str(error).strip().rsplit("\n", 1)[-1]
    return type(error)(line.removeprefix(f"{type(error).__module__}.{type(error).__qualname__}: "))
