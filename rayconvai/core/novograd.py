"""NovoGrad: Adam's second moment taken per tensor instead of per element (arXiv 1905.11286)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from rayconvai.errors import ConfigError


@dataclass(kw_only=True)
class NovogradParams:
    """Options of Novograd."""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.95, 0.98)
    """Decay of the first moment, and of the second, which is one number a tensor."""
    eps: float = 1e-8
    weight_decay: float = 0.0
    """Added to the normalised gradient, so it is decoupled from the gradient's size."""
    grad_averaging: bool = False
    """Weigh the new gradient by one minus the first beta, as Adam does."""
    amsgrad: bool = False
    """Use the largest second moment so far."""
    luc: bool = False
    """Clip each tensor's update to a share of the tensor's norm."""
    luc_trust: float = 1e-3
    luc_eps: float = 1e-8

    def __post_init__(self) -> None:
        if self.lr < 0 or self.eps < 0 or not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"novograd requires lr >= 0, eps >= 0 and betas in [0, 1), not {self}")


class Novograd(Optimizer):
    """NovoGrad (arXiv 1905.11286, algorithm 1); its options are those of NovogradParams.

    Raises:
        ConfigError: an option out of its range.
    """

    params_class: ClassVar[type[NovogradParams]] = NovogradParams

    def __init__(self, params: Any, lr: float = 1e-3, **options: Any) -> None:
        super().__init__(params, asdict(NovogradParams(lr=lr, **options)))

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update each parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if gradient.is_sparse:
            raise RuntimeError("Novograd does not take sparse gradients; use sparseadam for embeddings")
        beta1, beta2 = group["betas"]
        squared_norm = gradient.pow(2).sum()
        if not state:
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = squared_norm.clone()  # the first step starts from the gradient itself, unbiased
            if group["amsgrad"]:
                state["max_exp_avg_sq"] = squared_norm.clone()
        else:
            state["exp_avg_sq"].mul_(beta2).add_(squared_norm, alpha=1 - beta2)
        second = state["exp_avg_sq"]
        if group["amsgrad"]:
            second = torch.maximum(state["max_exp_avg_sq"], second, out=state["max_exp_avg_sq"])
        update = gradient / (second.sqrt() + group["eps"])
        if group["weight_decay"]:
            update.add_(parameter, alpha=group["weight_decay"])
        if group["grad_averaging"]:
            update.mul_(1 - beta1)
        moment = state["exp_avg"].mul_(beta1).add_(update)
        if group["luc"]:
            trusted = group["luc_trust"] * parameter.norm() / (moment.norm() + group["luc_eps"])
            parameter.sub_(moment * trusted.clamp(max=group["lr"]))
        else:
            parameter.sub_(moment * group["lr"])
