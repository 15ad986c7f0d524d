"""Going on from a checkpoint: which one, and with which random states."""

from __future__ import annotations

import hashlib
import logging
import random
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from lightning.fabric.utilities.data import _set_sampler_epoch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loops.loop import _Loop
from typing_extensions import override

from rayconvai.errors import CheckpointError, NotFoundError
from rayconvai.experiment.mirror import fetched_file
from rayconvai.experiment.options import ExpManagerConfig
from rayconvai.experiment.storage import find_last
from rayconvai.experiment.weights import check_weights

log = logging.getLogger(__name__)


def choose_checkpoint(config: ExpManagerConfig, directory: Path, *, set_aside: bool = True) -> Path | None:
    """Return the checkpoint that a run goes on from, None to start anew.

    Args:
        config: the options.
        directory: where the run's checkpoints lie.
        set_aside: rename the damaged ones (one rank only may).

    Raises:
        NotFoundError: there is none, and resume_ignore_no_checkpoint is off.
        CheckpointError: the run has ended, or it is not clear which checkpoint is the last.
    """
    if config.resume_if_exists:
        _refuse_ended(config, directory)
        if (last := find_last(directory, set_aside=set_aside)) is not None:
            return last
    if config.resume_from_checkpoint is not None:
        given = fetched_file(config.resume_from_checkpoint)
        if not given.exists():
            raise NotFoundError(f"exp_manager.resume_from_checkpoint: no such file: {config.resume_from_checkpoint}")
        return given
    if config.resume_if_exists and not config.resume_ignore_no_checkpoint:
        raise NotFoundError(
            f"no checkpoint to resume from in {directory}; "
            "set exp_manager.resume_ignore_no_checkpoint=true to start anew"
        )
    return None


def _refuse_ended(config: ExpManagerConfig, directory: Path) -> None:
    ended = sorted(directory.rglob("*end.ckpt"))
    if ended and not config.resume_past_end:
        raise CheckpointError(f"the run has ended ({ended[0]}); set exp_manager.resume_past_end=true to train on")
    if len(ended) > 1:
        raise CheckpointError(f"{directory} has {len(ended)} checkpoints of ended runs; move all but one away")


