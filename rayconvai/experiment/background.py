"""Checkpoints are written while the training goes on: it waits for the copy to host memory, not for the disk."""

from __future__ import annotations

import copy
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from rayconvai.experiment.storage import AtomicCheckpointIO


@dataclass(frozen=True)
class _Order:
    path: Path
    saves: bool
    done: Future[None]


class BackgroundCheckpointIO(AtomicCheckpointIO):
    """Writes and removes in a thread of its own, in the order in which it was told; within ``in_background`` the
    training does not wait for that. Whatever reads checkpoints calls ``wait`` first.

    At most one copy waits besides the one that is being written; then the training waits too. After a write that
    failed nothing more is done, so that no older checkpoint goes before a newer one is whole; the error is raised by
    the next ``save_checkpoint``, ``wait`` or ``teardown``, once.

    (Lightning's AsyncCheckpointIO has no bound, removes at once, keeps copies on the GPU, and drops the versions that
    modules leave in their state.)
    """

    def __init__(self) -> None:
        super().__init__()
        self.record: Path | None = None
        """A file that counts what checkpoints know of: on the disk before each of them, also where a node dies."""
        self._thread: ThreadPoolExecutor | None = None
        self._orders: deque[_Order] = deque()
        self._failure: Exception | None = None
        self._deferring = False

    @contextmanager
    def in_background(self) -> Iterator[None]:
        """Return from ``save_checkpoint`` before the file is there."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False

    @override
    def save_checkpoint(self, checkpoint: Mapping[str, Any], path: str | Path, storage_options: Any = None) -> None:
        self._wait_for_saves_but(1)
        order = _Order(Path(path), True, self._begin(self._write, on_host(checkpoint), path))
        self._orders.append(order)
        if not self._deferring:
            self.wait()

    @override
    def remove_checkpoint(self, path: str | Path) -> None:
        self._orders.append(_Order(Path(path), False, self._begin(super().remove_checkpoint, path)))

    @override
    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        self.wait()
        return super().load_checkpoint(path, *args, **kwargs)

    def has(self, path: str | Path) -> bool:
        """Tell whether a file is there once all has been done."""
        for order in reversed(self._orders):
            if order.path == Path(path):
                return order.saves
        return Path(path).exists()

    def wait(self) -> None:
        """Return when all has been done.

        Raises:
            StorageError: a checkpoint could not be written; what came after it was given up.
        """
        while self._orders:
            self._orders[0].done.result()  # a signal may end the wait: only then is it forgotten
            self._orders.popleft()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    @override
    def teardown(self) -> None:
        try:
            self.wait()
        finally:
            if self._thread is not None:
                self._thread.shutdown()
            self._thread = None

    def _wait_for_saves_but(self, count: int) -> None:
        while sum(order.saves for order in self._orders) > count or (self._orders and self._orders[0].done.done()):
            self._orders[0].done.result()
            self._orders.popleft()
        if self._failure is not None:
            self.wait()

    def _begin(self, action: Callable[..., None], *arguments: Any) -> Future[None]:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "checkpoints")
        return self._thread.submit(self._do, action, *arguments)

    def _write(self, checkpoint: Mapping[str, Any], path: str | Path) -> None:
        if self.record is not None and self.record.exists():
            with self.record.open("rb") as file:
                os.fsync(file.fileno())
        self._write_file(checkpoint, Path(path))

    def _write_file(self, checkpoint: Mapping[str, Any], path: Path) -> None:
        super().save_checkpoint(checkpoint, path)

    def _do(self, action: Callable[..., None], *arguments: Any) -> None:
        if self._failure is not None:
            return
        try:
            action(*arguments)
        except Exception as error:  # noqa: BLE001 (raised where the training can be told)
            self._failure = error


def on_host(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a copy of a checkpoint in host memory that shares nothing with what is being trained.

    Tensors that are the same memory, as tied weights are, stay one.
    """
    with _HostCopies() as copies:
        copied = copy.deepcopy(checkpoint)
    for device in copies.devices:
        torch.accelerator.synchronize(device)
    return copied


class _HostCopies(TorchFunctionMode):
    """Lets ``deepcopy`` put tensors into host memory."""

    def __init__(self) -> None:
        super().__init__()
        self.devices: set[torch.device] = set()
        self._copies: dict[Any, torch.Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        copies = func is torch.Tensor.__deepcopy__
        if copies and isinstance(args[0], DTensor):
            return args[0].detach().to("cpu", copy=True)
        if not copies or type(args[0]) is not torch.Tensor or args[0].layout != torch.strided:
            return func(*args, **(kwargs or {}))
        tensor = args[0].detach()
        place = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if place not in self._copies:
            # From a GPU this goes through page-locked memory that torch keeps for the next time.
            self._copies[place] = tensor.to("cpu", copy=True, non_blocking=True)
            if tensor.device.type != "cpu":
                self.devices.add(tensor.device)
        return self._copies[place]
