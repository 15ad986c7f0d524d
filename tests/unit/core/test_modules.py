"""Modules, datasets, and their way from and to configs and files."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.utils.data import DataLoader

from rayconvai.core import (
    Dataset,
    FileIO,
    IterableDataset,
    LabelsType,
    LengthsType,
    LogprobsType,
    Loss,
    LossType,
    NeuralModule,
    NeuralType,
    NeuralTypeError,
    Serialization,
    typecheck,
)
from rayconvai.errors import ConfigError, StorageError


class Two(NeuralModule):
    """Two layers of 100 weights, and dropout in evaluation mode."""

    def __init__(self, size: int = 10, parts: list[Any] | None = None) -> None:
        super().__init__()
        self.size, self.parts = size, parts
        self.first = nn.Linear(size, 10, bias=False)
        self.second = nn.Linear(10, 10, bias=False)
        self.dropout = nn.Dropout().eval()


class TwoInLightning(NeuralModule, LightningModule):
    """Lightning has its own freeze and unfreeze; those of NeuralModule hold."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(10, 10, bias=False)
        self.second = nn.Linear(10, 10, bias=False)
        self.dropout = nn.Dropout().eval()


def state(module: nn.Module) -> list[bool]:
    return [p.requires_grad for p in module.parameters()] + [part.training for part in module.modules()]


MODULES = pytest.mark.parametrize("kind", [Two, TwoInLightning])


@MODULES
def test_weights_that_train_are_counted(kind: Any) -> None:
    module = kind()
    assert module.num_weights == 200
    module.first.requires_grad_(False)
    assert module.num_weights == 100


@MODULES
def test_freeze_and_unfreeze(kind: Any) -> None:
    module = kind()
    module.freeze()
    assert not any(state(module))
    module.unfreeze()
    assert all(state(module))


@MODULES
@pytest.mark.parametrize("times", [1, 2])
def test_partial_unfreeze_goes_back_to_before_the_first_freeze(kind: Any, times: int) -> None:
    module = kind()
    module.first.requires_grad_(False)
    for _ in range(times):
        module.freeze()
    assert module._frozen_grad_map == {"first.weight": False, "second.weight": True}
    module.unfreeze(partial=True)
    assert [p.requires_grad for p in module.parameters()] == [False, True]
    assert not hasattr(module, "_frozen_grad_map")
    with pytest.raises(ValueError, match=r"needs a freeze\(\) before it"):
        module.unfreeze(partial=True)


@MODULES
def test_as_frozen_leaves_everything_as_it_was(kind: Any) -> None:
    module = kind()
    module.first.requires_grad_(False)
    before = state(module)
    with module.as_frozen(), module.as_frozen():
        assert not any(state(module))
    assert state(module) == before
    with pytest.raises(KeyError), module.as_frozen():
        raise KeyError
    assert state(module) == before


@MODULES
def test_modules_travel(kind: Any) -> None:
    module = kind().freeze()
    for again in (pickle.loads(pickle.dumps(module)), copy.deepcopy(module)):
        assert again.unfreeze(partial=True).num_weights == 200


def test_losses_are_modules() -> None:
    class Mean(Loss):
        input_types = {"log_probs": NeuralType(("B", "T", "D"), LogprobsType())}
        output_types = {"loss": NeuralType((), LossType())}

        @typecheck()
        def forward(self, log_probs: Tensor) -> Tensor:
            return -log_probs.mean()

    loss = Mean()(log_probs=torch.full((2, 3, 4), -1.5))
    assert (loss.item(), str(loss.neural_type)) == (1.5, "LossType ()")
    with pytest.raises(NeuralTypeError, match=r"Mean\.forward: input 'log_probs' .* 2 axes, not 3"):
        Mean()(log_probs=torch.zeros(2, 3))


class Numbers(Dataset):
    """Sequences of a length of their own."""

    output_types = {"tokens": NeuralType(("B", "T"), LabelsType()), "lengths": NeuralType(("B",), LengthsType())}

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        return torch.arange(index + 1)

    def _collate_fn(self, batch: Any) -> Any:
        return nn.utils.rnn.pad_sequence(batch, batch_first=True), torch.tensor([len(example) for example in batch])


class NumbersOneByOne(IterableDataset):
    """The same, one after another, with the collation of torch."""

    output_types = {"numbers": NeuralType(("B",), LabelsType())}

    def __iter__(self) -> Any:
        return iter(range(4))


def test_batches_carry_their_types() -> None:
    numbers = Numbers()
    tokens, lengths = next(iter(DataLoader(numbers, batch_size=4, collate_fn=numbers.collate_fn)))
    assert (str(tokens.neural_type), str(lengths.neural_type)) == ("LabelsType (B, T)", "LengthsType (B)")
    assert (tokens.shape, lengths.tolist()) == ((4, 4), [1, 2, 3, 4])
    stream = NumbersOneByOne()
    assert next(iter(DataLoader(stream, batch_size=4, collate_fn=stream.collate_fn))).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        pytest.param(
            (torch.zeros(2, 3), torch.zeros(3)), "Uneven.collate_fn: output 'lengths' .*'batch'", id="batch_sizes"
        ),
        pytest.param((torch.zeros(2), torch.zeros(2)), "output 'tokens' gives LabelsType .* 1 axes, not 2", id="rank"),
        pytest.param(torch.zeros(2, 3), "gives 2 outputs .* returned 1", id="count"),
    ],
)
def test_batches_that_do_not_fit_are_refused(batch: Any, message: str) -> None:
    class Uneven(Numbers):
        def _collate_fn(self, batch_: Any) -> Any:
            return batch

    with pytest.raises(NeuralTypeError, match=message):
        Uneven().collate_fn([1])


