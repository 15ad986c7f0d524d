"""Optimizers by name: all of them learn, ours against plain references, Muon's split, and config sections."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError
from torch import Tensor, nn

from rayconvai.core import optim, params
from rayconvai.core.elements import LogprobsType, LossType
from rayconvai.core.neural_type import NeuralType
from rayconvai.core.roles import hidden_matrices
from rayconvai.core.schedules import CosineAnnealing
from rayconvai.errors import ConfigError

RATES = {
    "adadelta": 10.0,
    "sparseadam": 0.1,
    "novograd": 0.02,
    "asgd": 0.05,
    "sgd": 0.05,
    "lbfgs": 0.5,
    "adafactor": 0.3,
    "adagrad": 0.3,
    "radam": 0.1,
}


class Network(nn.Module):
    """One of each: an embedding tied to nothing, convolution, attention, norm, linear layers, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.conv = nn.Conv1d(8, 8, 3, padding=1)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.position_bias = nn.Parameter(torch.zeros(2, 4))
        self.norm = nn.LayerNorm((1, 8))
        self.hidden = nn.Linear(8, 8)
        self.head = nn.Linear(8, 11)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.conv(self.embedding(tokens).transpose(1, 2)).transpose(1, 2)
        x = x + self.attention(x, x, x)[0] + self.position_bias.flatten()
        x = self.norm(x.unsqueeze(-2)).squeeze(-2)
        return torch.as_tensor(self.head(torch.relu(self.hidden(x))))


TOKENS = torch.arange(22).reshape(2, 11) % 11


def make_network() -> Network:
    torch.manual_seed(0)
    return Network()


def take_steps(network: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> list[float]:
    losses = []
    for _ in range(count):

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(network(TOKENS).flatten(0, 1), TOKENS.flatten().flip(0))
            loss.backward()
            losses.append(loss.item())
            return loss

        optimizer.step(closure)  # type: ignore[arg-type]
    return losses


def test_every_optimizer_of_torch_has_a_name() -> None:
    torchs = {name.lower() for name in torch.optim.__all__ if isinstance(getattr(torch.optim, name, None), type)}
    assert torchs - {"optimizer"} <= set(optim.AVAILABLE_OPTIMIZERS)


@pytest.mark.parametrize("name", sorted(optim.AVAILABLE_OPTIMIZERS))
def test_a_convex_problem_decreases(name: str) -> None:
    torch.manual_seed(0)
    inputs, targets = torch.randn(40, 6), torch.randn(40, 3)
    weight = nn.Parameter(torch.ones(6, 3))
    optimizer = optim.get_optimizer(name, lr=RATES.get(name, 0.03))([weight])
    assert isinstance(optimizer, optim.AVAILABLE_OPTIMIZERS[name])
    losses: list[float] = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (inputs @ weight - targets).pow(2).mean()
        loss.backward()
        if name == "sparseadam":
            weight.grad = weight.grad.to_sparse() if weight.grad is not None else None
        losses.append(loss.item())
        return loss

    for _ in range(100):
        optimizer.step(closure)  # type: ignore[arg-type]
    best = (inputs @ torch.linalg.lstsq(inputs, targets).solution - targets).pow(2).mean().item()
    assert losses[-1] - best < 0.25 * (losses[0] - best)


def novograd_reference(weight: np.ndarray, gradients: list[np.ndarray], **options: Any) -> np.ndarray:
    """Algorithm 1 of arXiv 1905.11286, for one tensor."""
    lr, (beta1, beta2), eps, decay = options["lr"], options["betas"], options["eps"], options["weight_decay"]
    second, moment, largest = 0.0, np.zeros_like(weight), 0.0
    for step, gradient in enumerate(gradients):
        norm = (gradient**2).sum()
        second = norm if step == 0 else beta2 * second + (1 - beta2) * norm
        largest = max(largest, second)
        scaled = gradient / (np.sqrt(largest if options["amsgrad"] else second) + eps) + decay * weight
        moment = beta1 * moment + ((1 - beta1) if options["grad_averaging"] else 1.0) * scaled
        weight = weight - lr * moment
    return weight


def adan_reference(weight: np.ndarray, gradients: list[np.ndarray], **options: Any) -> np.ndarray:
    """Algorithm 1 of arXiv 2208.06677, for one tensor; its betas are one minus ours."""
    lr, eps, decay = options["lr"], options["eps"], options["weight_decay"]
    b1, b2, b3 = (1 - beta for beta in options["betas"])
    m, v, n = np.zeros_like(weight), np.zeros_like(weight), np.zeros_like(weight)
    previous = gradients[0]
    for k, gradient in enumerate(gradients, start=1):
        change = gradient - previous
        m = (1 - b1) * m + b1 * gradient
        v = (1 - b2) * v + b2 * change
        n = (1 - b3) * n + b3 * (gradient + (1 - b2) * change) ** 2
        m_hat, v_hat, n_hat = m / (1 - (1 - b1) ** k), v / (1 - (1 - b2) ** k), n / (1 - (1 - b3) ** k)
        step = lr / (np.sqrt(n_hat) + eps) * (m_hat + (1 - b2) * v_hat)
        weight = weight * (1 - lr * decay) - step if options["no_prox"] else (weight - step) / (1 + lr * decay)
        previous = gradient
    return weight


NOVOGRAD = {"lr": 0.1, "betas": (0.9, 0.7), "eps": 1e-8, "weight_decay": 0.0, "amsgrad": False, "grad_averaging": False}
ADAN = {"lr": 0.1, "betas": (0.98, 0.92, 0.99), "eps": 1e-8, "weight_decay": 0.0, "no_prox": False}


@pytest.mark.parametrize(
    ("cls", "reference", "options"),
    [
        pytest.param(optim.Novograd, novograd_reference, NOVOGRAD, id="novograd"),
        pytest.param(optim.Novograd, novograd_reference, NOVOGRAD | {"weight_decay": 0.1}, id="novograd_decay"),
        pytest.param(optim.Novograd, novograd_reference, NOVOGRAD | {"amsgrad": True}, id="novograd_amsgrad"),
        pytest.param(optim.Novograd, novograd_reference, NOVOGRAD | {"grad_averaging": True}, id="novograd_averaging"),
        pytest.param(optim.Adan, adan_reference, ADAN, id="adan"),
        pytest.param(optim.Adan, adan_reference, ADAN | {"weight_decay": 0.1}, id="adan_decay"),
        pytest.param(optim.Adan, adan_reference, ADAN | {"weight_decay": 0.1, "no_prox": True}, id="adan_no_prox"),
    ],
)
def test_steps_are_the_papers(cls: Any, reference: Callable[..., np.ndarray], options: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=(3, 4)), [rng.normal(size=(3, 4)) for _ in range(5)]
    weight = nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = cls([weight], **options)
    for gradient in gradients:
        weight.grad = torch.from_numpy(gradient.copy())
        optimizer.step()
    np.testing.assert_allclose(weight.detach().numpy(), reference(start, gradients, **options), rtol=1e-10)


def test_adan_clips_the_norm_of_all_gradients() -> None:
    def step(limit: float, scale: float) -> Tensor:
        weights = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))]
        for weight in weights:
            weight.grad = torch.full_like(weight, scale)
        optimizer = optim.Adan(weights, lr=0.1, eps=1e-3, max_grad_norm=limit)
        optimizer.step()
        return torch.cat([optimizer.state[weight]["previous_grad"] for weight in weights])

    assert step(1.0, 100.0).norm().item() == pytest.approx(1.0, rel=1e-4)
    torch.testing.assert_close(step(1000.0, 1.0), torch.ones(5))


