"""Typed calls: what passes, what is refused and with which words, and where checks are left out."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from rayconvai.core import (
    AcousticEncodedRepresentation,
    AudioSignal,
    AxisKind,
    AxisType,
    ChannelType,
    ElementType,
    EncodedRepresentation,
    LengthsType,
    LogitsType,
    LogprobsType,
    MelSpectrogramType,
    NeuralModule,
    NeuralType,
    NeuralTypeComparisonResult,
    NeuralTypeError,
    SpectrogramType,
    StringType,
    Typing,
    typecheck,
)

FEATURES = NeuralType(("B", "T", "D:8"), MelSpectrogramType())
OPEN_FEATURES = NeuralType(("B", "T", "D"), MelSpectrogramType())
SPECTROGRAM = NeuralType(("B", "T", "D"), SpectrogramType())
LENGTHS = NeuralType(("B",), LengthsType())
LOGITS = NeuralType(("B", "D"), LogitsType())
VECTOR = NeuralType(("B",), ElementType())
OPTIONAL = NeuralType(("B",), ElementType(), optional=True)
SAMPLES = NeuralType(("T",), ElementType())
MATRICES = NeuralType((AxisType(AxisKind.Batch, is_list=True), "T", "D:4"), ChannelType())


def typed(value: Tensor, neural_type: NeuralType) -> Tensor:
    value.neural_type = neural_type  # type: ignore[attr-defined]
    return value


def echo(inputs: Any = None, outputs: Any = None, result: Any = None, **options: Any) -> Callable[..., Any]:
    """Return a typed call with these ports, which gives ``result``, or else its first argument."""

    class Echo(Typing):
        input_types = inputs
        output_types = outputs

        @typecheck(**options)
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return next(iter((*args, *kwargs.values()))) if result is None else result

    return Echo()


class Encoder(NeuralModule):
    """A module as users write them, its sizes from its parameters."""

    def __init__(self, in_features: int = 8, out_features: int = 16) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.linear = nn.Linear(in_features, out_features)

    @cached_property
    def input_types(self) -> dict[str, NeuralType]:
        return {
            "features": NeuralType(("B", "T:frames", f"D:{self.in_features}"), MelSpectrogramType()),
            "lengths": LENGTHS,
        }

    @cached_property
    def output_types(self) -> dict[str, NeuralType]:
        encoded = NeuralType(("B", "T:frames", f"D:{self.out_features}"), AcousticEncodedRepresentation())
        return {"encoded": encoded, "lengths": LENGTHS}

    @typecheck()
    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return self.linear(features), lengths


class Decoder(NeuralModule):
    """A module with ports as class attributes."""

    input_types = {"encoded": NeuralType(("B", "T", "D:16"), EncodedRepresentation())}
    output_types = {"log_probs": NeuralType(("B", "T", "D:5"), LogprobsType())}

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 5)

    @typecheck()
    def forward(self, encoded: Tensor) -> Tensor:
        return torch.log_softmax(self.linear(encoded), dim=-1)


class ByProperty(Decoder):
    """Ports as properties."""

    @property
    def input_types(self) -> dict[str, NeuralType]:  # type: ignore[override]
        return {"encoded": NeuralType(("B", "T", "D:16"), EncodedRepresentation())}


@pytest.mark.parametrize(
    ("ports", "arguments"),
    [
        pytest.param({"x": VECTOR}, {"x": torch.zeros(3)}, id="tensor"),
        pytest.param({"x": VECTOR}, {"x": nn.Parameter(torch.zeros(3))}, id="parameter"),
        pytest.param({"x": VECTOR}, {"x": np.zeros(3)}, id="array"),
        pytest.param({"x": VECTOR}, {"x": 3.0}, id="no_tensor"),
        pytest.param({"x": VECTOR, "y": OPTIONAL}, {"x": torch.zeros(3)}, id="optional_left_out"),
        pytest.param({"x": VECTOR, "y": OPTIONAL}, {"x": torch.zeros(3), "y": None}, id="optional_none"),
        pytest.param({"x": VECTOR, "y": OPTIONAL}, {"x": torch.zeros(3), "y": torch.zeros(3)}, id="optional_given"),
        pytest.param({"x": VECTOR, "y": [OPTIONAL]}, {"x": torch.zeros(3), "y": None}, id="optional_list_none"),
        pytest.param({"x": FEATURES}, {"x": torch.zeros(2, 5, 8)}, id="size"),
        pytest.param({"x": NeuralType()}, {"x": torch.zeros(2, 5, 8, 1)}, id="anything"),
        pytest.param({"x": NeuralType((), LogitsType())}, {"x": torch.tensor(1.0)}, id="scalar"),
        pytest.param({"x": [VECTOR]}, {"x": [torch.zeros(3), torch.zeros(4)]}, id="list_of_batches"),
        pytest.param({"x": [VECTOR]}, {"x": ()}, id="empty_list"),
        pytest.param({"x": [[VECTOR]]}, {"x": [[torch.zeros(3)], (torch.zeros(3),)]}, id="lists_of_lists"),
        pytest.param({"x": VECTOR, "y": [[SAMPLES]]}, {"x": torch.zeros(2), "y": [[torch.zeros(3)]]}, id="mixed"),
        pytest.param({"x": MATRICES}, {"x": [torch.zeros(3, 4), torch.zeros(5, 4)]}, id="list_axis"),
        pytest.param({"x": MATRICES}, {"x": torch.zeros(2, 3, 4)}, id="list_axis_stacked"),
        pytest.param({"x": SPECTROGRAM}, {"x": typed(torch.zeros(2, 5, 8), FEATURES)}, id="child"),
        pytest.param({"x": FEATURES}, {"x": typed(torch.zeros(2, 5, 8), OPEN_FEATURES)}, id="sizes_left_open"),
        pytest.param(
            {"x": NeuralType((AxisType(AxisKind.Batch, is_list=True),), StringType()), "y": VECTOR},
            {"x": ["one", "two"], "y": torch.zeros(2)},
            id="list_of_strings",
        ),
    ],
)
def test_what_fits_passes(ports: Any, arguments: dict[str, Any]) -> None:
    assert echo(ports)(**arguments) is arguments["x"]


@pytest.mark.parametrize(
    ("ports", "arguments", "message"),
    [
        pytest.param({"x": VECTOR}, {"z": torch.zeros(3)}, "no input is called 'z'", id="unknown"),
        pytest.param({"features": FEATURES}, {"feature": 1}, "'feature'; nearest: features", id="misspelt"),
        pytest.param({"x": VECTOR}, {"x": torch.zeros(3), "y": 1}, "no input is called 'y'", id="surplus"),
        pytest.param({"x": VECTOR, "y": LENGTHS}, {"x": 1}, r"input 'y' LengthsType \(B\) is not fed", id="missing"),
        pytest.param({"x": VECTOR, "y": [VECTOR]}, {"x": 1}, "input 'y' .* is not fed", id="missing_list"),
        pytest.param({}, {"x": 1}, r"no input is called 'x' \(inputs: none\)", id="no_ports"),
        pytest.param({"x": VECTOR}, {"x": torch.zeros(3, 1)}, r"shape \(3, 1\) \(it has 2 axes, not 1\)", id="rank"),
        pytest.param({"x": VECTOR}, {"x": np.zeros((3, 1))}, "untyped ndarray of shape", id="rank_of_array"),
        pytest.param({"x": FEATURES}, {"x": torch.zeros(2, 5, 9)}, r"D:8\), got .*5, 9.* has 9, not 8", id="size"),
        pytest.param({"x": [VECTOR]}, {"x": torch.zeros(3)}, "in a list, got it by itself", id="no_list"),
        pytest.param({"x": VECTOR}, {"x": [torch.zeros(3)]}, "by itself, got it in a list", id="list"),
        pytest.param({"x": [[VECTOR]]}, {"x": [torch.zeros(3)]}, "list of lists, got it in a list", id="shallow"),
        pytest.param({"x": [VECTOR]}, {"x": [[[torch.zeros(3)]]]}, "in a list, got it in 3 lists", id="deep"),
        pytest.param({"x": [VECTOR]}, {"x": [torch.zeros(1, 1)]}, "has 2 axes, not 1", id="rank_in_list"),
        pytest.param({"x": [FEATURES]}, {"x": [torch.zeros(2, 5, 9)]}, "axis 2 has 9, not 8", id="size_in_list"),
        pytest.param({"x": MATRICES}, {"x": [torch.zeros(3, 5)]}, "axis 2 has 5, not 4", id="size_under_list_axis"),
        pytest.param({"x": [VECTOR, VECTOR]}, {"x": [1]}, "a NeuralType, or a list of one", id="two_types_in_a_list"),
    ],
)
def test_misfed_inputs_are_refused(ports: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(NeuralTypeError, match=message) as caught:
        echo(ports)(**arguments)
    assert isinstance(caught.value, TypeError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("port", "fed", "words"),
    [
        pytest.param(FEATURES, SPECTROGRAM, "more specific", id="parent_type"),
        pytest.param(
            FEATURES, NeuralType(("B", "D:8", "T"), MelSpectrogramType()), "transpose the axes", id="transposed"
        ),
        pytest.param(FEATURES, NeuralType(("B", "T", "D:9"), MelSpectrogramType()), "axis sizes differ", id="size"),
        pytest.param(FEATURES, NeuralType(("B", "T", "D:8"), LogitsType()), "INCOMPATIBLE", id="element"),
        pytest.param(
            NeuralType(("B", "T"), AudioSignal(16_000)),
            NeuralType(("B", "T"), AudioSignal(8_000)),
            r"freq=16000\) \(B, T\), got AudioSignal\(freq=8000",
            id="sample_rate",
        ),
    ],
)
def test_a_tensor_of_another_type_is_refused(port: NeuralType, fed: NeuralType, words: str) -> None:
    shape = tuple(axis.fixed or 8 for axis in fed.axes or ())
    with pytest.raises(NeuralTypeError, match=words) as caught:
        echo({"x": port})(x=typed(torch.zeros(shape), fed))
    for part in ("Echo.__call__", "'x'", str(port.elements_type.__class__.__name__), str(fed), str(shape)):
        assert part in str(caught.value)
    with pytest.raises(NeuralTypeError):
        echo({"x": [port]})(x=[typed(torch.zeros(shape), fed)])


@pytest.mark.parametrize(
    ("ports", "arguments", "message"),
    [
        pytest.param(
            {"x": FEATURES, "n": LENGTHS},
            {"x": torch.zeros(4, 5, 8), "n": torch.zeros(3)},
            r"input 'n' takes LengthsType \(B:4\), got .*\(3,\).*'batch' axis, and that is 4 in 'x'",
            id="batch",
        ),
        pytest.param(
            {"x": NeuralType(("B", "T:frames")), "y": NeuralType(("B", "T:frames"))},
            {"x": torch.zeros(2, 5), "y": torch.zeros(2, 6)},
            "'frames' axis, and that is 5 in 'x'",
            id="name",
        ),
        pytest.param({"x": NeuralType(("D:n", "D:n"))}, {"x": torch.zeros(2, 3)}, "axis 1 is a 'n' axis", id="square"),
        pytest.param(
            {"x": [NeuralType(("T:n",))]},
            {"x": [torch.zeros(2), torch.zeros(3)]},
            "that is 2 before it",
            id="in_a_list",
        ),
        pytest.param(
            {"x": LENGTHS, "y": MATRICES},
            {"x": torch.zeros(3), "y": [torch.zeros(1, 4)]},
            "'batch' axis",
            id="list_axis",
        ),
    ],
)
def test_sizes_bound_twice_must_agree(ports: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(NeuralTypeError, match=message):
        echo(ports)(**arguments)


def test_sizes_hold_between_inputs_and_outputs_of_one_call_only() -> None:
    ports = {"x": NeuralType(("B", "T:frames"))}
    assert echo(ports, {"y": NeuralType(("B", "D"))})(x=torch.zeros(2, 5)).shape == (2, 5)
    with pytest.raises(NeuralTypeError, match=r"output 'y' gives .*'frames' axis, and that is 5 in 'x'"):
        echo(ports, {"y": NeuralType(("B", "T:frames"))}, result=torch.zeros(2, 4))(x=torch.zeros(2, 5))
    with pytest.raises(NeuralTypeError, match="'batch' axis"):
        echo(ports, {"y": NeuralType(("B", "T"))}, result=torch.zeros(3, 5))(x=torch.zeros(2, 5))
    call = echo(ports)
    assert call(x=torch.zeros(2, 5)).shape != call(x=torch.zeros(3, 6)).shape


@given(st.lists(st.integers(1, 3), min_size=1, max_size=4), st.lists(st.integers(1, 3), min_size=1, max_size=4))
def test_named_sizes_agree_as_shapes_do(first: list[int], second: list[int]) -> None:
    ports = {name: NeuralType([f"D:n{axis}" for axis in range(3)]) for name in ("x", "y")}
    arguments = {"x": torch.zeros(first), "y": torch.zeros(second)}
    fits = len(first) == 3 and first == second
    with nullcontext() if fits else pytest.raises(NeuralTypeError):
        echo(ports)(**arguments)


class Pair(NamedTuple):
    one: Any
    other: Any


V = torch.zeros(3)


def fresh(shape: Any) -> Any:
    return [fresh(part) for part in shape] if isinstance(shape, list) else torch.zeros(shape)


@pytest.mark.parametrize(
    ("ports", "result"),
    [
        pytest.param({"y": VECTOR}, lambda: fresh(3), id="one"),
        pytest.param({"y": VECTOR}, lambda: [fresh(3)], id="one_in_a_list"),
        pytest.param({"y": VECTOR, "z": VECTOR}, lambda: (fresh(3), fresh(3)), id="two"),
        pytest.param({"y": VECTOR, "z": VECTOR}, lambda: [fresh(3), fresh(3)], id="two_in_a_list"),
        pytest.param({"y": VECTOR, "z": VECTOR}, lambda: Pair(fresh(3), fresh(3)), id="two_named"),
        pytest.param({"y": VECTOR, "z": VECTOR}, lambda: {"z": fresh(3), "y": fresh(3)}, id="two_by_name"),
        pytest.param({"y": VECTOR, "z": [VECTOR]}, lambda: (fresh(3), [fresh(3), fresh(3)]), id="one_and_list"),
        pytest.param({"y": VECTOR, "z": OPTIONAL}, lambda: fresh(3), id="optional_left_out"),
        pytest.param({"y": VECTOR, "z": OPTIONAL}, lambda: (fresh(3), None), id="optional_none"),
        pytest.param({"y": [VECTOR]}, lambda: [fresh(3), fresh(3), fresh(3)], id="list"),
        pytest.param({"y": [VECTOR]}, lambda: ([fresh(3), fresh(3)],), id="list_in_a_tuple"),
        pytest.param({"y": [[VECTOR]]}, lambda: [[fresh(3)], [fresh(3), fresh(3)]], id="lists"),
        pytest.param({"y": MATRICES}, lambda: [fresh((3, 4)), fresh((5, 4))], id="list_axis"),
    ],
)
def test_outputs_carry_their_types(ports: Any, result: Callable[[], Any]) -> None:
    seen = []

    def look(value: Any, port: Any) -> None:
        if isinstance(value, (list, tuple)):
            for item in value:
                look(item, port)
        elif value is not None:
            seen.append(value)
            assert value.neural_type.compare(port) is NeuralTypeComparisonResult.SAME

    given = echo(outputs=ports, result=result())()
    look(list(given.values()) if isinstance(given, dict) else given, MATRICES if ports.get("y") is MATRICES else VECTOR)
    assert seen


@pytest.mark.parametrize(
    ("ports", "result", "message"),
    [
        pytest.param({"y": VECTOR}, (V, V), r"gives 1 outputs \(y\), but the method returned 2", id="too_many"),
        pytest.param({"y": VECTOR, "z": VECTOR}, V, "gives 2 outputs .* returned 1", id="too_few"),
        pytest.param({"y": VECTOR, "z": VECTOR}, (V,), "gives 2 outputs .* returned 1", id="too_few_in_a_tuple"),
        pytest.param({"y": VECTOR, "z": VECTOR}, {"y": V}, "gives 2 outputs .* returned 1", id="too_few_by_name"),
        pytest.param({"y": VECTOR, "z": VECTOR}, {"y": V, "x": V}, "no output is called 'x'", id="unknown_name"),
        pytest.param({"y": VECTOR, "z": [VECTOR]}, ([V, V], V), "'y' .* by itself, got it in a list", id="swapped"),
        pytest.param({"y": [VECTOR]}, V, "in a list, got it by itself", id="no_list"),
        pytest.param({"y": [[VECTOR]]}, (V, V, V), "list of lists, got it in a list", id="shallow"),
        pytest.param({"y": FEATURES}, V, r"output 'y' gives MelSpectrogramType \(B, T, D:8\), got .*\(3,\)", id="rank"),
        pytest.param({"y": FEATURES}, torch.zeros(2, 5, 9), "axis 2 has 9, not 8", id="size"),
        pytest.param({"y": [FEATURES]}, [V], "1 axes, not 3", id="rank_in_a_list"),
    ],
)
def test_wrong_outputs_are_refused(ports: Any, result: Any, message: str) -> None:
    with pytest.raises(NeuralTypeError, match=message):
        echo(outputs=ports, result=result)()


def test_handing_on_a_tensor_does_not_make_its_type_coarser() -> None:
    features = typed(torch.zeros(2, 5, 8), FEATURES)
    masked = echo({"x": FEATURES}, {"y": SPECTROGRAM})(x=features)
    assert masked is features
    assert masked.neural_type is FEATURES
    assert echo(outputs={"y": NeuralType(("B", "T", "D"), LogitsType())}, result=features)().neural_type != FEATURES


@pytest.mark.parametrize(
    ("options", "arguments", "fits"),
    [
        pytest.param({}, ([V],), False, id="ports_and_position"),
        pytest.param({"input_types": None}, ([V],), True, id="inputs_unchecked"),
        pytest.param({"input_types": {"x": [VECTOR]}}, ([V],), False, id="own_ports_and_position"),
    ],
)
def test_positional_arguments_pass_only_without_input_ports(options: Any, arguments: Any, fits: bool) -> None:
    call = echo({"x": VECTOR}, {"y": [VECTOR]}, **options)
    with nullcontext() if fits else pytest.raises(TypeError, match="keywords only: x"):
        assert call(*arguments)[0].neural_type is VECTOR


def test_a_method_may_have_ports_of_its_own() -> None:
    class Two(Typing):
        input_types = {"x": VECTOR}
        output_types = {"y": VECTOR}

        @typecheck()
        def by_class(self, x: Tensor) -> Tensor:
            return x + 1

        @typecheck(input_types={"z": LOGITS}, output_types={"u": LOGITS, "v": LENGTHS})
        def by_method(self, z: Tensor) -> tuple[Tensor, Tensor]:
            return z + 1, z.sum(1)

        @typecheck(input_types=typecheck.TypeState.UNINITIALIZED, output_types=None)
        def half(self, x: Tensor) -> Tensor:
            return x.new_zeros(2, 2)

    two = Two()
    assert two.by_class(x=torch.zeros(3)).neural_type is VECTOR
    assert [value.neural_type for value in two.by_method(z=torch.zeros(2, 3))] == [LOGITS, LENGTHS]
    assert not hasattr(two.half(x=torch.zeros(3)), "neural_type")
    for method, wrong in ((two.by_class, "z"), (two.by_method, "x"), (two.half, "z")):
        with pytest.raises(TypeError, match=f"no input is called '{wrong}'"):
            method(**{wrong: torch.zeros(3)})


def test_ports_may_follow_the_objects_state() -> None:
    class Switching(Typing):
        training = True

        @property
        def input_types(self) -> Any:
            return {"x": VECTOR, "y": VECTOR} if self.training else {"x": VECTOR}

        @typecheck()
        def __call__(self, x: Tensor, y: Tensor | None = None) -> Tensor:
            return x

    call = Switching()
    call(x=torch.zeros(3), y=torch.zeros(3))
    call.training = False
    call(x=torch.zeros(3))
    with pytest.raises(TypeError, match="no input is called 'y'"):
        call(x=torch.zeros(3), y=torch.zeros(3))


def test_without_ports_nothing_is_checked() -> None:
    result = echo()(torch.tensor(1.0))
    assert result == 1
    assert not hasattr(result, "neural_type")


def test_nesting_can_be_ignored() -> None:
    call = echo({"x": VECTOR}, {"y": LENGTHS, "z": LOGITS}, [[V], [[torch.zeros(3, 2)]]], ignore_collections=True)
    first, second = call(x=[[torch.zeros(3)], torch.zeros(3)])
    assert (first[0].neural_type, second[0][0].neural_type) == (LENGTHS, LOGITS)
    with pytest.raises(TypeError, match="2 axes, not 1"):
        call(x=[[torch.zeros(3, 1)]])


def test_only_objects_with_ports_can_be_checked() -> None:
    class Plain:
        input_types = {"x": VECTOR}

        @typecheck()
        def __call__(self, x: Tensor) -> Tensor:
            return x

    with pytest.raises(RuntimeError, match=r"Plain\.__call__, whose class is no subclass of Typing"):
        Plain()(x=torch.zeros(3))


WRONG_TYPE = {"x": typed(torch.zeros(2, 2), LOGITS)}
WRONG_NAME = {"z": torch.zeros(3)}


@pytest.mark.parametrize(
    ("switch", "wrong_type", "wrong_name"),
    [
        pytest.param(nullcontext, False, False, id="all_on"),
        pytest.param(typecheck.disable_checks, True, True, id="all_off"),
        pytest.param(typecheck.disable_semantic_checks, True, False, id="names_only"),
    ],
)
def test_switches(switch: Callable[[], AbstractContextManager[None]], wrong_type: bool, wrong_name: bool) -> None:
    call = echo({"x": VECTOR}, {"y": LOGITS})
    for arguments, passes in ((WRONG_TYPE, wrong_type), (WRONG_NAME, wrong_name)):
        with switch(), nullcontext() if passes else pytest.raises(TypeError):
            call(**arguments)
    with switch(), switch():
        pass
    with pytest.raises(TypeError):  # and on again
        call(**WRONG_TYPE)


def test_static_switches() -> None:
    call = echo({"x": VECTOR}, {"y": VECTOR})
    try:
        typecheck.set_semantic_check_enabled(False)
        assert call(**WRONG_TYPE) is not None
        with pytest.raises(TypeError):
            call(**WRONG_NAME)
        typecheck.set_typecheck_enabled(False)
        assert call(**WRONG_NAME) is WRONG_NAME["z"]
        with typecheck.disable_checks():
            pass
        assert call(torch.zeros(3)) is not None  # still off after the block
    finally:
        typecheck.set_typecheck_enabled(True)
        typecheck.set_semantic_check_enabled(True)


def test_semantic_checks_off_still_count_and_attach() -> None:
    with typecheck.disable_semantic_checks():
        assert echo(outputs={"y": LOGITS}, result=torch.zeros(3))().neural_type is LOGITS
        with pytest.raises(TypeError, match="gives 2 outputs"):
            echo(outputs={"y": LOGITS, "z": LOGITS}, result=torch.zeros(3))()


def test_without_wrapping_methods_stay_bare() -> None:
    def method(self: Any) -> None:
        """Do nothing."""

    try:
        typecheck.enable_wrapping(False)
        assert typecheck()(method) is method
    finally:
        typecheck.enable_wrapping(True)
    assert typecheck()(method) is not method


def test_a_chain_of_modules_checks_types_and_errors_name_module_and_method() -> None:
    encoder, decoder = Encoder(), Decoder()
    encoded, lengths = encoder(features=torch.zeros(2, 5, 8), lengths=torch.tensor([5, 3]))
    log_probs = decoder(encoded=encoded)
    assert (str(log_probs.neural_type), str(lengths.neural_type)) == ("LogprobsType (B, T, D:5)", "LengthsType (B)")
    with pytest.raises(
        NeuralTypeError,
        match=r"^Decoder\.forward: input 'encoded' takes EncodedRepresentation \(B, T, D:16\), "
        r"got LogprobsType \(B, T, D:5\) of shape \(2, 5, 5\) \(INCOMPATIBLE\)$",
    ):
        decoder(encoded=log_probs)


@pytest.mark.parametrize("kind", [Encoder, Decoder, ByProperty])
@pytest.mark.parametrize(
    "transform",
    [
        pytest.param(lambda module, kwargs: torch.jit.script(module), id="script"),
        pytest.param(lambda module, kwargs: torch.jit.trace(module, example_kwarg_inputs=kwargs), id="jit_trace"),
        pytest.param(lambda module, kwargs: torch.compile(module, backend="eager", fullgraph=True), id="compile"),
        pytest.param(lambda module, kwargs: torch.export.export(module, (), kwargs).module(), id="export"),
        pytest.param(lambda module, kwargs: pickle.loads(pickle.dumps(module)), id="pickle"),
        pytest.param(lambda module, kwargs: copy.deepcopy(module), id="deepcopy"),
    ],
)
def test_typed_modules_compile_and_travel(kind: type[NeuralModule], transform: Callable[..., Any]) -> None:
    module = kind()
    kwargs = {"features": torch.rand(2, 5, 8), "lengths": torch.tensor([5, 3])}
    if kind is not Encoder:
        kwargs = {"encoded": torch.rand(2, 5, 16)}
    expected = module(**kwargs)
    torch.testing.assert_close(transform(module, kwargs)(**kwargs), expected)
    module.freeze()
    torch.testing.assert_close(transform(module, kwargs)(**kwargs), expected)


def test_compiled_code_has_no_checks() -> None:
    module = torch.compile(Encoder(), backend="eager", fullgraph=True)
    assert not hasattr(module(torch.zeros(2, 5, 8), torch.zeros(7))[0], "neural_type")


def test_any_number_of_typed_modules_can_be_compiled() -> None:
    def scaled() -> type[NeuralModule]:
        class Scaled(NeuralModule):
            input_types = {"x": VECTOR}

            @typecheck()
            def forward(self, x: Tensor) -> Tensor:
                return 2 * x

        return Scaled

    for _ in range(torch._dynamo.config.recompile_limit + 2):
        module = torch.compile(scaled()(), backend="eager", fullgraph=True)
        assert module(x=torch.ones(2)).tolist() == [2, 2]


def thrice(x: Tensor) -> Tensor:
    return x * 3


def test_script_sees_names_of_the_module_and_of_the_function_around_the_class() -> None:
    def shifted(x: Tensor) -> Tensor:
        return x + 0.5

    class Scaled(NeuralModule):
        input_types = {"x": VECTOR}

        @typecheck()
        @torch.no_grad()
        def forward(self, x: Tensor) -> Tensor:
            return shifted(thrice(x))

    assert torch.jit.script(Scaled())(torch.ones(2)).tolist() == [3.5, 3.5]


def test_typed_outputs_travel() -> None:
    encoded, _ = Encoder()(features=torch.rand(2, 5, 8), lengths=torch.tensor([5, 3]))
    buffer = io.BytesIO()
    torch.save(encoded, buffer)
    buffer.seek(0)
    again = torch.load(buffer, weights_only=False)
    assert again.neural_type == encoded.neural_type
    assert not hasattr(encoded + 1, "neural_type")


def test_the_decorator_keeps_the_methods_face() -> None:
    assert Encoder.forward.__name__ == "forward"
    assert list(Encoder.forward.__annotations__) == ["features", "lengths", "return"]
