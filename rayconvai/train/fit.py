"""The only training path: a config becomes data, a tokenizer, a model and a trainer, and is fitted."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, ListConfig, OmegaConf

from rayconvai.config.compose import check, interpolations
from rayconvai.core.build import build
from rayconvai.core.data_module import DataModule
from rayconvai.core.model import Model, build_model
from rayconvai.errors import ConfigError, out_of_memory_is_infeasible
from rayconvai.experiment.interrupt import Interrupted
from rayconvai.experiment.layout import RunLayout, write_atomically
from rayconvai.experiment.manager import close, exp_manager
from rayconvai.experiment.mirror import lasting
from rayconvai.experiment.provenance import record
from rayconvai.experiment.storage import AtomicCheckpointIO
from rayconvai.experiment.weights import check_weights
from rayconvai.train.runtime import Runtime
from rayconvai.train.sharding import FSDP2Strategy


@dataclass(frozen=True)
class FitResult:
    """What a run leaves behind."""

    config: DictConfig
    run_dir: Path
    metrics: dict[str, float]
    """The last value of each metric."""
    best_checkpoint: Path | None
    """None where no checkpoint was asked for."""


def process_rank() -> int:
    """Return this process's number among those of the run; the first writes and speaks for all."""
    return int(getattr(rank_zero_only, "rank", 0))


@out_of_memory_is_infeasible()
def fit(config: DictConfig, runtime: Runtime | None = None) -> FitResult:
    """Train the model that ``config`` describes, in the place that ``runtime`` names.

    Everything that can be wrong is found before the first step: the config's keys and types, the data, the fit of the
    model's modules, the directory.

    Raises:
        ConfigError, DataError, GraphError, CheckpointError, StorageError: what is wrong, where, and the fix.
        InfeasibleError: the loss became NaN or infinite, or there is too little memory.
    """
    runtime = runtime or Runtime()
    check(config)
    trainer = make_trainer(config, runtime)
    model, data = build_parts(config)
    data.most_ranks = runtime.most_workers
    check_monitor(config, model)
    model.set_optimization(config.optim, config.schedule)
    section = config.exp_manager
    if runtime.run_dir is not None:
        section = OmegaConf.merge(section, {"explicit_log_dir": str(runtime.run_dir)})
    if runtime.go_on:
        section = OmegaConf.merge(section, {"resume_if_exists": True, "resume_ignore_no_checkpoint": True})
    layout = RunLayout(exp_manager(trainer, section))
    try:
        if runtime.run_dir is None:  # who names a directory, a sweep say, knows whose it is
            check_same_run(layout, config, trainer.ckpt_path)
        if trainer.is_global_zero:
            write_atomically(layout.config, OmegaConf.to_yaml(config, resolve=True))
            write_atomically(layout.overrides, OmegaConf.to_yaml(OmegaConf.create(list(runtime.overrides))))
            facts = {"seed": config.seed, "data": data.fingerprint(), "parameters": model.num_weights}
            record(layout, **facts, interpolations=interpolations(config), **runtime.facts)
            resolved: Any = OmegaConf.to_container(config, resolve=True)
            for logger in trainer.loggers:
                logger.log_hyperparams(resolved)
        trainer.fit(model, datamodule=data)
    except Interrupted as stop:
        stop.run_dir = lasting(layout.root)
        raise
    finally:
        close(trainer)
    logged = trainer.callback_metrics
    repeated = {name + suffix for name in logged for suffix in ("_step", "_epoch")}  # by Lightning
    metrics = {name: float(value) for name, value in logged.items() if name not in repeated}
    return FitResult(config, layout.root, metrics, best_checkpoint(trainer))


def evaluate(
    config: DictConfig,
    weights: Path | Mapping[str, torch.Tensor],
    split: str = "test",
    runtime: Runtime | None = None,
) -> tuple[Model, dict[str, float]]:
    """Build the run's model, load weights (a checkpoint's, by its path) and measure it on ``dev`` or ``test``.

    Raises:
        CheckpointError: the checkpoint is damaged, or of another model.
    """
    model, data = build_parts(config)
    found = AtomicCheckpointIO().load_checkpoint(weights)["state_dict"] if isinstance(weights, Path) else weights
    if isinstance(weights, Path):
        check_weights(model, found, weights)
    model.load_state_dict(found)
    trainer = make_trainer(config, runtime or Runtime())
    evaluation = {"dev": trainer.validate, "test": trainer.test}[split]
    measured = evaluation(model, datamodule=data, verbose=False)
    metrics: Mapping[str, Any] = measured[0] if measured else {}  # the config may limit it to no batch at all
    return model, {name: float(value) for name, value in metrics.items()}


def build_parts(config: DictConfig) -> tuple[Model, DataModule]:
    """Seed all generators and build, in their order, the data, the tokenizer and the model."""
    seed_everything(config.seed, workers=True, verbose=False)
    data = build(config.data, seed=config.seed)
    if not isinstance(data, DataModule):
        raise ConfigError(f"data._target_ is {type(data).__name__}, which is not a rayconvai DataModule")
    data.prepare()
    assets = data.assets()
    if config.tokenizer is not None:
        assets["tokenizer"] = build(config.tokenizer, texts=data.texts())
    model = build_model(config.model, **assets)
    model.keeps_samples = config.samples
    data.bind(model)
    return model, data


