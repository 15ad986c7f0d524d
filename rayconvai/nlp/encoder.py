"""What every encoder of text is."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from rayconvai.core import EncodedRepresentation, LengthsType, NeuralModule, NeuralType, TokenIndex


# B batch, T tokens, D channels
class TextEncoder(NeuralModule):
    """Turns the tokens of a text into a vector each.

    A subclass's ``forward(*, tokens, lengths)`` returns the encoded tokens (B, T, D). Padding must not change what
    stands within the lengths; without ``lengths`` there is none.

    Args:
        vocab_size: how many tokens the tokenizer has.
        out_features: channels of an encoded token.
        max_tokens: the longest text that it takes; None: no limit.
    """

    architecture: Mapping[str, Any] | None = None
    """What it is built from besides its config, for the artefact; None: nothing."""

    def __init__(self, vocab_size: int, out_features: int, max_tokens: int | None = None) -> None:
        super().__init__()
        self.vocab_size, self.out_features, self.max_tokens = vocab_size, out_features, max_tokens

    @cached_property
    def input_types(self) -> dict[str, NeuralType]:
        return {
            "tokens": NeuralType(("B", "T"), TokenIndex()),
            "lengths": NeuralType(("B",), LengthsType(), optional=True),
        }

    @cached_property
    def output_types(self) -> dict[str, NeuralType]:
        return {"encoded": NeuralType(("B", "T", f"D:{self.out_features}"), EncodedRepresentation())}
