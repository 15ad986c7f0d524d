"""Neural types: construction, comparison, equality, text."""

from __future__ import annotations

import copy
import inspect
import itertools
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rayconvai.core import (
    AcousticEncodedRepresentation,
    AudioSignal,
    AxisKind,
    AxisKindAbstract,
    AxisType,
    CategoricalValuesType,
    ChannelType,
    ClassificationTarget,
    ElementType,
    EmbeddedTextType,
    EncodedRepresentation,
    HypothesisType,
    ImageFeatureValue,
    ImageValue,
    IntType,
    LabelsType,
    Length,
    LengthsType,
    LogitsType,
    LossType,
    MaskType,
    MelSpectrogramType,
    MFCCSpectrogramType,
    NeuralType,
    NeuralTypeComparisonResult,
    NeuralTypeError,
    NormalDistributionSamplesType,
    NormalizedImageValue,
    PredictionsType,
    ProbabilityDistributionSamplesType,
    RegressionValuesType,
    SpectrogramType,
    StringLabel,
    StringType,
    Target,
    TokenIndex,
    VideoSignal,
    VoidType,
    elements,
)

SAME, LESS, GREATER, DIM, TRANSPOSE, _, OTHER, PARAMETERS, _ = NeuralTypeComparisonResult

ELEMENTS = [
    kind
    for _, kind in inspect.getmembers(elements, inspect.isclass)
    if issubclass(kind, ElementType) and kind is not ElementType
]


class Box(ElementType):
    """A rectangle in an image."""

    @property
    def fields(self) -> tuple[str, ...]:
        return ("x", "y", "width", "height")


class BoxWith(ElementType):
    """A structure whose fields are given."""

    def __init__(self, *names: str) -> None:
        self.names = names

    @property
    def fields(self) -> tuple[str, ...]:
        return self.names


class OurAxis(AxisKindAbstract):
    Speaker = 0


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        pytest.param("b B n N batch Batch", AxisKind.Batch, id="batch"),
        pytest.param("t T time TIME T_text t_spec", AxisKind.Time, id="time"),
        pytest.param("d D c C channel", AxisKind.Dimension, id="dimension"),
        pytest.param("w width", AxisKind.Width, id="width"),
        pytest.param("h height", AxisKind.Height, id="height"),
        pytest.param("s singleton", AxisKind.Singleton, id="singleton"),
        pytest.param("seq Sequence", AxisKind.Sequence, id="sequence"),
        pytest.param("FlowGroup", AxisKind.FlowGroup, id="flow_group"),
        pytest.param("any Any ANY", AxisKind.Any, id="any"),
    ],
)
def test_axis_kinds_by_short_name(labels: str, kind: AxisKind) -> None:
    assert {AxisKind.from_str(label) for label in labels.split()} == {kind}


def test_channel_is_another_name_of_dimension() -> None:
    assert AxisKind.Channel is AxisKind.Dimension
    assert AxisType(AxisKind.Channel) == AxisType.from_str("C")


@pytest.mark.parametrize("label", ["x", "", "bt", "dimensions"])
def test_unknown_axis_kind_is_refused(label: str) -> None:
    with pytest.raises(ValueError, match="no axis kind"):
        AxisKind.from_str(label)


@pytest.mark.parametrize(
    ("short", "long"),
    [
        pytest.param("D:80", AxisType(AxisKind.Dimension, 80), id="number"),
        pytest.param("T:frames", AxisType(AxisKind.Time, "frames"), id="name"),
        pytest.param(" B ", AxisType(AxisKind.Batch), id="spaces"),
    ],
)
def test_axes_by_short_string(short: str, long: AxisType) -> None:
    assert NeuralType((short,), LabelsType()).axes == (long,)


@pytest.mark.parametrize(
    ("axes", "element", "message"),
    [
        pytest.param(("B", AxisType(AxisKind.Time, is_list=True)), VoidType(), "list axes stand", id="late_list"),
        pytest.param(("B",), LabelsType, r"not .*LabelsType.*add \(\)", id="element_class"),
        pytest.param(("B",), "labels", "instance of an ElementType", id="element_string"),
        pytest.param((1,), VoidType(), "string or an AxisType", id="axis_number"),
        pytest.param(("Q",), VoidType(), "no axis kind", id="unknown_axis"),
    ],
)
def test_malformed_types_are_refused(axes: Any, element: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NeuralType(axes, element)


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({"kind": "B"}, id="kind"),
        pytest.param({"kind": AxisKind.Time, "size": -1}, id="negative"),
        pytest.param({"kind": AxisKind.Time, "size": 3, "is_list": True}, id="list_of_fixed_size"),
    ],
)
def test_malformed_axes_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        AxisType(**arguments)