class TestMuon:
    SECTION = {"name": "muon", "lr": 0.01, "adamw_lr": 0.003, "weight_decay": 0.1}

    def test_hidden_matrices_go_to_muon_and_each_parameter_to_one_group(self) -> None:
        network = make_network()
        optimizer = optim.build_optimizer(self.SECTION, network)
        names = {parameter: name for name, parameter in network.named_parameters()}
        groups = {group["algorithm"]: [names[p] for p in group["params"]] for group in optimizer.param_groups}
        assert set(groups["muon"]) == {"attention.in_proj_weight", "attention.out_proj.weight", "hidden.weight"}
        assert sorted(groups["muon"] + groups["adamw"]) == sorted(names.values())

    def test_each_half_steps_as_torchs_own(self) -> None:
        together, apart = make_network(), make_network()
        hidden = hidden_matrices(apart)
        muon = torch.optim.Muon(
            [p for name, p in apart.named_parameters() if name in hidden],
            lr=0.01,
            weight_decay=0.1,
            adjust_lr_fn="match_rms_adamw",
        )
        rest = [p for name, p in apart.named_parameters() if name not in hidden]
        adamw = torch.optim.AdamW(rest, lr=0.003, betas=(0.9, 0.95), weight_decay=0.1)
        optimizer = optim.build_optimizer(self.SECTION, together)
        take_steps(together, optimizer, 3)
        for _ in range(3):
            apart.zero_grad()
            nn.functional.cross_entropy(apart(TOKENS).flatten(0, 1), TOKENS.flatten().flip(0)).backward()
            muon.step()
            adamw.step()
        for ours, theirs in zip(together.parameters(), apart.parameters(), strict=True):
            assert torch.equal(ours, theirs)

    def test_the_head_is_the_last_layer_of_what_gives_scores(self) -> None:
        class Decoder(nn.Module):
            output_types = {"log_probs": NeuralType(("B", "T", "D"), LogprobsType())}

            def __init__(self) -> None:
                super().__init__()
                self.inner, self.out = nn.Linear(4, 4), nn.Linear(4, 9)

        class Loss(nn.Module):
            output_types = {"loss": NeuralType((), LossType())}

            def __init__(self) -> None:
                super().__init__()
                self.mix = nn.Linear(4, 4)

        model = nn.ModuleDict({"decoder": Decoder(), "encoder": nn.Linear(4, 4), "loss": Loss()})
        assert hidden_matrices(model) == {"decoder.inner.weight", "encoder.weight", "loss.mix.weight"}

    def test_a_tied_embedding_and_convolutions_are_not_hidden(self) -> None:
        network = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.Conv1d(4, 4, 1), nn.Linear(4, 5))
        network[3].weight = network[0].weight  # type: ignore[assignment]
        assert hidden_matrices(network) == {"1.weight"}

    def test_a_single_matrix_is_no_head(self) -> None:
        assert hidden_matrices(nn.Linear(3, 4)) == {"weight"}

    def test_a_network_without_matrices_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="use adamw"):
            optim.build_optimizer(self.SECTION, nn.Conv1d(4, 4, 3))

    def test_one_schedule_moves_both_rates(self) -> None:
        optimizer = optim.build_optimizer(self.SECTION, make_network())
        schedule = CosineAnnealing(optimizer, max_steps=10)
        for _ in range(5):
            optimizer.step()
            schedule.step()
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.005, 0.0015])

    def test_later_groups_go_to_adamw(self) -> None:
        network, extra = make_network(), nn.Linear(4, 4)
        optimizer = optim.build_optimizer(self.SECTION, network)
        optimizer.add_param_group({"params": list(extra.parameters()), "lr": 0.5})
        extra(torch.ones(1, 4)).sum().backward()
        before = extra.weight.detach().clone()
        optimizer.step()
        assert not torch.equal(before, extra.weight)

    def test_a_gradient_scaler_treats_it_as_one(self) -> None:
        network = make_network()
        optimizer = optim.build_optimizer(self.SECTION, network)
        scaler = torch.amp.GradScaler("cpu", init_scale=16.0)

        def moved(poison: float) -> list[bool]:
            before = [p.detach().clone() for p in network.parameters()]
            optimizer.zero_grad()
            scaler.scale(network(TOKENS).pow(2).mean()).backward()
            network.hidden.weight.grad[0, 0] += poison  # type: ignore[index]
            scaler.step(optimizer)
            scaler.update()
            return [not torch.equal(old, new) for old, new in zip(before, network.parameters(), strict=True)]

        assert not any(moved(torch.inf))
        assert all(moved(0.0))


