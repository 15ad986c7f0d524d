"""The sections of a run's config: every key that exists, with its default.

``trainer`` keeps the names and defaults of ``lightning.Trainer``; what the experiment manager makes (loggers,
checkpoints) and what the place of the run decides (progress bars, plugins) is not in it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rayconvai.experiment.manager import ExpManagerConfig


@dataclass(kw_only=True)
class TrainerConfig:
    """The training loop: arguments of ``lightning.Trainer``, which documents them."""

    accelerator: str = "auto"
    strategy: str = "auto"
    """Lightning's names; ``fsdp2`` divides weights, gradients and optimizer states among the processes."""
    devices: Any = "auto"
    """A number of devices, a list of their indices, or ``auto``."""
    num_nodes: int = 1
    precision: int | str | None = None
    """``32-true`` unless given; ``bf16-mixed`` is the usual choice on GPUs."""
    max_epochs: int | None = None
    min_epochs: int | None = None
    max_steps: int = -1
    min_steps: int | None = None
    max_time: str | None = None
    """DD:HH:MM:SS."""
    limit_train_batches: int | float | None = None
    """A number of batches, or a share of them."""
    limit_val_batches: int | float | None = None
    limit_test_batches: int | float | None = None
    limit_predict_batches: int | float | None = None
    overfit_batches: int | float = 0.0
    fast_dev_run: int | bool = False
    val_check_interval: int | float | str | None = None
    check_val_every_n_epoch: int | None = 1
    num_sanity_val_steps: int | None = None
    log_every_n_steps: int | None = None
    accumulate_grad_batches: int = 1
    gradient_clip_val: int | float | None = None
    gradient_clip_algorithm: str | None = None
    deterministic: bool | str | None = None
    """True, False, or ``warn``."""
    benchmark: bool | None = None
    inference_mode: bool = True
    profiler: str | None = None
    detect_anomaly: bool = False
    barebones: bool = False
    sync_batchnorm: bool = False
    reload_dataloaders_every_n_epochs: int = 0

    def __post_init__(self) -> None:
        """What Lightning takes without a word and then breaks on, or never trains."""
        least = {"accumulate_grad_batches": 1, "check_val_every_n_epoch": 1, "gradient_clip_val": 0}
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and not value >= low:
                raise ValueError(f"{name} is {value}; it must be {low} or more")
        if self.limit_train_batches == 0:
            raise ValueError("limit_train_batches is 0, which leaves nothing to train on")


_PLACEMENTS = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")


@dataclass(kw_only=True)
class ResourcesConfig:
    """What a run takes. With one worker it runs in this process; with more, each is a Ray Train worker of its own."""

    workers: Any = 1
    """Processes that train together, each on its share of every step's data. ``{min: 2, max: 8}``: as many as there
    are; the run goes on with those that are left when a node dies, and takes in others that come."""
    cpus: float = 1
    """Of each worker."""
    gpus: float = 0
    """Of each worker; 1 where it is to train on a GPU."""
    custom: dict[str, float] = field(default_factory=dict)
    """Of each worker: other resources that the cluster's nodes were started with."""
    accelerator_type: str | None = None
    """Workers go to nodes with such GPUs only; Ray's names: ``A100``, ``H100``."""
    placement: str = "PACK"
    """``PACK``: on as few nodes as will do; ``SPREAD``: on as many as there are; ``STRICT_PACK`` and ``STRICT_SPREAD``:
    or not at all."""
    retries: int = 3
    """How often workers that died are started again; pre-emptions do not count."""
    global_batch: str = "keep"
    """With ``{min, max}``: ``keep`` accumulates gradients, so that a step sees as much data as with ``max`` workers
    (nearly, where their number does not divide it); ``scale`` lets a step see as much as there are workers for."""

    def __post_init__(self) -> None:
        for name, choices in {"placement": _PLACEMENTS, "global_batch": ("keep", "scale")}.items():
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(f"{name} is {value}; it must be one of {', '.join(choices)}")
        for name in ("cpus", "gpus", "retries"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more")
        for name, amount in self.custom.items():
            if amount <= 0 or name in ("CPU", "GPU"):
                fix = f"say it in resources.{name.lower()}s" if name in ("CPU", "GPU") else "it must be above 0"
                raise ValueError(f"custom: {name} is {amount}; {fix}")
        if not self.of_a_worker():
            raise ValueError("cpus is 0, and a worker has nothing else either; it must be above 0, or gpus")
        most = self._numbers()[1]
        if self.accelerator_type and not self.gpus:
            raise ValueError(f"accelerator_type is {self.accelerator_type}, but gpus is 0; set resources.gpus=1")
        if most > 1 and self.gpus != int(self.gpus):
            raise ValueError(f"gpus is {self.gpus}; {self.workers} workers need a whole number of GPUs each")

    @property
    def least(self) -> int:
        """The fewest workers that train."""
        return self._numbers()[0]

    @property
    def most(self) -> int:
        return self._numbers()[1]

    @property
    def is_elastic(self) -> bool:
        return isinstance(self.workers, dict)

    @property
    def has_workers(self) -> bool:
        """Whether training goes on in workers, not in the process that asks for it."""
        return self.is_elastic or self.most > 1

    def of_a_worker(self) -> dict[str, float]:
        """Return what each worker takes, in Ray's names."""
        given = {"CPU": self.cpus, "GPU": self.gpus, **self.custom}
        if self.accelerator_type:
            given[f"accelerator_type:{self.accelerator_type}"] = 0.001  # nodes with them have 1, as a mark
        return {name: amount for name, amount in given.items() if amount}

    def _numbers(self) -> tuple[int, int]:
        workers = self.workers
        is_pair = isinstance(workers, dict) and set(workers) == {"min", "max"}
        least, most = (workers["min"], workers["max"]) if is_pair else (workers, workers)
        if type(least) is not int or type(most) is not int:
            raise ValueError(f"workers is {workers}; it must be a number, or {{min: 2, max: 8}}")
        if least < 1 or most < least:
            raise ValueError(f"workers is {workers}; it must be 1 or more{', max no less than min' * is_pair}")
        return least, most


@dataclass(kw_only=True)
class AugmentConfig:
    """What is done to training examples; a recipe passes both parts to the data and the model by interpolation."""

    waveform: list[Any] = field(default_factory=list)
    """Steps on the sound, in order: nodes of ``rayconvai.data.augment``."""
    features: Any = None
    """A module on the features, such as SpecAugment, or null."""


@dataclass(kw_only=True)
class RunConfig:
    """All of a run. Sections typed ``Any`` are nodes: their keys are the parameters of what they build."""

    name: str = "run"
    """Names the run's directory."""
    seed: int = 0
    packages: list[str] = field(default_factory=list)
    """Packages, besides the built-in ones, whose classes ``_target_`` may name."""
    model: Any = None
    tokenizer: Any = None
    data: Any = None
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: Any = None
    """``name`` of an optimizer and its arguments."""
    schedule: Any = None
    """``name`` of a learning-rate schedule and its arguments; null keeps the rate constant."""
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    resources: ResourcesConfig = field(default_factory=ResourcesConfig)
    exp_manager: ExpManagerConfig = field(default_factory=ExpManagerConfig)
    artefact: bool = True
    """At the end of a single run, test its best checkpoint and write it as an artefact into the run's directory."""
    samples: bool = True
    """Keep the best and the worst examples of dev and test, their texts and sounds and what the model made of them, in
    the run's directory, its logs and its artefact. ``false``: the data must not go where those go."""
