"""What a trial will need, before any: memory and work of one training step, found on tensors without memory.

A batch as large as an epoch's largest goes through the model under ``FakeTensorMode``: every operation says the shape
of its result and computes nothing. What is alive when the loss is there is what the backward pass needs. An estimate:
code that looks at values cannot be followed, and what the process and its allocator take besides is not seen.
"""

from __future__ import annotations

import contextlib
import time
import warnings
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry

from rayconvai.core.data_module import DataModule
from rayconvai.core.model import Model
from rayconvai.core.optim import build_optimizer

_BACKWARD = 2
"""The backward pass computes twice what the forward pass does: gradients of weights and of inputs."""


@dataclass(frozen=True)
class Step:
    """What training takes, whatever the optimizer."""

    activations: int
    """Bytes, of the largest batch."""
    flops: float
    """Of an epoch's training, forward and backward."""


def measure_step(model: Model, data: DataModule, precision: Any = None) -> Step | None:
    """Follow the largest batch through a model; None where it cannot be followed.

    Args:
        model: of which the tensors are replaced by ones without memory.
        data: bound to a model that reads the same batches.
        precision: the trainer's.
    """
    try:
        batch, times = data.largest_batch()
        with FakeTensorMode(allow_non_fake_inputs=True) as mode, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # A quarter of the time of to_empty(device="cpu").
            model._apply(  # type: ignore[no-untyped-call]
                lambda tensor: FakeTensor(mode, tensor.to("meta"), torch.device("cpu"))
            )
            model.train()
            batch = tree_map_only(Tensor, torch.empty_like, batch)
            with _autocast(precision), _Meter((*model.parameters(), *model.buffers())) as meter:
                model.dry_step(batch)
    except Exception:  # noqa: BLE001 (a user's model or data may do anything; then there is no estimate)
        return None
    return Step(meter.peak, meter.flops * (1 + _BACKWARD) * times)


def state_bytes(optim: Mapping[str, Any], model: Model) -> int | None:
    """Return the bytes of weights, gradients and what the optimizers keep; None where they do not say.

    Raises:
        ConfigError: the optimizer cannot train this model.
    """
    made = [build_optimizer(optim, part) for part in model.trained_parts()]
    total = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    for optimizer, group in [(one, group) for one in made for group in one.param_groups]:
        size = sum(parameter.nbytes for parameter in group["params"])
        copies = _copies(optimizer, group)
        if copies is None:
            return None
        total += round(size * (1 + copies))
    return total


def _copies(optimizer: torch.optim.Optimizer, group: Mapping[str, Any]) -> float | None:
    """Take a step with one small matrix or vector in the group's place, and see how many of it the optimizer keeps."""
    shape = (8, 8) if any(parameter.ndim == 2 for parameter in group["params"]) else (64,)
    small = nn.Parameter(torch.zeros(shape))
    small.grad = torch.ones_like(small)
    try:
        rehearsal = type(optimizer)([{**group, "params": [small]}])  # type: ignore[call-arg]
        rehearsal.step(lambda: torch.zeros(()))  # type: ignore[arg-type,return-value]
    except Exception:  # noqa: BLE001 (a user's optimizer may need anything)
        return None
    kept = [part for part in tree_leaves(dict(rehearsal.state)) if isinstance(part, Tensor)]
    return sum(part.numel() for part in kept if part.ndim) / small.numel()


def speed(threads: int) -> float:
    """Measure the floating-point operations a second that training reaches on so many threads of this machine.

    A layer of a transformer is trained in float32, and CPU seconds count: what else runs here does not.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        layer, batch = nn.TransformerEncoderLayer(256, 4, 1024, batch_first=True), torch.randn(16, 64, 256)
        with _Meter(()) as meter:
            layer(batch)
        taken = []
        for _ in range(4):  # the first one makes what the others use again
            began = time.process_time()
            layer(batch).sum().backward()
            taken.append((time.process_time() - began) / threads)
    finally:
        torch.set_num_threads(before)
    return float(meter.flops * (1 + _BACKWARD) / sorted(taken[1:])[1])


class _Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes that are alive, but for those of tensors known before, and the work of matrix products."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = self.alive = self.peak = 0
        self._seen = {tensor.untyped_storage()._cdata: 0 for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if (count := flop_registry.get(func._overloadpacket)) is not None:
            self.flops += count(*args, **kwargs, out_val=result)
        for made in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(made, Tensor):
                self._note(made.untyped_storage())
        return result

    def _note(self, storage: Any) -> None:
        key = storage._cdata
        if key not in self._seen:
            self._seen[key] = storage.nbytes()
            self.alive += self._seen[key]
            self.peak = max(self.peak, self.alive)
            weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.alive -= self._seen.pop(key)


def _autocast(precision: Any) -> contextlib.AbstractContextManager[Any]:
    dtype = {"bf16": torch.bfloat16, "16": torch.float16}.get(str(precision).partition("-")[0])
    return contextlib.nullcontext() if dtype is None else torch.autocast("cpu", dtype)