def best_checkpoint(trainer: Trainer) -> Path | None:
    """Return the best checkpoint that the trainer kept, or the last where nothing was monitored."""
    callback: Any = trainer.checkpoint_callback
    path = callback and (callback.best_model_path or callback.last_model_path)
    return Path(path) if path else None


def check_monitor(config: DictConfig, model: Model) -> None:
    """Check that the model logs what its checkpoints are to be ranked by, and what is to end it early; the training
    would find out at its end.

    Raises:
        ConfigError: it does not; with the nearest name.
    """
    for callback in ("checkpoint", "early_stopping"):
        section = f"{callback}_callback_params"
        monitor = config.exp_manager[section].monitor
        unlogged = model.unlogged(monitor)
        if config.exp_manager[f"create_{callback}_callback"] and unlogged and monitor not in ("epoch", "step"):
            raise ConfigError(f"exp_manager.{section}.monitor is {monitor}, which {unlogged} (its metric_names)")


def check_same_run(layout: RunLayout, config: DictConfig, checkpoint: str | Path | None) -> None:
    """Check that a run that goes on from a checkpoint of its own directory is the run that the directory belongs to:
    of the same classes, tokenizer and corpus. All else may change; what changes the shape of weights is found when they
    are loaded.

    Raises:
        ConfigError: it is another run, with what differs.
    """
    if checkpoint is None or layout.root not in Path(checkpoint).parents or not layout.config.is_file():
        return
    before, now = _identity(OmegaConf.load(layout.config)), _identity(config)
    differ = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if differ:
        said = [f"{key} is {before.get(key, 'not set')} there and {now.get(key, 'not set')} here" for key in differ]
        more = f" and {len(said) - 2} more" if len(said) > 2 else ""
        raise ConfigError(
            f"{layout.root} belongs to another run: {', '.join(said[:2])}{more}. Give another exp_manager.name, in "
            f"which exp_manager.resume_from_checkpoint={checkpoint} may go on from it, or move the directory away"
        )


def _identity(config: DictConfig | ListConfig) -> dict[str, Any]:
    """Return what makes a run another one, by dotted key."""
    plain: Any = OmegaConf.to_container(config, resolve=True)
    found = {}
    for section in ("model", "tokenizer", "data"):
        for key, value in _leaves(section, plain[section]):
            if section == "tokenizer" or key.endswith("._target_") or key.startswith("data.corpus."):
                found[key] = value
    return found


def _leaves(name: str, node: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _leaves(f"{name}.{key}", value)
    else:
        yield name, node


def make_trainer(config: DictConfig, runtime: Runtime) -> Trainer:
    """Make the trainer of a run.

    Raises:
        ConfigError: Lightning refuses its arguments.
    """
    options: Any = OmegaConf.to_container(config.trainer, resolve=True)
    place = {"accelerator": runtime.accelerator, "devices": runtime.devices, "strategy": runtime.strategy}
    options |= {name: value for name, value in place.items() if value is not None}
    options["accumulate_grad_batches"] = runtime.accumulate * options.get("accumulate_grad_batches", 1)
    if options.get("strategy") == "fsdp2":
        options["strategy"] = FSDP2Strategy()
    # Our matrices are small or bf16: on GPUs that have TF32 its extra speed costs no accuracy that a WER shows.
    torch.set_float32_matmul_precision("high")
    warnings.filterwarnings("ignore", "It is recommended to use `self.log", UserWarning)  # ours is, without sync_dist
    warnings.filterwarnings("ignore", r"`isinstance\(treespec", FutureWarning)  # Lightning's own affair
    try:
        with _without_banner():
            trainer = Trainer(
                **options,
                logger=False,  # the experiment manager makes loggers and checkpoints
                enable_checkpointing=False,
                use_distributed_sampler=False,  # our samplers split over ranks themselves, exactly
                enable_progress_bar=runtime.progress,
                enable_model_summary=runtime.progress,
                callbacks=list(runtime.callbacks),
                plugins=list(runtime.plugins) or None,
            )
    except Exception as error:  # it has no one kind of error for arguments that it cannot take
        raise ConfigError(f"trainer: Lightning refuses it: {' '.join(str(error).split())}") from error
    check_precision(str(options.get("precision")), on_cpu=isinstance(trainer.accelerator, CPUAccelerator))
    return trainer


def check_precision(precision: str, *, on_cpu: bool) -> None:
    """Check that this machine's device has a precision, for which Lightning would take another without a word.

    Raises:
        ConfigError: it has not.
    """
    if on_cpu and precision in ("16", "16-mixed", "16-true"):
        raise ConfigError(f"trainer.precision is {precision}, which CPUs lack; take bf16-mixed, or a GPU")
    if not on_cpu and precision.startswith("bf16") and not torch.cuda.is_bf16_supported(including_emulation=False):
        name = torch.cuda.get_device_name()
        raise ConfigError(f"trainer.precision is {precision}, which {name} lacks; take 16-mixed")


@contextmanager
def _without_banner() -> Iterator[None]:
    """Keep Lightning from naming devices and products: the terminal is for what this run has to say."""
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
