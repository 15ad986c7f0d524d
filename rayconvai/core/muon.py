"""Muon for the hidden matrices of a network and AdamW for the rest, as one optimizer.

Muon orthogonalises the momentum of a matrix, which has a meaning for weights that map hidden states to hidden states
only. Embeddings, the output head, convolutions, norms and biases keep AdamW.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

from rayconvai.errors import ConfigError


@dataclass(kw_only=True)
class MuonParams:
    """Options of MuonAdamW: Muon's own, and with ``adamw_`` those of the AdamW that trains the rest."""

    lr: float = 1e-3
    weight_decay: float = 0.1
    momentum: float = 0.95
    nesterov: bool = True
    ns_steps: int = 5
    """Newton-Schulz iterations of the orthogonalisation."""
    eps: float = 1e-7
    adjust_lr_fn: Literal["match_rms_adamw", "original", "spectral_unclamped"] = "match_rms_adamw"
    """How the step of a matrix depends on its shape. With the default its root mean square is AdamW's, so that rates
    found for AdamW hold (arXiv 2502.16982); ``original`` is Jordan's, with rates around 0.02."""
    adamw_lr: float | None = None
    """None: ``lr``."""
    adamw_betas: tuple[float, float] = (0.9, 0.95)
    adamw_eps: float = 1e-8
    adamw_weight_decay: float | None = None
    """None: ``weight_decay``."""

    def muon(self) -> dict[str, Any]:
        """Return the arguments of torch's Muon."""
        names = ("lr", "weight_decay", "momentum", "nesterov", "ns_steps", "eps", "adjust_lr_fn")
        return {name: getattr(self, name) for name in names}

    def adamw(self) -> dict[str, Any]:
        """Return the arguments of torch's AdamW."""
        return {
            "lr": self.lr if self.adamw_lr is None else self.adamw_lr,
            "betas": self.adamw_betas,
            "eps": self.adamw_eps,
            "weight_decay": self.weight_decay if self.adamw_weight_decay is None else self.adamw_weight_decay,
        }


class MuonAdamW(Optimizer):
    """torch's Muon and AdamW over one set of parameter groups and one state.

    Each group says which of the two steps it, under ``algorithm``; all else that works on optimizers (schedules,
    gradient scalers, checkpoints, clipping) sees ordinary groups. Groups that are added later go to AdamW unless they
    say otherwise.

    Args:
        params: parameters, of which the matrices go to Muon, or groups with their ``algorithm``.
        lr: the learning rate of Muon.
        options: the other keys of MuonParams.

    Raises:
        ConfigError: an option out of its range, or a group for Muon with other than matrices.
    """

    params_class: ClassVar[type[MuonParams]] = MuonParams

    def __init__(self, params: Any, lr: float = 1e-3, **options: Any) -> None:
        settings = MuonParams(lr=lr, **options)
        try:
            self._parts = _make_parts(settings)
        except ValueError as error:
            raise ConfigError(f"muon: {error}") from error
        defaults = {name: part.defaults for name, part in self._parts.items()}
        groups = [{**defaults[group["algorithm"]], **group} for group in _split_by_shape(params)]
        super().__init__(groups, {**defaults["adamw"], "algorithm": "adamw"})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update each parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for name, part in self._parts.items():
            # load_state_dict makes new groups and a new state, so they are handed over at each step.
            part.state = self.state
            part.param_groups = [group for group in self.param_groups if group["algorithm"] == name]
            part.step()
        return loss

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._parts = _make_parts(MuonParams())  # all options are in the groups


def _make_parts(settings: MuonParams) -> dict[str, Optimizer]:
    """Return the two optimizers, with parameters that are there only because they require one."""
    return {
        "muon": Muon([nn.Parameter(torch.zeros(1, 1))], **settings.muon()),
        "adamw": AdamW([nn.Parameter(torch.zeros(1))], **settings.adamw()),
    }


def _split_by_shape(params: Iterable[Any]) -> list[dict[str, Any]]:
    """Return groups that each name their algorithm."""
    groups: list[dict[str, Any]] = []
    loose: list[Tensor] = []
    for item in params:
        if not isinstance(item, dict):
            loose.append(item)
        elif "algorithm" in item:
            groups.append({**item, "params": list(item["params"])})
        else:
            loose += item["params"]
    by_shape = {"muon": [p for p in loose if p.ndim == 2], "adamw": [p for p in loose if p.ndim != 2]}
    groups += [{"params": members, "algorithm": name} for name, members in by_shape.items() if members]
    for group in groups:
        if group["algorithm"] == "muon" and any(parameter.ndim != 2 for parameter in group["params"]):
            raise ConfigError("muon trains matrices only; give other parameters to the group with algorithm: adamw")
    return groups
