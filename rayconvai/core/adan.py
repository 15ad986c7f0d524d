"""Adan: Adam with a Nesterov momentum estimated from gradient differences (arXiv 2208.06677)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from rayconvai.errors import ConfigError


class Adan(Optimizer):
    """Adan (arXiv 2208.06677, algorithm 1) with the bias corrections of Adam.

    Args:
        params: parameters, or groups of them.
        lr: the learning rate.
        betas: what is kept of the gradient's mean, of the mean of its differences, and of the mean square; the paper's
            betas are one minus these.
        eps: added to the root of the mean square.
        weight_decay: decoupled.
        max_grad_norm: the norm of all gradients together is clipped to it; 0: not.
        no_prox: decay before the step, as AdamW does, instead of dividing after it.

    Raises:
        ConfigError: an option out of its range.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float, float] = (0.98, 0.92, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        max_grad_norm: float = 0.0,
        no_prox: bool = False,
    ) -> None:
        options = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "max_grad_norm": max_grad_norm,
            "no_prox": no_prox,
        }
        if min(lr, eps, weight_decay, max_grad_norm) < 0 or not all(0 <= beta < 1 for beta in betas):
            raise ConfigError(f"adan requires betas in [0, 1) and nothing negative, not {options}")
        super().__init__(params, options)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update each parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        scale = self._clip_scale()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    gradient = parameter.grad if scale is None else parameter.grad * scale
                    self._update(parameter, gradient, group)
        return loss

    def _clip_scale(self) -> Tensor | None:
        """Return the factor that brings the norm of all gradients under the limit; None where there is no limit."""
        limit = self.param_groups[0]["max_grad_norm"]
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        if not limit or not gradients:
            return None
        norm = torch.nn.utils.get_total_norm(gradients)
        scale: Tensor = limit / (norm + self.param_groups[0]["eps"])
        return scale.clamp(max=1.0)

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        beta1, beta2, beta3 = group["betas"]
        lr, decay = group["lr"], group["weight_decay"]
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            for name in ("exp_avg", "exp_avg_diff", "exp_avg_sq"):
                state[name] = torch.zeros_like(parameter)
            state["previous_grad"] = gradient.clone()
        state["step"] += 1
        difference = gradient - state["previous_grad"]
        look_ahead = gradient + beta2 * difference
        mean = state["exp_avg"].lerp_(gradient, 1 - beta1)
        mean_difference = state["exp_avg_diff"].lerp_(difference, 1 - beta2)
        mean_square = state["exp_avg_sq"].mul_(beta3).addcmul_(look_ahead, look_ahead, value=1 - beta3)
        state["previous_grad"].copy_(gradient)

        corrections = [1 - beta ** state["step"] for beta in group["betas"]]
        update = mean / corrections[0] + beta2 * mean_difference / corrections[1]
        update.div_((mean_square / corrections[2]).sqrt_().add_(group["eps"]))
        if group["no_prox"]:
            parameter.mul_(1 - lr * decay).sub_(update * lr)
        else:
            parameter.sub_(update * lr).div_(1 + lr * decay)