@pytest.mark.parametrize(
    ("child", "parent"),
    [
        (EmbeddedTextType, ChannelType),
        (EncodedRepresentation, ChannelType),
        (SpectrogramType, ChannelType),
        (AcousticEncodedRepresentation, EncodedRepresentation),
        (MelSpectrogramType, SpectrogramType),
        (MFCCSpectrogramType, SpectrogramType),
        (HypothesisType, LabelsType),
        (PredictionsType, LabelsType),
        (RegressionValuesType, PredictionsType),
        (CategoricalValuesType, PredictionsType),
        (MaskType, PredictionsType),
        (StringLabel, StringType),
        (Length, IntType),
        (TokenIndex, IntType),
        (ClassificationTarget, Target),
        (NormalizedImageValue, ImageValue),
        (ImageFeatureValue, ImageValue),
        (NormalDistributionSamplesType, ProbabilityDistributionSamplesType),
        (LossType, ElementType),
    ],
)
def test_element_tree(child: type[ElementType], parent: type[ElementType]) -> None:
    assert child.__base__ is parent
    assert (child().compare(parent()), parent().compare(child())) == (LESS, GREATER)


@pytest.mark.parametrize("kind", ELEMENTS)
def test_element_says_what_it_is(kind: type[ElementType]) -> None:
    assert str(kind()) == kind.__doc__
    assert repr(kind()) == kind.__name__


@pytest.mark.parametrize(
    ("first", "second", "result"),
    [
        pytest.param(AudioSignal(16_000), AudioSignal(16_000), SAME, id="rates_equal"),
        pytest.param(AudioSignal(16_000), AudioSignal(8_000), PARAMETERS, id="rates_differ"),
        pytest.param(AudioSignal(16_000), AudioSignal(), SAME, id="any_rate_fed"),
        pytest.param(AudioSignal(), AudioSignal(8_000), SAME, id="any_rate_taken"),
        pytest.param(VideoSignal(25), VideoSignal(30), PARAMETERS, id="frame_rates_differ"),
        pytest.param(AudioSignal(25), VideoSignal(25), OTHER, id="unrelated"),
        pytest.param(Box(), Box(), SAME, id="fields_equal"),
        pytest.param(BoxWith("x", "y"), BoxWith("x"), OTHER, id="fields_differ"),
        pytest.param(BoxWith("x", "y"), BoxWith("y", "x"), OTHER, id="fields_in_another_order"),
        pytest.param(VoidType(), LabelsType(), SAME, id="void_takes_all"),
        pytest.param(LabelsType(), VoidType(), OTHER, id="nothing_takes_void"),
        pytest.param(ElementType(), VoidType(), GREATER, id="but_the_root"),
    ],
)
def test_compare_elements(first: ElementType, second: ElementType, result: NeuralTypeComparisonResult) -> None:
    assert first.compare(second) is result
    assert NeuralType(("B",), first).compare(NeuralType(("B",), second)) is result


def listed(*kinds: AxisKindAbstract) -> tuple[AxisType, ...]:
    return tuple(AxisType(kind, is_list=True) for kind in kinds)


