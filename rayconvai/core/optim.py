"""Optimizers by name: which there are, and how a config section becomes one.

A section names an optimizer and gives its options, ``{name: adamw, lr: 1e-3, betas: [0.9, 0.98]}``. Besides the
optimizer's own, each section whose optimizer decays weights takes ``decay_norm_and_bias`` (true): false spares norms,
biases and other vectors from the decay.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from rayconvai.core.adan import Adan
from rayconvai.core.build import Parameter
from rayconvai.core.muon import MuonAdamW
from rayconvai.core.novograd import Novograd
from rayconvai.core.options import check_options, find, options_of, params_dataclass, plain
from rayconvai.core.roles import hidden_matrices, norms_and_biases
from rayconvai.errors import ConfigError, nearest

__all__ = [
    "AVAILABLE_OPTIMIZERS",
    "Adan",
    "MuonAdamW",
    "Novograd",
    "build_optimizer",
    "check_optim",
    "get_optimizer",
    "parse_optimizer_args",
    "register_optimizer",
]

AVAILABLE_OPTIMIZERS: dict[str, type[Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adadelta": torch.optim.Adadelta,
    "adamax": torch.optim.Adamax,
    "adagrad": torch.optim.Adagrad,
    "rmsprop": torch.optim.RMSprop,
    "rprop": torch.optim.Rprop,
    "novograd": Novograd,
    "adafactor": torch.optim.Adafactor,
    "adan": Adan,
    "asgd": torch.optim.ASGD,
    "lbfgs": torch.optim.LBFGS,
    "muon": MuonAdamW,
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
    "sparseadam": torch.optim.SparseAdam,
}

_DECAY_KEY = "decay_norm_and_bias"


def get_optimizer(name: str, **kwargs: Any) -> partial[Optimizer]:
    """Return the optimizer's class with some of its arguments bound; call it with parameters.

    Raises:
        ConfigError: there is no optimizer of that name.
    """
    return partial(find(name, AVAILABLE_OPTIMIZERS, "optimizer"), **kwargs)


def register_optimizer(name: str, optimizer: type[Optimizer], optimizer_params: type[Any] | None = None) -> None:
    """Add an optimizer to those that a config can name.

    Args:
        name: what configs call it.
        optimizer: its class; the keywords of its signature are the keys of its section.
        optimizer_params: taken for the sake of NeMo's users and not needed.

    Raises:
        ConfigError: the name is taken.
    """
    if name in AVAILABLE_OPTIMIZERS:
        raise ConfigError(f"optimizer {name!r} exists already; choose another name")
    AVAILABLE_OPTIMIZERS[name] = optimizer


def parse_optimizer_args(optimizer_name: str, optimizer_kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the arguments that a section as NeMo's users write it gives an optimizer.

    Args:
        optimizer_name: the optimizer, where the section does not say.
        optimizer_kwargs: arguments, given back as they are; or, with ``name`` (a name, or ``auto`` for
            ``optimizer_name``) or ``_target_`` (the dotted name of its parameters: NovogradParams), arguments that are
            checked and completed with their defaults. They may stand under ``params``. None: no arguments.

    Raises:
        ConfigError: an unknown optimizer; an unknown key, which is OmegaConf's ConfigKeyError too.
    """
    section = plain(optimizer_kwargs or {})
    target, name = section.pop("_target_", None), section.pop("name", None)
    given = section.get("params", section)
    if target is None and name is None:
        return dict(given)
    if target is not None:
        by_params = {params_dataclass(cls).__name__: key for key, cls in AVAILABLE_OPTIMIZERS.items()}
        params_name = str(target).rpartition(".")[2]
        if params_name not in by_params:
            raise ConfigError(f"optimizer parameters {target!r} do not exist{nearest(params_name, by_params)}")
        name = by_params[params_name]
    elif name == "auto":
        name = optimizer_name
    cls = find(str(name).removesuffix("_params"), AVAILABLE_OPTIMIZERS, "optimizer")
    accepted = options_of(cls)
    defaults = {option.name: option.default for option in accepted.values() if not option.required}
    return {**defaults, **check_options(given, accepted, "optim", str(name))}


def check_optim(config: Mapping[str, Any]) -> None:
    """Check an ``optim`` section without a model.

    Raises:
        ConfigError: an unknown name or key, with the nearest; a wrong type or value.
    """
    optimizer, options = _resolve(config)
    options.pop(_DECAY_KEY, None)
    _make(optimizer, [nn.Parameter(torch.zeros(1, 1))], options)


def build_optimizer(config: Mapping[str, Any], module: nn.Module) -> Optimizer:
    """Make the optimizer that an ``optim`` section describes for the parameters of a module that are not frozen.

    Args:
        config: the section.
        module: the model. Of its parameters ``muon`` gives the hidden matrices to Muon and the rest to AdamW.

    Raises:
        ConfigError: as ``check_optim``, the optimizer refuses a value, or there is nothing for it to train.
    """
    optimizer, options = _resolve(config)
    decay_all = options.pop(_DECAY_KEY, True)
    trained = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    if not trained:
        raise ConfigError(f"optim: {type(module).__name__} has no parameters to train; unfreeze some")
    matrices = hidden_matrices(module) if issubclass(optimizer, MuonAdamW) else set()
    if issubclass(optimizer, MuonAdamW) and not any(name in matrices for name, _ in trained):
        raise ConfigError(f"optim.name: muon trains matrices, of which {type(module).__name__} has none; use adamw")
    spared = set() if decay_all else norms_and_biases(module)
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in trained:
        groups.setdefault((name in matrices, name in spared), []).append(parameter)
    node = []
    for (in_matrices, is_spared), members in sorted(groups.items(), key=lambda item: (not item[0][0], item[0][1])):
        group: dict[str, Any] = {"params": members}
        if is_spared:
            group["weight_decay"] = 0.0
        if issubclass(optimizer, MuonAdamW):
            group["algorithm"] = "muon" if in_matrices else "adamw"
        node.append(group)
    return _make(optimizer, node, options)


def _make(optimizer: type[Optimizer], params: list[Any], options: dict[str, Any]) -> Optimizer:
    try:
        return optimizer(params, **options)
    except ConfigError as error:
        raise ConfigError(f"optim: {error}") from error
    except (TypeError, ValueError) as error:
        raise ConfigError(f"optim: {optimizer.__name__} refuses {options}: {error}") from error


def _resolve(config: Mapping[str, Any]) -> tuple[type[Optimizer], dict[str, Any]]:
    """Return the class that a section names, and its options."""
    given = plain(config)
    name = given.pop("name", None)
    if name is None:
        raise ConfigError(f"optim.name is missing; it is one of {', '.join(AVAILABLE_OPTIMIZERS)}")
    optimizer = find(name, AVAILABLE_OPTIMIZERS, "optim.name")
    accepted = options_of(optimizer)
    if "weight_decay" in accepted:
        accepted |= {_DECAY_KEY: Parameter(_DECAY_KEY, bool, True)}
    return optimizer, check_options(given, accepted, "optim", name)