@pytest.mark.parametrize("name", [name for name in optim.AVAILABLE_OPTIMIZERS if name not in ("sparseadam", "lbfgs")])
@pytest.mark.parametrize("way", ["state_dict", "pickle"])
def test_a_resumed_optimizer_goes_on_bit_for_bit(name: str, way: str) -> None:
    section = {"name": name, "lr": 0.01, "decay_norm_and_bias": False} if name != "rprop" else {"name": name}
    whole, network = make_network(), make_network()
    reference = take_steps(whole, optim.build_optimizer(section, whole), 6)

    first = optim.build_optimizer(section, network)
    losses = take_steps(network, first, 3)
    if way == "pickle":
        network, second = pickle.loads(pickle.dumps((network, first)))
    else:
        saved = io.BytesIO()
        torch.save(first.state_dict(), saved)
        saved.seek(0)
        network = copy.deepcopy(network)
        second = optim.build_optimizer(section, network)
        second.load_state_dict(torch.load(saved, weights_only=True))
        assert second.state_dict()["param_groups"] == first.state_dict()["param_groups"]
    assert losses + take_steps(network, second, 3) == reference
    for ours, theirs in zip(network.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", ["adamw", "muon", "novograd"])
def test_norms_and_biases_are_spared_from_the_decay(name: str) -> None:
    network = make_network()
    section = {"name": name, "lr": 0.1, "weight_decay": 0.2, "decay_norm_and_bias": False}
    optimizer = optim.build_optimizer(section, network)
    names = {parameter: name for name, parameter in network.named_parameters()}
    decayed = {names[p] for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    assert decayed == {name for name in names.values() if name.endswith("weight") and "norm" not in name}
    all_decay = optim.build_optimizer({**section, "decay_norm_and_bias": True}, make_network())
    assert {group["weight_decay"] for group in all_decay.param_groups} == {0.2}


def test_frozen_parameters_are_left_out() -> None:
    network = make_network()
    network.embedding.requires_grad_(False)
    optimizer = optim.build_optimizer({"name": "adamw"}, network)
    assert all(p is not network.embedding.weight for group in optimizer.param_groups for p in group["params"])
    with pytest.raises(ConfigError, match="unfreeze"):
        optim.build_optimizer({"name": "adamw"}, network.requires_grad_(False))


def test_a_section_of_yaml_is_converted() -> None:
    section = OmegaConf.create("{name: adamw, lr: 1, betas: [0.9, 0.98], fused: null}")
    group = optim.build_optimizer(section, make_network()).param_groups[0]
    assert (group["lr"], group["betas"]) == (1.0, (0.9, 0.98))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        pytest.param({"name": "adamv"}, "nearest: adam", id="name"),
        pytest.param({"lr": 0.1}, "optim.name is missing", id="no_name"),
        pytest.param({"name": "adamw", "beta": [0.9, 0.9]}, "nearest: optim.betas; it takes lr, betas", id="key"),
        pytest.param({"name": "adamw", "lr": "fast"}, "optim.lr must be float", id="type"),
        pytest.param({"name": "adamw", "betas": [0.9]}, "optim.betas must have 2 values", id="length"),
        pytest.param({"name": "muon", "adamv_lr": 0.1}, "nearest: optim.adamw_lr", id="muon_key"),
        pytest.param({"name": "muon", "adjust_lr_fn": "orig"}, "one of match_rms_adamw", id="muon_choice"),
        pytest.param({"name": "rprop", "decay_norm_and_bias": False}, "is not a key of rprop", id="no_decay"),
    ],
)
def test_check_names_the_key_and_the_way_out(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        optim.check_optim(section)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["adamw", "adan", "novograd", "muon"])
def test_values_that_cannot_be_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="-1"):
        optim.build_optimizer({"name": name, "lr": -1.0}, make_network())
    with pytest.raises(ConfigError, match="-1"):
        optim.check_optim({"name": name, "lr": -1.0})


