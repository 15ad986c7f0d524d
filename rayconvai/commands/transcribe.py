"""``python -m rayconvai transcribe``: what is said in sound files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rayconvai.commands.artefacts import restore
from rayconvai.errors import ConfigError


def main(arguments: Sequence[str]) -> int:
    """Print ``FILE<tab>TEXT`` for each sound file."""
    if len(arguments) < 2 or arguments[0].startswith("-"):
        raise ConfigError("usage: python -m rayconvai transcribe ARTEFACT FILE [FILE ...]")
    artefact, *files = arguments
    model = restore(artefact, "transcribe", "does not transcribe speech")
    for file in files:  # one by one: a bad file costs nothing of what came before it, a long one pads no other
        print(f"{file}\t{model.transcribe([Path(file)])[0]}", flush=True)
    return 0
