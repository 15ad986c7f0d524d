"""What steps take, the size of their gradients, and how much data goes through a run a second."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from lightning.fabric.utilities.throughput import _plugin_to_compute_dtype, get_available_flops
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from typing_extensions import override

from rayconvai.core.model import Model
from rayconvai.experiment.options import StepTimingParams
from rayconvai.experiment.record import is_logged, log_now


class StepTiming(Callback):
    """Logs the seconds that a training step takes, from its batch's arrival to the end of its update, and the mean of
    validation steps."""

    def __init__(self, params: StepTimingParams) -> None:
        self._params = params
        reductions: dict[str, Callable[[Sequence[float]], float]] = {"mean": statistics.fmean, "min": min, "max": max}
        self._reduce = reductions[params.reduction]
        self._trained: deque[float] = deque(maxlen=params.buffer_size)
        self._validated: list[float] = []
        self._began = 0.0

    @override
    def on_train_batch_start(self, *_: Any) -> None:
        self._began = self._now()

    @override
    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._trained.append(self._now() - self._began)
        if is_logged(trainer):
            log_now(trainer, {"train_step_timing": self._reduce(self._trained)})

    @override
    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validated = []

    @override
    def on_validation_batch_start(self, *_: Any) -> None:
        self._began = self._now()

    @override
    def on_validation_batch_end(self, *_: Any) -> None:
        self._validated.append(self._now() - self._began)

    @override
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._validated and not trainer.sanity_checking:
            log_now(trainer, {"validation_step_timing": self._reduce(self._validated)})

    def _now(self) -> float:
        if self._params.sync_cuda and torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()


class GradientNorm(Callback):
    """Logs the norm of all gradients together, of all optimizers' parts, as they are before they are clipped."""

    def __init__(self) -> None:
        self._norms: list[Tensor] = []

    @override
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        if trainer._logger_connector.should_update_logs:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
            self._norms.append(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)  # of sharded weights

    @override
    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if self._norms and is_logged(trainer):
            norm = torch.linalg.vector_norm(torch.stack(self._norms)) if len(self._norms) > 1 else self._norms[0]
            log_now(trainer, {"grad_norm": norm})
            self._norms = []


class Speed(Callback):
    """Logs what went through the run a second since the last time it was logged, over all processes; validations and
    checkpoints do not count, waiting for data does.

    The work of a batch is counted once, on the first one, and taken to grow with the first of the units that the model
    names: an estimate. It is not counted where the device's peak is not known, nor seen within compiled code.
    """

    def __init__(self) -> None:
        self._seen: dict[str, Any] = {}
        self._steps = 0
        self._seconds = 0.0
        self._last: float | None = None
        self._peak: int | None = None
        self._flops: float | None = None
        self._counter: FlopCounterMode | None = None

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        kind = _plugin_to_compute_dtype(trainer.precision_plugin)
        self._peak = get_available_flops(trainer.strategy.root_device, kind)
        self._forget()
        self._last = None

    @override
    def on_train_batch_start(self, *_: Any) -> None:
        if self._last is None:
            self._last = time.perf_counter()
        if self._peak is not None and self._flops is None:
            self._counter = FlopCounterMode(display=False)
            self._counter.__enter__()  # type: ignore[no-untyped-call]

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        seen: Mapping[str, Any] = pl_module.seen(batch) if isinstance(pl_module, Model) else {}
        if self._counter is not None:
            self._counter.__exit__(None, None, None)  # type: ignore[no-untyped-call]
            self._flops = self._counter.get_total_flops() / (float(next(iter(seen.values()), 1)) or 1)
            self._counter = self._last = None  # this one took longer for being watched
            return
        for unit, amount in seen.items():
            self._seen[unit] = self._seen.get(unit, 0) + amount
        self._steps += 1
        now = time.perf_counter()
        if self._last is not None:
            self._seconds += now - self._last
        self._last = now
        if is_logged(trainer):
            self._log(trainer)

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._last = None

    @override
    def on_save_checkpoint(self, *_: Any) -> None:
        self._last = None

    def _log(self, trainer: Trainer) -> None:
        amounts = torch.tensor([float(amount) for amount in self._seen.values()], device=trainer.strategy.root_device)
        if trainer.world_size > 1:
            amounts = trainer.strategy.reduce(amounts, reduce_op="sum")
        rates = [float(amount) / self._seconds for amount in amounts]
        speeds = {f"{unit}_per_second": rate for unit, rate in zip(self._seen, rates, strict=True)}
        speeds["steps_per_second"] = self._steps / trainer.accumulate_grad_batches / self._seconds
        if self._peak is not None and self._flops:
            work = (rates[0] if rates else trainer.world_size * self._steps / self._seconds) * self._flops
            speeds["mfu"] = work / (self._peak * trainer.world_size)
        log_now(trainer, speeds)
        self._forget()

    def _forget(self) -> None:
        self._seen, self._steps, self._seconds = {}, 0, 0.0
