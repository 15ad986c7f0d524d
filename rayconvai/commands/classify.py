"""``python -m rayconvai classify``: which class a text belongs to."""

from __future__ import annotations

from collections.abc import Sequence

from rayconvai.commands.artefacts import restore
from rayconvai.errors import ConfigError


def main(arguments: Sequence[str]) -> int:
    """Print ``TEXT<tab>CLASS<tab>PROBABILITY`` for each text."""
    if len(arguments) < 2 or arguments[0].startswith("-"):
        raise ConfigError("usage: python -m rayconvai classify ARTEFACT TEXT [TEXT ...]")
    artefact, *texts = arguments
    model = restore(artefact, "classify", "does not classify texts")
    for text, (label, probability) in zip(texts, model.classify(texts), strict=True):
        print(f"{text}\t{label}\t{probability:.3f}")
    return 0