@pytest.mark.parametrize(
    ("first", "second", "result"),
    [
        pytest.param(("B", "D", "T"), ("n", "channel", "time"), SAME, id="short_and_long"),
        pytest.param(("B", "T"), ("T", "B"), TRANSPOSE, id="transposed"),
        pytest.param(("B", "T", "D:8"), ("B", "D:8", "T"), TRANSPOSE, id="transposed_with_size"),
        pytest.param(("B", "T", "D:8"), ("B", "D:9", "T"), DIM, id="transposed_other_size"),
        pytest.param(("B", "T", "D:8"), ("B", "T", "D:9"), DIM, id="other_size"),
        pytest.param(("B", "T", "D"), ("B:64", "T:10", "D:128"), SAME, id="open_takes_fixed"),
        pytest.param(("B:64", "T:10", "D:128"), ("B", "T", "D"), DIM, id="fixed_takes_not_open"),
        pytest.param(("B", "D:32", "D:128"), ("B", "D:64", "D:128"), DIM, id="one_of_two_sizes"),
        pytest.param(("B", "T:frames"), ("B", "T:tokens"), SAME, id="names_hold_within_a_call"),
        pytest.param(("B", "T"), ("B", "T", "D"), OTHER, id="other_rank"),
        pytest.param(("B", "T"), ("B", "D"), OTHER, id="other_kind"),
        pytest.param(("B", "T", "T"), ("B", "B", "T"), OTHER, id="kinds_other_times"),
        pytest.param(("B", "Any", "Any"), ("B", "T", "D"), SAME, id="any_takes_all"),
        pytest.param(("T", "Any"), ("B", "D"), OTHER, id="any_excuses_no_other_axis"),
        pytest.param(("B", "T", "D"), ("B", "Any", "Any"), OTHER, id="nothing_takes_any"),
        pytest.param((), (), SAME, id="scalars"),
        pytest.param(None, None, SAME, id="no_axes"),
        pytest.param(None, ("B",), OTHER, id="no_axes_takes_some"),
        pytest.param(("B",), None, OTHER, id="axes_take_none"),
        pytest.param(listed(AxisKind.Time, OurAxis.Speaker), listed(AxisKind.Time, OurAxis.Speaker), SAME, id="lists"),
        pytest.param(listed(AxisKind.Batch), ("B",), TRANSPOSE, id="list_for_tensor_axis"),
        pytest.param(listed(OurAxis.Speaker), listed(AxisKind.Batch), OTHER, id="kind_of_ones_own"),
    ],
)
def test_compare_axes(first: Any, second: Any, result: NeuralTypeComparisonResult) -> None:
    assert NeuralType(first, LogitsType()).compare(NeuralType(second, LogitsType())) is result


@pytest.mark.parametrize(
    ("first", "second", "result"),
    [
        pytest.param(
            NeuralType(("B", "T"), MelSpectrogramType()),
            NeuralType(("T", "B"), SpectrogramType()),
            OTHER,
            id="transposed_and_child",
        ),
        pytest.param(
            NeuralType(("B", "D:4"), ChannelType()),
            NeuralType(("B", "D:5"), SpectrogramType()),
            OTHER,
            id="sizes_and_child",
        ),
        pytest.param(NeuralType(("B", "T")), NeuralType(("T", "B"), AudioSignal()), TRANSPOSE, id="void_with_axes"),
        pytest.param(NeuralType(("B", "T")), NeuralType(("B", "T"), AudioSignal()), SAME, id="void_same_axes"),
        pytest.param(NeuralType(), NeuralType(("B", "T"), AudioSignal()), SAME, id="anything"),
        pytest.param(NeuralType(), NeuralType(listed(AxisKind.Batch)), SAME, id="anything_lists"),
        pytest.param(NeuralType(("B",), AudioSignal()), NeuralType(), OTHER, id="nothing_takes_anything"),
    ],
)
def test_compare_both(first: NeuralType, second: NeuralType, result: NeuralTypeComparisonResult) -> None:
    assert first.compare(second) is result


ELEMENT = st.one_of(
    st.sampled_from([kind() for kind in ELEMENTS if kind is not VoidType]),
    st.builds(AudioSignal, st.sampled_from([8_000, 16_000])),
    st.builds(BoxWith, st.sampled_from(["x", "y"])),
)
AXIS = st.builds(
    AxisType,
    st.sampled_from([kind for kind in AxisKind if kind is not AxisKind.Any]),
    st.one_of(st.none(), st.integers(0, 3), st.sampled_from(["frames", "tokens"])),
)
TYPES = st.builds(NeuralType, st.one_of(st.none(), st.lists(AXIS, max_size=4)), ELEMENT, st.booleans())
MIRROR = {LESS: GREATER, GREATER: LESS}


@given(TYPES)
def test_a_type_is_the_same_as_itself(one: NeuralType) -> None:
    again = pickle.loads(pickle.dumps(one))
    assert one.compare(one) is one.compare(again) is SAME
    assert one == again
    assert hash(one) == hash(again)
    assert str(one) == str(again)