class EpochMeans(Callback):
    """Keeps what an epoch's metrics have added up so far, which Lightning forgets: the epoch's mean stays its mean.

    Only what is logged as a tensor; a torchmetrics object keeps its own state.
    """

    def __init__(self) -> None:
        self._results: dict[str, Any] = {}
        self._saved: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    @override
    def state_dict(self) -> dict[str, Any]:
        means = {key: m for key, m in self._results.items() if m.is_tensor and m.meta.on_epoch and not m.has_reset}
        return {
            key: (_over_ranks(m.value), _over_ranks(m.cumulated_batch_size))
            for key, m in means.items()
            if m.meta.is_mean_reduction
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._saved = state_dict

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._results = trainer.fit_loop.epoch_loop._results

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Not called where an epoch is taken up in its middle.
        self._saved = {}

    def of_ended_epoch(self) -> dict[str, float]:
        """Return the means of an epoch that was taken up after its last batch: nothing will add to them."""
        return {key.split(".", 1)[1]: float(total / count) for key, (total, count) in self._saved.items()}

    @override
    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        for key in [key for key in self._saved if key in self._results]:
            total, count = self._saved.pop(key)
            metric = self._results[key]
            metric.value = metric.value + total.to(metric.value)
            metric.cumulated_batch_size = metric.cumulated_batch_size + count.to(metric.cumulated_batch_size)


def _over_ranks(part: torch.Tensor) -> torch.Tensor:
    """Return the mean over ranks, which Lightning takes at the end of the epoch: any rank may go on from it."""
    if not (dist.is_available() and dist.is_initialized()):
        return part.clone()
    total = part.double()
    dist.all_reduce(total)
    return (total / dist.get_world_size()).to(part.dtype)


class ExactResume(Callback):
    """Keeps the random states of Python, NumPy and torch in each checkpoint, for every rank, and takes them up again
    at the point where they were: so that a resumed run draws the same numbers, and the same batches, as one that was
    never stopped. Keeps the metrics too, by which schedules, checkpoints and reports decide."""

    def __init__(self) -> None:
        self._saved: dict[str, Any] | None = None
        self._metrics: dict[str, torch.Tensor] = {}
        self._hook: Any = None

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit" or not trainer.ckpt_path or not pl_module.strict_loading:
            return
        source = trainer.ckpt_path
        self._hook = cast(Any, pl_module).register_load_state_dict_pre_hook(
            # With a prefix it is a copy within another module, such as the average's.
            lambda module, weights, prefix, *_: None if prefix else check_weights(module, weights, source)
        )

    @override
    def state_dict(self) -> dict[str, Any]:
        mine = _states()
        if not (dist.is_available() and dist.is_initialized()):
            return {"ranks": [mine]}
        ranks: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(ranks, mine)
        return {"ranks": ranks}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._saved = state_dict

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        known = sorted(trainer.callback_metrics.items())  # as they were first logged, a resumed run has another order
        checkpoint["metrics"] = {name: value.detach().clone() for name, value in known}

    @override
    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._metrics = checkpoint.get("metrics", {})  # older checkpoints have none

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._hook is not None:
            self._hook.remove()
        loaded = trainer._checkpoint_connector._loaded_checkpoint
        if loaded and "optimizer_states" not in loaded:
            raise CheckpointError(f"{trainer.ckpt_path} holds weights alone: there is no training to go on with")

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loop = trainer.fit_loop
        trainer._logger_connector._callback_metrics.update(self._metrics)
        if loop.restarting and loop._combined_loader_states_to_load:
            # A model that asked for the number of steps, to make its schedule, had the loaders made before Lightning
            # knew their states, which it then forgets.
            _load_positions(trainer)
        _count_anew(trainer)
        if self._saved is not None and len(self._saved["ranks"]) != trainer.world_size and trainer.is_global_zero:
            log.warning(
                "the checkpoint has the random states of %d processes, and %d go on: those that were not there are "
                "seeded afresh, and nothing is drawn as it would have been",
                len(self._saved["ranks"]),
                trainer.world_size,
            )
        if self._saved is None and trainer.global_rank:
            # All were seeded alike, to build the same model; from here on each draws its own dropout.
            _seed_after(_states(), trainer.global_rank)
        self._restore(trainer)
        if loop.restarted_on_epoch_end or loop.resumed_on_epoch_end:
            # Checkpoints are written before such a schedule steps.
            _step_plateaus(trainer)
        if loop.restarted_on_epoch_end:
            loop.epoch_progress.increment_completed()
        if loop.restarting and loop.epoch_progress.current.completed == loop.epoch_progress.current.ready:
            # Where a run is measured in steps, Lightning takes an epoch that has ended for one to be gone on with, runs
            # it without a batch and counts it twice. From here on it is over, as it is in runs measured in epochs.
            vars(_Loop)["restarting"].fset(loop, False)
            loop.update_restart_stage()

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._saved is None:
            return
        self._restore(trainer)
        if trainer.fit_loop.is_resuming:
            # At the end of an epoch Lightning leaves out the loader's state, and goes on with an iterator that was
            # made before the random states were back.
            _load_positions(trainer)

    @override
    def on_train_batch_start(self, *_: Any) -> None:
        self._saved = None

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Else Lightning leaves out a schedule's step by the metric of an epoch that was taken up in its middle.
        trainer.fit_loop._restarting = False

    def _restore(self, trainer: Trainer) -> None:
        if self._saved is None:
            return
        ranks, rank = self._saved["ranks"], trainer.global_rank
        if rank < len(ranks):
            _restore(ranks[rank])
        else:
            _seed_after(ranks[0], rank)


def _count_anew(trainer: Trainer) -> None:
    """Let Lightning's count of this rank's batches be right where a run goes on with another number of ranks."""
    loader: Any = trainer.train_dataloader
    counts = trainer.fit_loop.epoch_loop.batch_progress.current
    if getattr(loader, "moved", False):
        new = loader.position - counts.ready
        for name in ("ready", "started", "processed", "completed"):
            setattr(counts, name, getattr(counts, name) + new)


def _step_plateaus(trainer: Trainer) -> None:
    """Step the schedules that go by a metric, for an epoch whose end the checkpoint has and their step it has not."""
    for config in trainer.lr_scheduler_configs:
        if config.reduce_on_plateau and config.interval == "epoch" and trainer.current_epoch % config.frequency == 0:
            cast(Any, config.scheduler).step(trainer.callback_metrics[str(config.monitor)])


def _load_positions(trainer: Trainer) -> None:
    """Give the training loaders the states of the checkpoint, and take new iterators of them."""
    loop = trainer.fit_loop
    assert loop._combined_loader is not None
    assert loop._data_fetcher is not None
    loop._combined_loader._load_state_dicts(loop._combined_loader_states_to_load)
    loop._combined_loader_states_to_load = []
    for loader in loop._combined_loader.flattened:
        _set_sampler_epoch(loader, trainer.current_epoch)
    iter(loop._data_fetcher)


def _states() -> dict[str, Any]:
    name, keys, *rest = cast("tuple[Any, ...]", np.random.get_state())
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), *rest),  # no array: torch.load takes plain data only
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def _seed_after(states: dict[str, Any], rank: int) -> None:
    """Seed a process that has no states in the checkpoint: like no other, and the same whenever it goes on."""
    digest = hashlib.sha256(states["torch"].cpu().numpy().tobytes() + str(rank).encode()).digest()
    seed = int.from_bytes(digest[:4], "big")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _restore(states: dict[str, Any]) -> None:
    random.setstate(states["python"])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.cpu().numpy(), *rest))
    torch.set_rng_state(states["torch"].cpu())
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"].cpu())
