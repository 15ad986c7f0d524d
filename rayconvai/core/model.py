"""A model: modules composed into what one trains, saves and restores."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.trainer.states import TrainerFn
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau
from typing_extensions import Self

from rayconvai.core.artefact import read_artefact, write_artefact
from rayconvai.core.build import build
from rayconvai.core.module import NeuralModule
from rayconvai.core.optim import build_optimizer
from rayconvai.core.options import plain
from rayconvai.core.sample import Sample, Shelf
from rayconvai.core.schedules import lightning_schedule
from rayconvai.core.turns import Losses, Turns
from rayconvai.errors import ArtefactError, ConfigError, RayconvaiError, nearest, out_of_memory_is_infeasible

_log = logging.getLogger("rayconvai")


class Model(NeuralModule, LightningModule):  # in this order: NeuralModule says what freeze and unfreeze do
    """Base of all models.

    A model is given its parts (``__init__``) or builds them from config nodes (``from_config``), where sizes that
    follow from other parts are derived. Its constructor ends with ``self.check_graph()``.
    """

    metric_names: ClassVar[tuple[str, ...]] = ("train_loss", "val_loss")
    """What the model logs; what begins with ``test_``, only when it is tested."""
    usage: ClassVar[str] = ""
    """How ``python -m rayconvai`` uses an artefact of it: ``transcribe {} FILE.wav``; empty: not at all."""

    def __init__(self) -> None:
        super().__init__()
        self._optim: Mapping[str, Any] | None = None
        self._schedule: Mapping[str, Any] | None = None
        self._shelves: dict[str, Shelf] = {}
        self.keeps_samples = True
        """Whether ``keep_samples`` does."""
        self.kept_samples: dict[str, list[Sample]] = {}
        """Of the last validation (``val``) and test (``test``): the worst first."""
        self._turns = Turns()

    @classmethod
    @abstractmethod
    def from_config(cls, **nodes: Any) -> Self:
        """Build the parts from their config nodes, deriving each size from the part that sets it, and the model."""

    @abstractmethod
    def check_graph(self) -> None:
        """Check that every port of every module is fed with its own type, without a tensor.

        Raises:
            GraphError: naming the module, the port and both types.
        """

    def save_assets(self, directory: Path) -> None:
        """Write what the model needs besides weights and config, a tokenizer say, into ``directory``."""

    @classmethod
    def load_assets(cls, directory: Path) -> dict[str, Any]:
        """Read what ``save_assets`` wrote: the arguments that ``from_config`` takes besides the config nodes."""
        return {}

    @classmethod
    def unlogged(cls, metric: str) -> str:
        """Say why nothing can be ranked by a metric; empty if the model logs it in training."""
        names = cls.ranking_names()
        if metric in names:
            return ""
        return f"is not logged by {cls.__name__} in training{nearest(metric, names)}; it logs: {', '.join(names)}"

    @classmethod
    def ranking_names(cls) -> list[str]:
        """Return the metrics that a training logs: checkpoints and trials can be ranked by one of them."""
        return [name for name in cls.metric_names if not name.startswith("test_")]

    def report(self) -> dict[str, Any]:
        """Return what an artefact's card says of the last measurement besides the metrics: figures of each class."""
        return {}

    def seen(self, batch: Any) -> Mapping[str, int | float | Tensor]:
        """Return how much a training batch holds, by unit (``audio_seconds``, ``tokens``), for the cost of a trial.

        Called for each batch: a tensor may stay on its device, so that nobody waits for it.
        """
        return {}

    def dry_step(self, batch: Any) -> Any:
        """Compute a loss as ``training_step`` does, from tensors without values: what it takes is then known.

        A model whose training step looks at values leaves that part out here.
        """
        return self.training_step(batch, 0)

    def trained_parts(self) -> Sequence[nn.Module]:
        """Return the parts that train, each with an optimizer and a schedule of its own (of the same sections), in the
        order in which they step. In a model with more than one, ``training_step`` calls ``take_turns``."""
        return (self,)

    def take_turns(self, batch: Any, count: int, *losses: Losses | None) -> None:
        """Let each of the ``trained_parts`` learn from a batch by its own loss, one after the other, and log them.

        Args:
            batch: of the training.
            count: its utterances.
            losses: for each part, what computes its loss and whatever else is logged of a batch (see ``Losses``); it
                sees the parts before as they are after their step, and only its own part takes gradients. None: the
                part does not step.
        """
        self._turns.take(self, batch, count, losses)

    def configure_model(self) -> None:
        """Divide the weights among the ranks, where the strategy is FSDP2, and let normalisation go over all ranks,
        where the trainer says so (Lightning calls this before it makes the optimizers)."""
        if self.trainer.state.fn == TrainerFn.FITTING and len(self.trained_parts()) > 1:
            if self._device_mesh is not None:
                raise ConfigError(
                    f"trainer.strategy is fsdp2, and {type(self).__name__} has several optimizers, whose weights are "
                    "not sharded; set trainer.strategy=ddp"
                )
            # From here on: Lightning would refuse to begin, as it leaves clipping and accumulation to such a model.
            self.automatic_optimization = False
            if isinstance(self.trainer.strategy, DDPStrategy):
                self.trainer.strategy._ddp_kwargs["find_unused_parameters"] = True  # each loss has a part's alone
        if self._device_mesh is not None and self.trainer.state.fn == TrainerFn.FITTING:
            self._shard(self._device_mesh["data_parallel"])
        synchronized = getattr(self.trainer.strategy, "_layer_sync", None) is not None
        # DDP would send these, too, from the first rank to all others at each step.
        constants = {name for name, _ in self.named_buffers()} - set(self.state_dict())
        ignore: Any = DistributedDataParallel._set_params_and_buffers_to_ignore_for_model
        ignore(self, sorted(constants))
        for module in self.modules():
            if hasattr(module, "over_ranks"):
                vars(module)["over_ranks"] = synchronized

    def teardown(self, stage: str) -> None:
        """Be ready to be fitted again (Lightning calls this at the end)."""
        self.automatic_optimization = True

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip the gradients where Lightning does not (Lightning calls this)."""
        if not self.automatic_optimization:
            self.clip_gradients(optimizer, self.trainer.gradient_clip_val, self.trainer.gradient_clip_algorithm)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Weight the mean loss of a batch by its share of the optimizer step (Lightning calls this).

        The gradient is then that of the mean over all utterances of the step, however they are split over ranks and
        batches. (What ``training_step`` returns must be a mean over the utterances of its batch.)
        """
        share = self._share()
        if share is not None and share.of_step != 1:
            loss = loss * share.of_step
        super().backward(loss, *args, **kwargs)

    def log_training_mean(self, name: str, mean: Tensor, count: int) -> None:
        """Log the mean over the ``count`` utterances of a training batch, by step and epoch: what is logged is the mean
        over all ranks' utterances."""
        if self.trainer.world_size > 1:
            # Not by sync_dist, which lets all ranks wait for one another twice.
            sums = torch.stack([mean.detach() * count, mean.new_tensor(count)])
            dist.all_reduce(sums)
            share = self._share()
            mean, count = sums[0] / sums[1], int(sums[1]) if share is None else share.beside
        self.log(name, mean, batch_size=count, on_step=True, on_epoch=True, prog_bar=True)

    def log_evaluation_mean(self, name: str, value: Any, count: int, *, prog_bar: bool = False) -> None:
        """Log the mean over the ``count`` utterances of a batch that is evaluated, or a metric that keeps its own
        state: what is logged is that of all batches and ranks."""
        # Lightning takes the mean of these over the ranks as a whole number, so they must divide by the ranks.
        size = count * self.trainer.world_size
        self.log(name, value, batch_size=size, sync_dist=isinstance(value, Tensor), prog_bar=prog_bar)

    def keep_samples(self, stage: str, samples: Iterable[Sample]) -> None:
        """Show what was made of the examples of a batch, of which the best and the worst few are kept.

        ``validation_step`` calls this with ``val``, ``test_step`` with ``test``. Each rank keeps those of its own
        share; the loggers get those of the first.
        """
        if self.keeps_samples:
            self._shelves.setdefault(stage, Shelf()).add(samples)

    def on_validation_epoch_end(self) -> None:
        self._show_samples("val")

    def on_test_epoch_end(self) -> None:
        self._show_samples("test")

    def _show_samples(self, stage: str) -> None:
        kept = self._shelves.setdefault(stage, Shelf()).take()
        if self.trainer.sanity_checking:
            return
        self.kept_samples[stage] = kept
        if not kept or not self.trainer.is_global_zero:
            return
        for sample in kept if stage == "val" else ():
            if sample.texts:
                texts = ", ".join(f"{name} {text!r}" for name, text in sample.texts.items())
                _log.info("epoch %d: %s: %s", self.current_epoch + 1, sample.where, texts)
        for logger in self.loggers:
            if hasattr(logger, "log_samples"):
                logger.log_samples(kept, self.global_step)

    def _shard(self, mesh: Any) -> None:
        # What has weights and a forward of its own: the parts of the model, and the blocks in them.
        blocks = [block for part in self.modules() if isinstance(part, nn.ModuleList) for block in part]
        units = {*blocks, *self.children()}
        for module in reversed(list(self.modules())):  # the inner ones first
            if module in units and any(True for _ in module.parameters()):
                fully_shard(module, mesh=mesh)

    def _share(self) -> Any:
        return self._turns.share or getattr(self.trainer.train_dataloader, "share", None)  # others do not know it

    def set_optimization(self, optim: Mapping[str, Any], schedule: Mapping[str, Any] | None) -> None:
        """Choose the optimizer and the learning-rate schedule for training: their config sections."""
        self._optim, self._schedule = optim, schedule

    @property
    def optimization(self) -> dict[str, Any]:
        """The config sections of optimizer and schedule; None where there is none."""
        sections = {"optim": self._optim, "schedule": self._schedule}
        return {name: None if section is None else plain(section) for name, section in sections.items()}

    def configure_optimizers(self) -> Any:
        """Make the optimizers, and their schedules over all steps that the trainer will take (Lightning calls this).

        Raises:
            ConfigError: a schedule is asked for and the number of steps is not known, or the trainer's limits do not
                fit the data.
        """
        if self._optim is None:
            raise ConfigError("the model has no optimizer: call set_optimization(optim, schedule) before fit")
        optimizers = [build_optimizer(self._optim, part) for part in self.trained_parts()]
        try:
            self.trainer.fit_loop.setup_data()  # a run measured in steps alone has not counted its batches yet
        except (MisconfigurationException, ValueError) as error:
            if isinstance(error, RayconvaiError):
                raise
            raise ConfigError(f"trainer: Lightning refuses it: {' '.join(str(error).split())}") from error
        if self._schedule is None:
            return optimizers
        max_steps = self.trainer.estimated_stepping_batches
        if max_steps == float("inf"):
            raise ConfigError("a schedule needs an end: set trainer.max_epochs or trainer.max_steps, or schedule=none")
        steps_per_epoch = max(1, int(self.trainer.num_training_batches) // self.trainer.accumulate_grad_batches)
        return optimizers, [self._lightning_schedule(one, int(max_steps), steps_per_epoch) for one in optimizers]

    def _lightning_schedule(self, optimizer: Optimizer, max_steps: int, steps_per_epoch: int) -> dict[str, Any]:
        assert self._schedule is not None
        made = lightning_schedule(self._schedule, optimizer, max_steps=max_steps, steps_per_epoch=steps_per_epoch)
        if self.automatic_optimization:
            return made
        if isinstance(made["scheduler"], ReduceLROnPlateau):
            raise ConfigError(
                f"schedule.name is ReduceLROnPlateau, which goes by a metric; {type(self).__name__} has several "
                "optimizers, whose schedules go by steps: take another"
            )
        return {key: made[key] for key in ("scheduler", "interval", "frequency")}

    def save_to(
        self,
        save_path: str | Path,
        card: Mapping[str, Any] | None = None,
        extras: Callable[[Path], None] | None = None,
    ) -> Path:
        """Write the model as an artefact: a directory with weights, config, assets and card.

        Args:
            save_path: the directory; made, or replaced if it is an artefact.
            card: what is known of the model: metrics, data, provenance.
            extras: writes further files into a directory that it is given; they too have their checksums in the card.

        Raises:
            ArtefactError: the model was not built from a config, or the directory holds something else.
            StorageError: the directory cannot be written.
        """
        if self._cfg is None:
            raise ArtefactError(
                f"{type(self).__name__} was not built from a config, so an artefact could not build it again; "
                "make it with build_model(config.model, ...)"
            )
        return write_artefact(Path(save_path), self, config=_container(self._cfg), card=card or {}, extras=extras)

    @classmethod
    def restore_from(
        cls,
        restore_path: str | Path,
        override_config_path: str | Path | DictConfig | None = None,
        map_location: torch.device | str | None = None,
        strict: bool = True,
        return_config: bool = False,
    ) -> Any:
        """Build the model that an artefact holds and load its weights; nothing in it is unpickled or run.

        Args:
            restore_path: the artefact's directory.
            override_config_path: a config (or its file) to build from instead of the artefact's own.
            map_location: the device of the weights; the CPU unless given.
            strict: every weight must have its place.
            return_config: give the config that the artefact holds instead of the model.

        Raises:
            ArtefactError: a damaged or tampered artefact, or one that names a class it may not.
        """
        artefact = read_artefact(Path(restore_path))
        if return_config:
            return OmegaConf.create(artefact.config)
        config = artefact.config
        if override_config_path is not None:
            override = override_config_path
            node = override if isinstance(override, DictConfig) else OmegaConf.load(override)
            config = _container(node)
        model_class = artefact.model_class(config)
        if not issubclass(model_class, cls):
            raise ArtefactError(f"{restore_path} holds a {model_class.__name__}, not a {cls.__name__}")
        with out_of_memory_is_infeasible():
            model = build_model(config, **model_class.load_assets(artefact.assets))
            artefact.load_weights(model, strict=strict)
        return model.to(map_location or "cpu").eval()


def build_model(node: DictConfig | Mapping[str, Any], **assets: Any) -> Model:
    """Build the model that a config node describes, remembering the node so that the model can be saved.

    Args:
        node: the config's ``model`` section.
        assets: what the model takes besides, a tokenizer say.

    Raises:
        ConfigError: the node cannot be built, or is not a model.
        GraphError: its modules do not fit together.
    """
    model = build(node, **assets)
    if not isinstance(model, Model):
        raise ConfigError(f"model._target_ is {type(model).__name__}, which is not a rayconvai Model")
    model._cfg = OmegaConf.create(_container(node))
    return model


def _container(node: DictConfig | ListConfig | Mapping[str, Any]) -> dict[str, Any]:
    # A DictConfig knows the config around it, which its interpolations may point into.
    section = node if isinstance(node, (DictConfig, ListConfig)) else OmegaConf.create(dict(node))
    config = OmegaConf.to_container(section, resolve=True)
    assert isinstance(config, dict)
    return {str(key): value for key, value in config.items()}
