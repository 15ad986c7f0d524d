"""Runs a training in several processes that plain torch.distributed joins, as any launcher would."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, Trainer

from rayconvai.config.compose import compose
from rayconvai.experiment.interrupt import Interrupted
from rayconvai.train.fit import evaluate, fit
from rayconvai.train.runtime import Runtime


class Curve(Callback):
    """Keeps the loss of each batch."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        loss = trainer.callback_metrics.get("train_loss_step")  # a model with several optimizers has one for each step
        self.losses.extend([] if loss is None else [loss.item()])


class StopAt(Callback):
    """Stops the run at a step as Ctrl-C does, on one rank."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step and trainer.is_global_zero:
            self.step = -1  # a second signal would stop at once
            signal.raise_signal(signal.SIGINT)


def train(
    overrides: Sequence[str],
    run_dir: Path | str,
    stop_at: int = -1,
    recipe: str = "asr/conformer_ctc",
    caches: Sequence[Path] = (),
    **place: Any,
) -> dict[str, Any]:
    """Train; ``stop_at``: until about that step; ``caches``: of each rank, as if it had a machine for itself."""
    if caches:
        os.environ["RAYCONVAI_CACHE"] = str(caches[int(os.environ["RANK"])])
    curve, ranks = Curve(), int(os.environ["WORLD_SIZE"])
    config = compose(recipe, list(overrides))
    place = {"devices": ranks, "strategy": "ddp" if ranks > 1 else "auto"} | place
    try:
        result = fit(config, Runtime(run_dir=run_dir, progress=False, callbacks=[curve, StopAt(stop_at)], **place))
    except Interrupted:
        return {"losses": curve.losses}
    return {"losses": curve.losses, "metrics": result.metrics, "best": result.best_checkpoint}


def measure(overrides: Sequence[str], weights: Path) -> dict[str, float]:
    """Measure a checkpoint on the dev set."""
    ranks = int(os.environ["WORLD_SIZE"])
    runtime = Runtime(progress=False, devices=ranks, strategy="ddp" if ranks > 1 else "auto")
    return evaluate(compose("asr/conformer_ctc", list(overrides)), weights, "dev", runtime)[1]


def on_ranks(count: int, function: Any, directory: Path, *arguments: Any, **options: Any) -> list[Any]:
    """Call a function of this module in ``count`` processes; return what each returned.

    Raises:
        Whatever one of them raised.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["rayconvai.train.fit", "rayconvai.asr.data", "rayconvai.asr.models.ctc"])
    directory.mkdir(parents=True, exist_ok=True)
    environment = dict(os.environ)  # the server, from which they come, has that of its own start
    results = [directory / f"result_{rank}.pt" for rank in range(count)]
    processes = [
        context.Process(
            target=_rank, args=(rank, count, port, environment, results[rank], function, arguments, options)
        )
        for rank in range(count)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    answers = [torch.load(path, weights_only=False) for path in results]
    for error in (answer for answer in answers if isinstance(answer, Exception)):
        raise error
    return answers


def _rank(
    rank: int, count: int, port: int, environment: Any, result: Path, function: Any, arguments: Any, options: Any
) -> None:
    # What torchrun sets.
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "GROUP_RANK": 0}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
    os.environ |= environment | {name: str(value) for name, value in (place | address).items()}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=count)
    try:
        answer = function(*arguments, **options)
    except Exception as error:  # noqa: BLE001 (for the test to raise)
        traceback.print_exc()
        answer = error
    torch.save(answer, result)
    dist.destroy_process_group()
