"""The experiment manager's options: one dataclass, read as NeMo's users know it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from rayconvai.errors import ConfigError, nearest


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
    """Rank and keep the best at the end of every n-th epoch; None: of every epoch."""
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

    def __post_init__(self) -> None:
        if self.mode not in ("min", "max"):
            raise OptionError(f"checkpoint_callback_params.mode is {self.mode!r}; it must be min or max")
        if "://" in (self.dirpath or ""):
            raise OptionError("checkpoint_callback_params.dirpath is an address; for a bucket, set exp_manager.exp_dir")
        if self.save_top_k < -1:
            raise OptionError(f"checkpoint_callback_params.save_top_k is {self.save_top_k}; it must be -1 or more")
        for key in ("every_n_epochs", "every_n_train_steps"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise OptionError(f"checkpoint_callback_params.{key} is {value}; it must be 1 or more")


@dataclass(kw_only=True)
class ExpManagerConfig:
    """What ``exp_manager`` does for a run."""

    explicit_log_dir: str | None = None
    """The run's directory itself, or its address in a bucket; exp_dir, name and version are then left alone."""
    exp_dir: str | None = None
    """The run's directory is exp_dir/name/version; `runs` unless given. An address (s3://bucket/runs) puts it in a
    bucket: the run works in a copy in the cache, and what changes is sent while it trains."""
    name: str | None = None
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
    summary_writer_kwargs: dict[str, Any] | None = field(default_factory=dict)
    """Arguments of tensorboardX's SummaryWriter."""
    create_wandb_logger: bool = False
    wandb_logger_kwargs: dict[str, Any] | None = field(default_factory=dict)
    """Arguments of Lightning's WandbLogger and of wandb.init; the run's name is the project, its directory's name that
    of the W&B run, unless they are among them."""
    create_checkpoint_callback: bool = True
    checkpoint_callback_params: CheckpointParams = field(default_factory=CheckpointParams)
    create_preemption_callback: bool = True
    """On Ctrl-C or SIGTERM finish the batch, write a checkpoint, then stop."""
    files_to_copy: list[str] | None = field(default_factory=list)
    """Files to keep a copy of in the run's directory."""


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