@given(ELEMENT, ELEMENT)
def test_comparison_of_elements_mirrors(first: ElementType, second: ElementType) -> None:
    result = first.compare(second)
    assert second.compare(first) is MIRROR.get(result, result)


@given(st.lists(AXIS.filter(lambda axis: axis.fixed is None), max_size=4), ELEMENT, ELEMENT)
def test_comparison_over_equal_axes_mirrors(axes: list[AxisType], first: ElementType, second: ElementType) -> None:
    result = NeuralType(axes, first).compare(NeuralType(axes, second))
    assert result is first.compare(second)
    assert NeuralType(axes, second).compare(NeuralType(axes, first)) is MIRROR.get(result, result)


@given(TYPES, TYPES)
def test_no_two_types_are_each_below_the_other(first: NeuralType, second: NeuralType) -> None:
    forth, back = first.compare(second), second.compare(first)
    assert (forth, back) not in {(LESS, LESS), (GREATER, GREATER)}
    if first == second:
        assert forth is back is SAME


@given(st.sampled_from(ELEMENTS), st.sampled_from(ELEMENTS), st.sampled_from(ELEMENTS))
def test_parents_are_transitive(first: Any, second: Any, third: Any) -> None:
    if VoidType not in (first, second, third) and first().compare(second()) is second().compare(third()) is LESS:
        assert first().compare(third()) is LESS


@given(st.lists(AXIS, min_size=2, max_size=4), st.randoms())
def test_permuted_axes_are_transposed_or_the_same(axes: list[AxisType], random: Any) -> None:
    permuted = list(axes)
    random.shuffle(permuted)
    assert NeuralType(axes, LogitsType()).compare(NeuralType(permuted, LogitsType())) in {SAME, TRANSPOSE}


def test_equality_is_of_meaning_not_of_the_port() -> None:
    kinds = [
        NeuralType(("B", "T"), AudioSignal(16_000)),
        NeuralType(("B", "T"), AudioSignal()),
        NeuralType(("B", "T:frames"), AudioSignal(16_000)),
        NeuralType(("B",), AudioSignal(16_000)),
        NeuralType(("B",), LabelsType()),
        NeuralType(),
    ]
    assert all((a == b) == (a is b) for a, b in itertools.product(kinds, kinds))
    assert len({*kinds, *map(copy.deepcopy, kinds)}) == len(kinds)
    assert NeuralType(("B",), LabelsType(), optional=True) == NeuralType(("B",), LabelsType())
    assert kinds[0] != "AudioSignal"


@pytest.mark.parametrize(
    ("neural_type", "text"),
    [
        pytest.param(NeuralType(("B", "D:80"), MelSpectrogramType()), "MelSpectrogramType (B, D:80)", id="sizes"),
        pytest.param(NeuralType(("B", "T"), AudioSignal(8_000)), "AudioSignal(freq=8000) (B, T)", id="parameters"),
        pytest.param(NeuralType(), "VoidType (any axes)", id="anything"),
        pytest.param(NeuralType(listed(AxisKind.Batch), StringType()), "StringType ([B])", id="list"),
    ],
)
def test_text(neural_type: NeuralType, text: str) -> None:
    assert str(neural_type) == text
    assert repr(neural_type) == f"NeuralType({text})"


def test_compare_and_raise_error_names_all() -> None:
    port = NeuralType(("B", "T"), AudioSignal(16_000))
    port.compare_and_raise_error("Encoder", "audio", NeuralType(("B", "T"), AudioSignal()))
    with pytest.raises(NeuralTypeError, match=r"Encoder: port 'audio' .*16000.*8000.*SAME_TYPE_INCOMPATIBLE_PARAMS"):
        port.compare_and_raise_error("Encoder", "audio", NeuralType(("B", "T"), AudioSignal(8_000)))
    with pytest.raises(TypeError):
        port.compare_and_raise_error("Encoder", "audio", NeuralType(("B",), LengthsType()))


@pytest.mark.parametrize("kind", ELEMENTS)
def test_elements_are_scriptable(kind: type[ElementType]) -> None:
    @torch.jit.script
    def unless_void(x: torch.Tensor) -> torch.Tensor:
        if isinstance(kind(), VoidType):
            return x
        else:  # noqa: RET505 (TorchScript settles the condition when it compiles, and then needs both branches)
            return x + 1

    assert unless_void(torch.tensor(1.0)) == (1 if kind is VoidType else 2)
