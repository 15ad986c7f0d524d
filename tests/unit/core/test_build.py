"""Objects from config: the signature of a target is the schema of its node."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from rayconvai.core.build import allow, build, check_node, parameters, resolve_target
from rayconvai.core.coerce import coerce
from rayconvai.errors import ConfigError

PARTS = """
from __future__ import annotations
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

@dataclass
class Window:
    length: int = 400
    kind: Literal["hann", "hamming"] = "hann"

    def __post_init__(self):
        if self.length < 1:
            raise ValueError(f"length ({self.length}) must be positive")

class Encoder:
    def __init__(self, *, in_features: int, num_layers: int = 2, dropout: float = 0.1, betas: Sequence[float] = (),
                 path: Path | None = None, window: Window = Window(), size: int | str = 1):
        if dropout > 1:
            raise ValueError("dropout is above 1")
        vars(self).update({k: v for k, v in locals().items() if k != "self"})

    @classmethod
    def small(cls, **options: int):
        return cls(in_features=1, **options)

class Model:
    def __init__(self, encoder, steps):
        self.encoder, self.steps = encoder, steps

    @classmethod
    def from_config(cls, *, encoder: Mapping[str, Any], steps: list[Any] = [], tokenizer: Any = None):
        from rayconvai.core.build import build
        return cls(build(encoder, in_features=80), [build(step, in_features=1) for step in steps])

class Pair:
    def __init__(self, first: Encoder, others: list[Encoder], names: Mapping[str, int] | None = None):
        self.first, self.others, self.names = first, others, names

def make():
    return 1
"""


@pytest.fixture(scope="module", autouse=True)
def parts(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A package of a user's own, allowed by name."""
    folder: Path = tmp_path_factory.mktemp("package")
    (folder / "toyparts.py").write_text(PARTS)
    sys.path.insert(0, str(folder))
    allow("toyparts")
    yield
    sys.path.remove(str(folder))


def node(name: str, **keys: Any) -> dict[str, Any]:
    return {"_target_": f"toyparts.{name}", **keys}


def message(call: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        call(*args, **kwargs)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("target", "says"),
    [
        pytest.param("os.system", "outside the allowed packages", id="other_package"),
        pytest.param("torch.os.system", "outside the allowed packages", id="through_an_import"),
        pytest.param("toyparts.os.system", "outside the allowed packages", id="through_a_users_import"),
        pytest.param("torch.load", "is a function", id="function_of_torch"),
        pytest.param("rayconvai.core.build.allow", "is a function", id="function_of_ours"),
        pytest.param("torch.Tensor.__class__", "not the public dotted name", id="private"),
        pytest.param("torch", "not the public dotted name", id="package"),
        pytest.param("", "must be a dotted name", id="empty"),
        pytest.param("torch.nn.Linaer", "nearest: Linear", id="class_typo"),
        pytest.param("rayconvai.core.bild.X", "nearest: build", id="module_typo"),
        pytest.param("rayconvia.core.X", "nearest: rayconvai", id="package_typo"),
        pytest.param("torch.pi", "cannot be called", id="not_callable"),
    ],
)
def test_refused_target(target: str, says: str) -> None:
    assert says in message(resolve_target, target)


def test_refused_package_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "strange.py").write_text("raise SystemExit")
    monkeypatch.syspath_prepend(tmp_path)
    assert "strange" in message(resolve_target, "strange.Thing")
    assert "strange" not in sys.modules


def test_users_functions_and_class_methods_are_targets() -> None:
    assert build({"_target_": "toyparts.make"}) == 1
    assert build(node("Encoder.small", num_layers=5)).num_layers == 5


def test_values_are_converted_to_the_annotated_types() -> None:
    encoder = build(
        node("Encoder", dropout=0, betas=[1, "0.5"], path="a/b", num_layers="3", window={"length": 5}), in_features=7
    )
    assert (encoder.in_features, encoder.num_layers, encoder.dropout, encoder.betas) == (7, 3, 0.0, [1.0, 0.5])
    assert isinstance(encoder.dropout, float)
    assert encoder.path == Path("a/b")
    assert encoder.window.length == 5


