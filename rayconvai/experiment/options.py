"""The experiment manager's options: one dataclass, read as NeMo's users know it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import timedelta
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from rayconvai.errors import ConfigError, nearest
from rayconvai.places import is_address


class OptionError(ConfigError, OmegaConfBaseException):
    """An option that does not exist or has the wrong type; also what OmegaConf would raise, as NeMo's users expect."""


@dataclass(kw_only=True)
class CheckpointParams:
    """Which checkpoints are kept, and when they are written."""

    monitor: str = "val_loss"
    """The metric that ranks checkpoints."""
    mode: str = "min"
    """min: the smallest is the best; max: the largest."""
    save_top_k: int = 3
    """How many of the best are kept; -1 keeps all, 0 none."""
    save_last: bool = True
    """Keep the newest too: what an interrupted run goes on from."""
    every_n_epochs: int | None = 1
    """Rank and keep the best at the end of every n-th epoch; null: of every epoch."""
    every_n_train_steps: int | None = None
    """Besides, write the newest every n optimizer steps."""
    train_time_interval: str | None = None
    """Besides, write the newest whenever this much time has passed; days:hours:minutes:seconds."""
    dirpath: str | None = None
    """Where checkpoints go; the run's checkpoints/ unless given."""
    filename: str | None = None
    """Lightning's template of the name; `prefix--monitor=value-epoch=e-step=s` unless given."""
    prefix: str | None = None
    """How names begin; the run's name unless given."""
    verbose: bool = False
    """Say what becomes of each of the best."""

    def __post_init__(self) -> None:
        if self.mode not in ("min", "max"):
            raise OptionError(f"checkpoint_callback_params.mode is {self.mode!r}; it must be min or max")
        if is_address(self.dirpath or ""):
            raise OptionError("checkpoint_callback_params.dirpath is an address; for a bucket, set exp_manager.exp_dir")
        if self.save_top_k < -1:
            raise OptionError(f"checkpoint_callback_params.save_top_k is {self.save_top_k}; it must be -1 or more")
        for key in ("every_n_epochs", "every_n_train_steps"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise OptionError(f"checkpoint_callback_params.{key} is {value}; it must be 1 or more")


@dataclass(kw_only=True)
class EarlyStoppingParams:
    """When a run ends because it no longer gets better."""

    monitor: str = "val_loss"
    """The metric that is watched."""
    mode: str = "min"
    """min: smaller is better; max: larger is."""
    min_delta: float = 0.001
    """A change that is no larger does not count as better."""
    patience: int = 10
    """How often in a row the metric may be no better."""
    verbose: bool = True
    """Say when it gets better, and why the run ends."""
    strict: bool = True
    """A metric that is not there is an error."""
    check_finite: bool = True
    """End when the metric is NaN or infinite."""
    stopping_threshold: float | None = None
    """End as soon as the metric is better than this."""
    divergence_threshold: float | None = None
    """End as soon as the metric is worse than this."""
    check_on_train_epoch_end: bool | None = None
    """Look at the end of each epoch (true) or validation (false); chosen by how often is validated unless given."""
    log_rank_zero_only: bool = False
    """What verbose says, only the first of several processes says."""

    def __post_init__(self) -> None:
        if self.mode not in ("min", "max"):
            raise OptionError(f"early_stopping_callback_params.mode is {self.mode!r}; it must be min or max")
        if self.patience < 1:
            raise OptionError(f"early_stopping_callback_params.patience is {self.patience}; it must be 1 or more")


@dataclass(kw_only=True)
class EMAParams:
    """A moving average of the weights: what is validated, kept as the checkpoint's weights and becomes the artefact."""

    enable: bool = False
    """Keep the average."""
    decay: float = 0.999
    """The share of the old average in the new one."""
    every_n_steps: int = 1
    """The weights are averaged every n optimizer steps."""
    validate_original_weights: bool = False
    """Validate the weights that are trained instead of their average."""

    def __post_init__(self) -> None:
        if not 0 < self.decay < 1:
            raise OptionError(f"ema.decay is {self.decay}; it must be between 0 and 1")
        if self.every_n_steps < 1:
            raise OptionError(f"ema.every_n_steps is {self.every_n_steps}; it must be 1 or more")


@dataclass(kw_only=True)
class StepTimingParams:
    """How the time of a step is taken."""

    reduction: str = "mean"
    """What is logged of the last buffer_size steps: mean, min or max."""
    sync_cuda: bool = False
    """Wait for the GPU before each look at the clock: exact for a single step, and slower."""
    buffer_size: int = 1
    """How many training steps make one value."""

    def __post_init__(self) -> None:
        if self.reduction not in ("mean", "min", "max"):
            raise OptionError(f"step_timing_kwargs.reduction is {self.reduction!r}; it must be mean, min or max")
        if self.buffer_size < 1:
            raise OptionError(f"step_timing_kwargs.buffer_size is {self.buffer_size}; it must be 1 or more")


@dataclass(kw_only=True)
class ExpManagerConfig:
    """What ``exp_manager`` does for a run."""

    explicit_log_dir: str | None = None
    """The run's directory itself, or its address in a bucket; exp_dir, name and version are then left alone."""
    exp_dir: str | None = None
    """The run's directory is exp_dir/name/version; `runs` unless given. An address (s3://bucket/runs) puts it in a
    bucket: the run works in a copy in the cache, and what changes is sent while it trains."""
    name: str | None = None
    """`default` unless given; recipes give the run's."""
    version: str | int | None = None
    """With resume_if_exists, exp_dir/name is the directory unless a version is given."""
    use_datetime_version: bool = True
    """Name the version by the time of its start; else version_0, version_1 ..."""
    resume_if_exists: bool = False
    """Go on from the newest checkpoint in the run's directory."""
    resume_past_end: bool = False
    """Go on from a checkpoint that marks its run as finished (*end.ckpt)."""
    resume_ignore_no_checkpoint: bool = False
    """With resume_if_exists: start anew where there is no checkpoint, instead of failing."""
    resume_from_checkpoint: str | None = None
    """Go on from this checkpoint wherever it lies; a checkpoint of the run itself comes first."""
    create_tensorboard_logger: bool = True
    """Write TensorBoard's events into the run's directory."""
    summary_writer_kwargs: dict[str, Any] | None = field(default_factory=dict)
    """Arguments of tensorboardX's SummaryWriter."""
    create_wandb_logger: bool = False
    """Log to Weights & Biases; offline where there is no key or no server."""
    wandb_logger_kwargs: dict[str, Any] | None = field(default_factory=dict)
    """Arguments of Lightning's WandbLogger and of wandb.init; the run's name is the project, its directory's name that
    of the W&B run, unless they are among them."""
    create_mlflow_logger: bool = False
    """Log to MLflow. Needs the extra `mlflow`."""
    mlflow_logger_kwargs: dict[str, Any] | None = field(default_factory=dict)
    """Arguments of Lightning's MLFlowLogger; the run's name is the experiment, its directory's name that of the MLflow
    run, and its mlruns/ the store, unless they are among them (or MLFLOW_TRACKING_URI is set)."""
    create_csv_logger: bool = False
    """Write metrics.csv: the lines of metrics.jsonl as a table, anew at the end of each epoch and validation."""
    create_checkpoint_callback: bool = True
    """Write checkpoints."""
    checkpoint_callback_params: CheckpointParams = field(default_factory=CheckpointParams)
    create_early_stopping_callback: bool = False
    """End a run that no longer gets better."""
    early_stopping_callback_params: EarlyStoppingParams = field(default_factory=EarlyStoppingParams)
    create_preemption_callback: bool = True
    """On Ctrl-C or SIGTERM finish the batch, write a checkpoint, then stop."""
    max_time_per_run: str | None = None
    """Stop with a checkpoint before this much time has passed; days:hours:minutes:seconds. The run is not over: with
    resume_if_exists, the same command goes on with it."""
    ema: EMAParams = field(default_factory=EMAParams)
    log_step_timing: bool = False
    """Log the seconds that steps take: train_step_timing, validation_step_timing."""
    step_timing_kwargs: StepTimingParams = field(default_factory=StepTimingParams)
    log_grad_norm: bool = False
    """Log the norm of all gradients before they are clipped: grad_norm."""
    log_throughput: bool = False
    """Log steps and what the model says of its batches a second, over all processes (steps_per_second,
    audio_seconds_per_second, tokens_per_second ...), and where the device's peak is known, which share of it is used
    (mfu)."""
    files_to_copy: list[str] | None = field(default_factory=list)
    """Files to keep a copy of in the run's directory."""

    def __post_init__(self) -> None:
        duration("max_time_per_run", self.max_time_per_run)
        duration("checkpoint_callback_params.train_time_interval", self.checkpoint_callback_params.train_time_interval)
        if self.max_time_per_run and not (
            self.create_checkpoint_callback and self.checkpoint_callback_params.save_last
        ):
            raise OptionError(
                "max_time_per_run stops with a last checkpoint; set create_checkpoint_callback=true and "
                "checkpoint_callback_params.save_last=true"
            )


def duration(option: str, text: str | None) -> timedelta | None:
    """Read ``days:hours:minutes:seconds``.

    Raises:
        OptionError: it is something else.
    """
    if text is None:
        return None
    parts = text.split(":")
    if len(parts) != 4 or not all(part.isdigit() for part in parts):
        raise OptionError(f"{option} is {text!r}; write days:hours:minutes:seconds")
    days, hours, minutes, seconds = (int(part) for part in parts)
    return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)


def options(cfg: ExpManagerConfig | DictConfig | Mapping[str, Any] | None) -> ExpManagerConfig:
    """Check a config section against the options and fill in the defaults.

    Raises:
        OptionError: a key that does not exist, or a value of the wrong type.
    """
    schema = OmegaConf.structured(ExpManagerConfig)
    try:
        given = OmegaConf.structured(cfg) if is_dataclass(cfg) else OmegaConf.create(dict(cfg or {}))
        merged = OmegaConf.to_object(OmegaConf.merge(schema, given))
    except (ConfigKeyError, ConfigAttributeError) as error:
        raise OptionError(_unknown(error)) from error
    except OptionError:
        raise
    except OmegaConfBaseException as error:
        raise OptionError(f"exp_manager.{error.full_key}: {str(error).splitlines()[0]}") from error
    assert isinstance(merged, ExpManagerConfig)
    return merged


def _unknown(error: OmegaConfBaseException) -> str:
    owner = error.object_type if is_dataclass(error.object_type) else ExpManagerConfig
    key = str(error.key)
    return f"exp_manager has no option {error.full_key or key}{nearest(key, [f.name for f in fields(owner)])}"
