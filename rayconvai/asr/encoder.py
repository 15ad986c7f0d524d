"""What every acoustic encoder is."""

from __future__ import annotations

from functools import cached_property

from rayconvai.core import AcousticEncodedRepresentation, LengthsType, NeuralModule, NeuralType, SpectrogramType


# B batch, T frames, D features or channels
class Encoder(NeuralModule):
    """Turns features into encoded frames, of which there may be fewer.

    A subclass's ``forward(*, features, lengths)`` returns the encoded frames (B, T', D) and their lengths (B,), where
    a length is ``ceil(length / subsampling)``. Padding must not change what stands within the lengths.

    Args:
        in_features: features of a frame.
        out_features: channels of an encoded frame.
        subsampling: feature frames for each encoded frame.
    """

    def __init__(self, in_features: int, out_features: int, subsampling: int) -> None:
        super().__init__()
        self.in_features, self.out_features, self.subsampling = in_features, out_features, subsampling

    @cached_property
    def input_types(self) -> dict[str, NeuralType]:
        return {
            "features": NeuralType(("B", "T", f"D:{self.in_features}"), SpectrogramType()),
            "lengths": NeuralType(("B",), LengthsType()),
        }

    @cached_property
    def output_types(self) -> dict[str, NeuralType]:
        return {
            "encoded": NeuralType(("B", "T", f"D:{self.out_features}"), AcousticEncodedRepresentation()),
            "lengths": NeuralType(("B",), LengthsType()),
        }
