"""The static check of a model's graph: ports walk through typed methods, and no tensor is made."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rayconvai.core import (
    AcousticEncodedRepresentation,
    AudioSignal,
    GraphError,
    LabelsType,
    LengthsType,
    LogprobsType,
    LossType,
    MelSpectrogramType,
    NeuralModule,
    NeuralType,
    NeuralTypeError,
    Port,
    SpectrogramType,
    trace,
    typecheck,
)

LENGTHS = NeuralType(("B",), LengthsType())
FED: dict[str, Any] = {
    "audio": NeuralType(("B", "T"), AudioSignal(16_000)),
    "lengths": LENGTHS,
    "tokens": NeuralType(("B", "T"), LabelsType()),
}


class Fails(NeuralModule):
    """A module whose body must not run."""

    def body(self, *args: Any) -> Any:
        raise AssertionError("the body ran")


class Front(Fails):
    input_types = {"audio": NeuralType(("B", "T"), AudioSignal(16_000)), "lengths": LENGTHS}
    output_types = {"features": NeuralType(("B", "T", "D:80"), MelSpectrogramType()), "lengths": LENGTHS}

    @typecheck()
    def forward(self, audio: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return self.body(audio, lengths)


class Mask(Fails):
    input_types = {"features": NeuralType(("B", "T", "D:features"), SpectrogramType())}
    output_types = {"features": NeuralType(("B", "T", "D:features"), SpectrogramType())}

    @typecheck()
    def forward(self, features: Tensor) -> Tensor:
        return self.body(features)


class Encoder(Fails):
    output_types = {"encoded": NeuralType(("B", "T", "D:16"), AcousticEncodedRepresentation()), "lengths": LENGTHS}

    def __init__(self, in_features: int = 80, kind: Any = SpectrogramType) -> None:
        super().__init__()
        self.features = NeuralType(("B", "T", f"D:{in_features}"), kind())

    @property
    def input_types(self) -> dict[str, NeuralType]:
        return {"features": self.features, "lengths": LENGTHS}

    @typecheck()
    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return self.body(features, lengths)


class Loss(Fails):
    input_types = {
        "log_probs": NeuralType(("B", "T", "D"), LogprobsType()),
        "tokens": NeuralType(("B", "T"), LabelsType()),
        "weights": NeuralType(("B",), optional=True),
    }
    output_types = {"loss": NeuralType((), LossType())}

    @typecheck()
    def forward(self, log_probs: Tensor, tokens: Tensor, weights: Tensor | None = None) -> Tensor:
        return self.body(log_probs)


class Recognizer(nn.Module):
    """A model: modules, and a step through them."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({"front": Front(), "mask": Mask(), "encoder": encoder})
        self.loss = Loss()

    def step(self, audio: Any, lengths: Any, tokens: Any) -> Any:
        features, lengths = self.parts["front"](audio=audio, lengths=lengths)
        encoded = self.parts["encoder"](features=self.parts["mask"](features=features), lengths=lengths)
        return encoded.encoded, encoded.lengths


def test_ports_pass_through_and_carry_types_and_sizes() -> None:
    model = Recognizer(Encoder())
    encoded, lengths = trace(model.step, **FED)
    assert str(encoded) == "Port(parts.encoder (Encoder).encoded: AcousticEncodedRepresentation (B, T, D:16))"
    assert lengths.neural_type == LENGTHS
    assert trace(Mask(), features=Front.output_types["features"]).sizes == [None, None, 80]  # by the name `features`


def test_modules_can_be_called_with_ports_outside_of_trace() -> None:
    features, _ = Front()(**{name: Port(FED[name], name) for name in ("audio", "lengths")})
    assert features.neural_type == Front.output_types["features"]
    with pytest.raises(GraphError, match=r"^Loss\.forward: required input 'tokens' LabelsType \(B, T\) is not fed"):
        Loss()(log_probs=Port(NeuralType(("B", "T", "D"), LogprobsType())))


