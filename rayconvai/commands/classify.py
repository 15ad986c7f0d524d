"""``python -m rayconvai classify``: which class a text belongs to."""

from __future__ import annotations

from collections.abc import Sequence

from rayconvai.errors import ArtefactError, ConfigError


def main(arguments: Sequence[str]) -> int:
    """Print ``TEXT<tab>CLASS<tab>PROBABILITY`` for each text."""
    if len(arguments) < 2 or arguments[0].startswith("-"):
        raise ConfigError("usage: python -m rayconvai classify ARTEFACT TEXT [TEXT ...]")
    from rayconvai.core.model import Model  # torch and lightning take seconds: a wrong call does not pay for them
    from rayconvai.experiment.mirror import fetched

    artefact, *texts = arguments
    model = Model.restore_from(fetched(artefact))
    if not hasattr(model, "classify"):
        raise ArtefactError(f"{artefact} holds a {type(model).__name__}, which does not classify texts")
    for text, (label, probability) in zip(texts, model.classify(texts), strict=True):
        print(f"{text}\t{label}\t{probability:.3f}")
    return 0