class TestNeMoNames:
    """What code that was written against NeMo's names relies on."""

    GIVEN = {"weight_decay": 0.001, "betas": [0.8, 0.5]}

    @pytest.mark.parametrize("name", sorted(optim.AVAILABLE_OPTIMIZERS))
    def test_get(self, name: str) -> None:
        made = optim.get_optimizer(name)(nn.Linear(5, 1).parameters(), lr=0.1)
        assert isinstance(made, optim.AVAILABLE_OPTIMIZERS[name])

    @pytest.mark.parametrize("container", [dict, OmegaConf.create])
    @pytest.mark.parametrize(
        "config",
        [
            pytest.param(GIVEN, id="bypass"),
            pytest.param({"name": "auto", **GIVEN}, id="auto"),
            pytest.param({"name": "novograd", **GIVEN}, id="name"),
            pytest.param({"_target_": "nemo.core.config.NovogradParams", "params": GIVEN}, id="target"),
        ],
    )
    def test_parse(self, config: dict[str, Any], container: Any) -> None:
        parsed = optim.parse_optimizer_args("novograd", container(config))
        assert parsed["weight_decay"] == 0.001
        assert list(parsed["betas"]) == [0.8, 0.5]
        if "_target_" in config:
            assert set(parsed) == set(vars(params.NovogradParams())) != set(vars(params.SGDParams()))

    def test_parse_of_nothing(self) -> None:
        assert optim.parse_optimizer_args("novograd", None) == {}

    def test_parse_refuses_keys_as_omegaconf_does(self) -> None:
        with pytest.raises(ConfigKeyError, match=r"optim\.betas is not a key of sgd"):
            optim.parse_optimizer_args("sgd", {"name": "auto", **self.GIVEN})

    def test_register(self) -> None:
        class Mine(torch.optim.SGD):
            pass

        optim.register_optimizer("MineForThisTest", Mine, params.SGDParams)
        try:
            assert isinstance(optim.get_optimizer("MineForThisTest")([nn.Parameter(torch.ones(1))], lr=0.1), Mine)
            optim.check_optim({"name": "MineForThisTest", "momentum": 0.9})
            with pytest.raises(ValueError, match="exists already"):
                optim.register_optimizer("MineForThisTest", Mine)
        finally:
            del optim.AVAILABLE_OPTIMIZERS["MineForThisTest"]

    def test_unknown_names_are_value_errors(self) -> None:
        with pytest.raises(ValueError, match="nearest: sgd"):
            optim.get_optimizer("sgdd")