@pytest.mark.parametrize(
    ("encoder", "fed", "message"),
    [
        pytest.param(
            Encoder(64),
            FED,
            r"parts\.encoder \(Encoder\)\.forward: input 'features' takes SpectrogramType \(B, T, D:64\), "
            r"got SpectrogramType \(B, T, D:80\) from parts\.mask \(Mask\)\.features",
            id="size",
        ),
        pytest.param(Encoder(kind=LogprobsType), FED, r"takes LogprobsType .*INCOMPATIBLE", id="element"),
        pytest.param(Encoder(kind=MelSpectrogramType), FED, "LESS: .* more specific", id="parent"),
        pytest.param(
            Encoder(),
            {**FED, "audio": NeuralType(("B", "T"), AudioSignal(8_000))},
            r"parts\.front \(Front\)\.forward: input 'audio' takes AudioSignal\(freq=16000\) \(B, T\), "
            r"got AudioSignal\(freq=8000\) \(B, T\) from audio \(SAME_TYPE_INCOMPATIBLE_PARAMS",
            id="sample_rate",
        ),
        pytest.param(
            Encoder(),
            {**FED, "audio": NeuralType(("T", "B"), AudioSignal(16_000))},
            "transpose the axes",
            id="transposed",
        ),
        pytest.param(
            Encoder(),
            {**FED, "audio": NeuralType(("B:4", "T"), AudioSignal()), "lengths": NeuralType(("B:3",), LengthsType())},
            "'batch' axis, and that is 4 in 'audio'",
            id="batch",
        ),
    ],
)
def test_modules_that_do_not_fit_are_found(encoder: Encoder, fed: dict[str, Any], message: str) -> None:
    with pytest.raises(GraphError, match=message) as caught:
        trace(Recognizer(encoder).step, **fed)
    assert isinstance(caught.value, NeuralTypeError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param({"log_probs": 1}, "required input 'tokens'", id="unfed"),
        pytest.param({"log_probs": 1, "tokens": 1, "weight": 1}, "'weight'; nearest: weights", id="unknown"),
    ],
)
def test_unfed_and_unknown_ports_are_found(arguments: dict[str, Any], message: str) -> None:
    loss = Loss()
    ports = {name: Loss.input_types.get(name, LENGTHS) for name in arguments}
    with pytest.raises(GraphError, match=message):
        trace(loss, **ports)


def test_optional_ports_may_stay_unfed() -> None:
    ports = {name: port for name, port in Loss.input_types.items() if not port.optional}
    assert trace(Loss(), **ports).neural_type == Loss.output_types["loss"]


@pytest.mark.parametrize(
    ("use", "message"),
    [
        pytest.param(lambda x: x.sum(), r"used \.sum", id="method"),
        pytest.param(lambda x: x.shape[0], r"used \.shape", id="shape"),
        pytest.param(lambda x: torch.log(x), r"used in log\(\)", id="function"),
        pytest.param(lambda x: nn.Linear(2, 2)(x), r"used in linear\(\)", id="module_without_ports"),
        pytest.param(lambda x: 1 if x else 0, "used as a condition", id="condition"),
    ],
)
def test_a_port_holds_no_data(use: Any, message: str) -> None:
    with pytest.raises(GraphError, match=rf"^x \(LengthsType \(B\)\) was {message} while the graph is checked"):
        trace(lambda x: use(x), x=LENGTHS)


def test_ports_go_in_and_out_of_containers() -> None:
    class Layers(Fails):
        input_types = {"states": [[LENGTHS]]}
        output_types = {"last": LENGTHS, "all": [LENGTHS]}

        @typecheck()
        def forward(self, states: Any) -> Any:
            return self.body(states)

    def step(batch: dict[str, Any], flag: bool) -> Any:
        return Layers()(states=batch["states"]) if flag else None

    last, every = trace(step, batch={"states": [[LENGTHS, LENGTHS], [LENGTHS]]}, flag=True)
    assert last.neural_type == every[0].neural_type == LENGTHS
    with pytest.raises(GraphError, match=r"Layers\.forward: input 'states' .* list of lists, got it in a list"):
        trace(step, batch={"states": [LENGTHS]}, flag=True)


def test_the_graph_is_checked_even_where_calls_are_not() -> None:
    with typecheck.disable_checks(), typecheck.disable_semantic_checks():
        with pytest.raises(GraphError):
            trace(Recognizer(Encoder(64)).step, **FED)
        with pytest.raises(AssertionError, match="the body ran"):  # outside of trace, calls are as unchecked as before
            Mask()(features=0)


def test_a_failed_check_leaves_ordinary_errors_ordinary() -> None:
    with pytest.raises(GraphError):
        trace(Loss(), tokens=LENGTHS)
    with pytest.raises(NeuralTypeError) as caught:
        Loss()(tokens=torch.zeros(1, 1))
    assert not isinstance(caught.value, GraphError)