def test_datasets_have_no_input_ports() -> None:
    class Fed(Numbers):
        input_types = {"batch": NeuralType()}

    with pytest.raises(TypeError, match="Fed has input_types; a dataset is fed by nothing"):
        Fed().collate_fn([torch.zeros(1)])


class Configured(Serialization, FileIO):
    """A class that takes its config whole, as NeMo's models do."""

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg = cfg
        self.kind = type(self).__name__


class ConfiguredToo(Configured):
    """Its subclass."""


def path_of(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


@pytest.mark.parametrize(
    ("called_on", "named", "made"),
    [
        pytest.param(Serialization, ConfiguredToo, ConfiguredToo, id="base"),
        pytest.param(Configured, Configured, Configured, id="itself"),
        pytest.param(ConfiguredToo, Configured, ConfiguredToo, id="subclass"),
        pytest.param(Configured, ConfiguredToo, ConfiguredToo, id="superclass"),
    ],
)
def test_target_without_underscores_names_a_known_subclass(called_on: Any, named: Any, made: Any) -> None:
    config = OmegaConf.create({"target": path_of(named), "size": 3})
    made_object = called_on.from_config_dict(config)
    assert made_object.kind == made.__name__
    assert made_object.to_config_dict() == config == made_object.cfg


@pytest.mark.parametrize(
    "config",
    [
        pytest.param({"size": 4}, id="dict"),
        pytest.param(OmegaConf.create({"model": {"size": "${n}"}, "n": 4}).model, id="interpolated"),
        pytest.param({"size": 4, "parts": [{"_target_": "torch.nn.ReLU"}, {"plain": [1]}]}, id="nested_nodes"),
    ],
)
def test_a_class_takes_its_keys(config: Any) -> None:
    module = Two.from_config_dict(config)
    assert module.size == 4
    assert module.to_config_dict() == {**config, "size": 4}
    if "parts" in config:
        assert isinstance(module.parts[0], nn.ReLU)
        assert module.parts[1] == {"plain": [1]}
    assert pickle.loads(pickle.dumps(module)).to_config_dict() == module.to_config_dict()


def test_target_with_underscores_goes_through_the_allowed_packages() -> None:
    node = {"_target_": "rayconvai.asr.features.LogMel", "num_mels": 40}
    built = NeuralModule.from_config_dict(node)
    assert type(built).__name__ == "LogMel"
    assert built.to_config_dict() == OmegaConf.create(node)
    with pytest.raises(ConfigError, match="outside the allowed packages"):
        Serialization.from_config_dict({"_target_": "os.system", "command": "true"})


@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        pytest.param(Two, {"sise": 4}, "sise is not a parameter of Two; nearest: size", id="unknown_key"),
        pytest.param(Two, {"_target_": "torch.nn.ReLU"}, "builds a ReLU, not a Two", id="another_class"),
        pytest.param(
            Serialization, {"target": "no.such.Class"}, "target 'no.such.Class' is no class", id="unknown_class"
        ),
        pytest.param(Two, {"size": "${nowhere}"}, "nowhere", id="interpolation"),
    ],
)
def test_bad_configs_are_refused(kind: Any, config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        kind.from_config_dict(config)
    assert "\n" not in str(caught.value)


def test_configs_as_files(tmp_path: Path) -> None:
    module = Two.from_config_dict({"size": 7})
    module.to_config_file(tmp_path / "two.yaml")
    again = Two.from_config_file(tmp_path / "two.yaml")
    assert again.size == 7
    assert not torch.equal(again.first.weight, module.first.weight)
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read"):
        Two.from_config_file(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("[1, 2]")
    with pytest.raises(ConfigError, match="a config is a mapping"):
        Two.from_config_file(tmp_path / "list.yaml")
    with pytest.raises(StorageError, match="cannot be written"):
        module.to_config_file(tmp_path)


@pytest.mark.parametrize(
    "use",
    [
        pytest.param(lambda path: Two().to_config_dict(), id="config_of_what_has_none"),
        pytest.param(lambda path: Two().to_config_file(path), id="config_file_of_what_has_none"),
        pytest.param(lambda path: FileIO.from_config_file(path), id="no_serialization"),
        pytest.param(lambda path: FileIO().to_config_file(path), id="no_serialization_either"),
        pytest.param(lambda path: Two().save_to(path), id="save"),
        pytest.param(lambda path: Two.restore_from(path, None, None, True, False), id="restore"),
    ],
)
def test_what_only_models_do_says_so(use: Any, tmp_path: Path) -> None:
    with pytest.raises(NotImplementedError, match=r"built from a config|Serialization|model that it is part of"):
        use(tmp_path / "file")
