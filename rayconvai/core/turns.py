"""Several optimizers in one training, each with a part of the model and a loss of its own, that step in turn."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from rayconvai.core.model import Model

Losses = Callable[[Any], Mapping[str, Tensor]]
"""Computes means over the utterances of a batch, by the names under which they are logged; the first is the loss that
is learnt by."""


@dataclasses.dataclass(frozen=True)
class _Held:
    batch: Any
    count: int
    """Its utterances."""
    share: Any
    """What its loader has said that it is of its step; None for other loaders."""


class Turns:
    """The steps of a model that has several optimizers, which Lightning leaves to the model.

    To the rest of a run they are as those of one optimizer: a step is what all parts learn from the same batches, and
    is counted once; gradients are clipped and batches accumulated as the trainer says; schedules step with it.

    Batches that make a step together are held until the last of them has come: each loss is then computed on all of
    them with the same weights, so that a step learns the same whether its utterances come in one batch or in several.
    """

    def __init__(self) -> None:
        self.share: Any = None
        """What the batch that is being learnt from is of its step, as its loader has said."""
        self._held: list[_Held] = []

    def take(self, model: Model, batch: Any, count: int, losses: Sequence[Losses | None]) -> None:
        """Take a batch, and if it is the last of its step, let each part learn from its loss; see Model.take_turns."""
        trainer = model.trainer
        self._held.append(_Held(batch, count, getattr(trainer.train_dataloader, "share", None)))
        if trainer.fit_loop.epoch_loop._should_accumulate():
            return
        held, self._held = self._held, []
        optimizers: Any = model.optimizers()
        for optimizer in optimizers[:-1]:
            # Lightning counts each optimizer's step, and would reach max_steps too soon.
            optimizer._on_before_step = optimizer._on_after_step = _nothing
        for optimizer, compute in zip(optimizers, losses, strict=True):
            if compute is not None:
                self._learn(model, held, optimizer, compute)
        self.share = None
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)  # a part without loss
            _step_schedules(trainer)

    def _learn(self, model: Model, held: Sequence[_Held], optimizer: Any, compute: Losses) -> None:
        sums: dict[str, Any] = {}
        for number, one in enumerate(held, start=1):
            self.share = one.share
            with optimizer.toggle_model(sync_grad=number == len(held)):
                means = compute(one.batch)
                model.manual_backward(next(iter(means.values())) / model.trainer.accumulate_grad_batches)
            for name, mean in means.items():
                sums[name] = sums.get(name, 0) + mean.detach() * one.count
        optimizer.step()
        optimizer.zero_grad()
        count, shares = sum(one.count for one in held), [one.share for one in held]
        if None not in shares:
            self.share = dataclasses.replace(shares[0], beside=sum(share.beside for share in shares))
        for name, total in sums.items():  # once: what is logged of a step is the mean of all its batches
            model.log_training_mean(name, total / count, count)


def _step_schedules(trainer: Trainer) -> None:
    loop = trainer.fit_loop.epoch_loop
    for config in trainer.lr_scheduler_configs:
        by_step = config.interval == "step"
        at = loop.batch_idx if by_step else trainer.current_epoch
        if (by_step or loop._num_ready_batches_reached()) and (at + 1) % config.frequency == 0:
            config.scheduler.step()  # type: ignore[call-arg]  # none of them goes by a metric


def _nothing() -> None:
    pass