def test_nested_nodes_are_built_first() -> None:
    inner = node("Encoder", in_features=1)
    pair = build(OmegaConf.create({"x": node("Pair", first=inner, others=[inner, inner], names={"a": "1"})}).x)
    assert [type(part).__name__ for part in (pair.first, *pair.others)] == ["Encoder"] * 3
    assert pair.names == {"a": 1}


def test_from_config_gets_nodes_and_errors_keep_their_full_key() -> None:
    config = OmegaConf.create({"top": {"model": node("Model", encoder=node("Encoder"), steps=[node("Encoder")])}})
    model = build(config.top.model, tokenizer=None)
    assert (model.encoder.in_features, model.steps[0].in_features) == (80, 1)
    config.top.model.encoder.num_layer = 3
    expected = (
        "top.model.encoder.num_layer is not a parameter of toyparts.Encoder; nearest: top.model.encoder.num_layers"
    )
    assert message(build, config.top.model) == expected
    assert message(check_node, config.top.model) == expected


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        pytest.param({"num_layers": "four"}, "m.num_layers must be int, not 'four'", id="string_for_int"),
        pytest.param({"num_layers": 2.5}, "m.num_layers must be int, not 2.5", id="float_for_int"),
        pytest.param({"num_layers": True}, "m.num_layers must be int, not True", id="bool_for_int"),
        pytest.param({"num_layers": None}, "m.num_layers must be int, not None", id="null_for_int"),
        pytest.param({"betas": "ab"}, "m.betas must be", id="string_for_sequence"),
        pytest.param({"betas": ["x"]}, "m.betas.0 must be float, not 'x'", id="item"),
        pytest.param({"window": {"lenght": 1}}, "nearest: m.window.length", id="dataclass_key"),
        pytest.param({"window": {"kind": "haning"}}, "one of hann, hamming, not 'haning'; nearest: hann", id="literal"),
        pytest.param({"window": {"length": 0}}, "m.window.length (0) must be positive", id="dataclass_check"),
        pytest.param({"droput": 0.1}, "nearest: m.dropout", id="unknown"),
        pytest.param({"dropout": "${nowhere}"}, "m.dropout: Interpolation key 'nowhere' not found", id="interpolation"),
        pytest.param({"dropout": "???"}, "m.dropout has no value yet", id="missing"),
    ],
)
def test_wrong_key_or_value(keys: dict[str, Any], says: str) -> None:
    config = OmegaConf.create({"m": node("Encoder", in_features=1, **keys)})
    assert says in message(check_node, config.m)
    assert says in message(build, config.m)


@pytest.mark.parametrize(
    ("keys", "derived", "says"),
    [
        pytest.param({}, {}, "m.in_features is missing; toyparts.Encoder requires in_features", id="missing"),
        pytest.param({"in_features": 1}, {"in_features": 2}, "m.in_features is derived", id="given_twice"),
        pytest.param({"in_features": 1, "dropout": 2}, {}, "m.dropout is above 1", id="refused_by_the_class"),
    ],
)
def test_what_only_building_finds(keys: dict[str, Any], derived: dict[str, Any], says: str) -> None:
    config = OmegaConf.create({"m": node("Encoder", **keys)})
    check_node(config.m)
    assert says in message(build, config.m, **derived)


def test_plain_mappings_build_too() -> None:
    assert build(node("Encoder", in_features=3)).in_features == 3
    assert "has no _target_" in message(build, {"in_features": 3})


def test_parameters_are_those_of_from_config() -> None:
    found = parameters("toyparts.Model")
    assert list(found) == ["encoder", "steps", "tokenizer"]
    assert found["encoder"].required
    assert not found["tokenizer"].required


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        pytest.param("16", int | str, "16", id="union_keeps_its_own"),
        pytest.param(3, int | float | None, 3, id="union_int"),
        pytest.param(None, float | None, None, id="null"),
        pytest.param([1, 2], tuple[float, ...], (1.0, 2.0), id="tuple"),
        pytest.param("1e-3", float, 1e-3, id="float_as_yaml_reads_it"),
        pytest.param({"a": "2"}, dict[str, int], {"a": 2}, id="mapping"),
    ],
)
def test_coerce(value: Any, kind: Any, expected: Any) -> None:
    found = coerce(value, kind, "k")
    assert found == expected
    assert type(found) is type(expected)
