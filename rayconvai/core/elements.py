"""What the elements of a tensor mean: a tree of element types, over which ports are compared.

``str(element)`` is the docstring of its class, ``repr(element)`` the class name.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, ClassVar, Optional

from typing_extensions import override


class NeuralTypeComparisonResult(Enum):
    """How one neural type stands to another: ``a.compare(b)``."""

    SAME = 0
    LESS = 1
    """a is a child of b: more specific."""
    GREATER = 2
    """a is a parent of b: what b gives, a takes."""
    DIM_INCOMPATIBLE = 3
    """The same axes, but of other sizes."""
    TRANSPOSE_SAME = 4
    """The same axes in another order."""
    CONTAINER_SIZE_MISMATCH = 5
    INCOMPATIBLE = 6
    SAME_TYPE_INCOMPATIBLE_PARAMS = 7
    """The same element type with other parameters: another sample rate, say."""
    UNCHECKED = 8


class ElementType:
    """Anything: the root of the element types, and so a parent of them all."""

    # TorchScript compiles element classes that scripted code mentions; it cannot compile these properties.
    __jit_unused_properties__: ClassVar[list[str]] = ["type_parameters", "fields"]

    def __init__(self) -> None:
        """Take no parameters."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Give each class its own ``__init__``: TorchScript reads only what the class itself defines."""
        super().__init_subclass__(**kwargs)
        if cls.__init__ is ElementType.__init__:
            cls.__init__ = ElementType.__init__  # type: ignore[method-assign]

    def __str__(self) -> str:
        return type(self).__doc__ or ""

    def __repr__(self) -> str:
        return type(self).__name__

    @property
    def type_parameters(self) -> dict[str, Any]:
        """What tells two values of this type apart, a sample rate say; None matches every value."""
        return {}

    @property
    def fields(self) -> tuple[str, ...] | None:
        """The names of the parts of one element, in order, if it has parts (x, y, width, height of a box)."""
        return None

    def compare(self, second: ElementType) -> NeuralTypeComparisonResult:
        """Compare by class, then by parameters, then by fields."""
        if isinstance(self, VoidType):
            return NeuralTypeComparisonResult.SAME
        mine, other = type(self), type(second)
        if mine is not other:
            if issubclass(mine, other):
                return NeuralTypeComparisonResult.LESS
            if issubclass(other, mine):
                return NeuralTypeComparisonResult.GREATER
            return NeuralTypeComparisonResult.INCOMPATIBLE
        if not _parameters_match(self.type_parameters, second.type_parameters):
            return NeuralTypeComparisonResult.SAME_TYPE_INCOMPATIBLE_PARAMS
        if self.fields != second.fields:
            return NeuralTypeComparisonResult.INCOMPATIBLE
        return NeuralTypeComparisonResult.SAME


def _parameters_match(mine: dict[str, Any], other: dict[str, Any]) -> bool:
    if mine.keys() != other.keys():
        return False
    return all(value is None or other[name] is None or value == other[name] for name, value in mine.items())


class VoidType(ElementType):
    """Whatever comes: takes every element type, though no other type takes it."""


# Signals and what networks make of them


class ChannelType(ElementType):
    """The channels of a network's hidden layer."""


class EmbeddedTextType(ChannelType):
    """Vectors that stand for tokens of text."""


class EncodedRepresentation(ChannelType):
    """What an encoder gives."""


class AcousticEncodedRepresentation(EncodedRepresentation):
    """What an encoder gives of sound."""


class SpectrogramType(ChannelType):
    """A time-frequency picture of sound."""


class MelSpectrogramType(SpectrogramType):
    """A spectrogram on the mel scale, linear or logarithmic."""


class MFCCSpectrogramType(SpectrogramType):
    """Mel-frequency cepstral coefficients."""


class AudioSignal(ElementType):
    """Samples of a sound wave; ``freq`` is the sample rate in Hz, None for any."""

    def __init__(self, freq: Optional[int] = None) -> None:  # noqa: UP045 (TorchScript reads this annotation)
        self.freq = freq

    @property
    @override
    def type_parameters(self) -> dict[str, Any]:
        return {"freq": self.freq}


class VideoSignal(ElementType):
    """Frames of a video; ``fps`` is their number in a second, None for any."""

    def __init__(self, fps: Optional[int] = None) -> None:  # noqa: UP045 (TorchScript reads this annotation)
        self.fps = fps

    @property
    @override
    def type_parameters(self) -> dict[str, Any]:
        return {"fps": self.fps}


# Scores and decisions


class LogitsType(ElementType):
    """Scores before a softmax or sigmoid."""


class ProbsType(ElementType):
    """Probabilities, from 0 to 1."""


class LogprobsType(ElementType):
    """Natural logarithms of probabilities, at most 0."""


class LabelsType(ElementType):
    """What an example should come out as: token ids, classes, values."""


class HypothesisType(LabelsType):
    """What a decoder holds to be said, with its score and timing where it has them."""


class PredictionsType(LabelsType):
    """What a model says of an example."""


class RegressionValuesType(PredictionsType):
    """Predicted real numbers."""


class CategoricalValuesType(PredictionsType):
    """Predicted classes."""


class MaskType(PredictionsType):
    """Which positions count: true or 1 for those that do."""


class LossType(ElementType):
    """What training makes smaller."""


# Plain values


class LengthsType(ElementType):
    """How many positions of each sequence are real, the rest being padding."""


class BoolType(ElementType):
    """A truth value."""


class FloatType(ElementType):
    """A real number."""


class IntType(ElementType):
    """A whole number."""


class Length(IntType):
    """The length of one sequence."""


class TokenIndex(IntType):
    """The place of a token in a vocabulary."""


class Index(ElementType):
    """The place of an example in a dataset."""


class StringType(ElementType):
    """A text."""


class StringLabel(StringType):
    """The name of a class."""


class Target(ElementType):
    """What a prediction is measured against."""


class ClassificationTarget(Target):
    """The class that a prediction is measured against."""


# Images


class ImageValue(ElementType):
    """One channel of a pixel."""


class NormalizedImageValue(ImageValue):
    """One channel of a pixel, scaled to 0 to 1."""


class ImageFeatureValue(ImageValue):
    """One value in a feature map of an image."""


# Generation of speech


class TokenDurationType(ElementType):
    """For how many frames a token sounds."""


class TokenLogDurationType(ElementType):
    """The natural logarithm of a token's duration in frames."""


class ProbabilityDistributionSamplesType(ElementType):
    """Samples from a probability distribution."""


class NormalDistributionSamplesType(ProbabilityDistributionSamplesType):
    """Samples from a normal distribution."""


class NormalDistributionMeanType(ElementType):
    """The mean of a normal distribution."""


class NormalDistributionLogVarianceType(ElementType):
    """The natural logarithm of a normal distribution's variance."""


class LogDeterminantType(ElementType):
    """The log determinant of a flow's Jacobian."""


class SequenceToSequenceAlignmentType(ElementType):
    """Which input positions each output position attends to or comes from."""
