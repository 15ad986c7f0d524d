"""What a trial will need is known without memory or work, and is what the real step needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from rayconvai.core.data_module import DataModule
from rayconvai.core.model import Model
from rayconvai.sweep.estimate import measure_step, speed, state_bytes

ROWS, WIDTH, HIDDEN, BATCHES = 64, 32, 128, 3


class Rows(DataModule):
    def prepare(self) -> None: ...

    def texts(self) -> Iterator[str]:
        yield ""

    def bind(self, model: Model) -> None: ...

    def fingerprint(self) -> dict[str, Any]:
        return {}

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(torch.ones(ROWS * BATCHES, WIDTH)), batch_size=ROWS)


class Net(Model):
    def __init__(self, *, looks: bool = False) -> None:
        super().__init__()
        self.looks = looks
        self.net = nn.Sequential(
            nn.Linear(WIDTH, HIDDEN), nn.SiLU(), nn.LayerNorm(HIDDEN), nn.Linear(HIDDEN, HIDDEN), nn.SiLU()
        )

    @classmethod
    def from_config(cls, **nodes: Any) -> Net:
        return cls()

    def check_graph(self) -> None: ...

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        loss = self.net(batch[0]).square().mean()
        if self.looks:
            assert loss > 0
        self.log("train_loss", loss)
        return loss


def meta(**arguments: Any) -> Net:
    with torch.device("meta"):
        return Net(**arguments)


def saved_for_backward(model: Net) -> int:
    """Bytes that the real step keeps, the weights aside."""
    weights = {parameter.data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model.training_step([torch.ones(ROWS, WIDTH)], 0)
    loss.backward()
    return sum(kept.values())


def test_a_step_is_measured_without_memory() -> None:
    model = meta()
    step = measure_step(model, Rows())
    assert step is not None
    products = 2 * ROWS * WIDTH * HIDDEN + 2 * ROWS * HIDDEN * HIDDEN
    assert step.flops == 3 * products * BATCHES
    real = saved_for_backward(Net())
    assert real <= step.activations < 1.5 * real


def test_half_precision_takes_less() -> None:
    full, half = (measure_step(meta(), Rows(), precision) for precision in ("32-true", "bf16-mixed"))
    assert full is not None
    assert half is not None
    assert half.activations < 0.9 * full.activations
    assert half.flops == full.flops


def test_a_model_that_looks_at_values_has_no_estimate() -> None:
    assert measure_step(meta(looks=True), Rows()) is None


@pytest.mark.parametrize(
    ("optim", "copies"),
    [
        pytest.param({"name": "sgd", "lr": 0.1}, 0, id="sgd"),
        pytest.param({"name": "sgd", "lr": 0.1, "momentum": 0.9}, 1, id="momentum"),
        pytest.param({"name": "adamw"}, 2, id="adamw"),
        pytest.param({"name": "adan"}, 4, id="adan"),
    ],
)
def test_what_the_optimizer_keeps(optim: dict[str, Any], copies: int) -> None:
    model = meta()
    weights = sum(parameter.nbytes for parameter in model.parameters())
    assert state_bytes(optim, model) == weights * (2 + copies)


def test_muon_keeps_one_of_each_matrix_and_two_of_the_rest() -> None:
    model = meta()
    weights = sum(parameter.nbytes for parameter in model.parameters())
    total = state_bytes({"name": "muon"}, model)
    assert total is not None
    assert weights * 3 < total < weights * 4


def test_speed_is_measured() -> None:
    assert speed(threads=1) > 1e8
