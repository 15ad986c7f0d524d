"""``python -m rayconvai tag``: the spans of a text."""

from __future__ import annotations

from collections.abc import Sequence

from rayconvai.commands.artefacts import restore
from rayconvai.errors import ConfigError


def main(arguments: Sequence[str]) -> int:
    """Print ``TEXT<tab>TYPE=WORDS; TYPE=WORDS`` for each text, of which words are divided at white space."""
    if len(arguments) < 2 or arguments[0].startswith("-"):
        raise ConfigError("usage: python -m rayconvai tag ARTEFACT TEXT [TEXT ...]")
    artefact, *texts = arguments
    model = restore(artefact, "tag", "does not tag texts")
    for text, tagged in zip(texts, model.tag(texts), strict=True):
        print(f"{text}\t{'; '.join(f'{kind}={words}' for kind, words in tagged.named())}")
    return 0
