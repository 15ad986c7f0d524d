"""``python -m rayconvai COMMAND``: the doors of the platform in one place."""

from __future__ import annotations

import importlib
import runpy
import sys
from pathlib import Path

from rayconvai.errors import ArtefactError, ConfigError, nearest, run_cli

USAGE = """usage: python -m rayconvai COMMAND ...

commands:
  train       train one model:    train --config-name asr/conformer_ctc [KEY=VALUE ...]
  sweep       train many:         sweep sweeps/asr.yaml [KEY=VALUE ...] [--dry-run]
  status      how it stands:      status runs/asr [--trials]
  promote     the best of it:     promote runs/asr [--top N] [--average K] [--retrain]
  replay      a trial anew:       replay runs/asr [t0003]
  transcribe  speech to text:     transcribe ARTEFACT FILE [FILE ...]

Errors are one line; --debug shows where they come from.
"""

MODULES = ("train", "sweep")
"""Commands that are modules with a command line of their own."""


def main() -> int:
    """Run the command that the command line names."""
    command, *arguments = sys.argv[1:] or ["--help"]
    if command in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    if command == "transcribe":
        return transcribe(arguments)
    if command in ("status", "promote", "replay"):
        status: int = importlib.import_module(f"rayconvai.sweep.{command}").main(arguments)
        return status
    hint = nearest(command, (*MODULES, "status", "promote", "replay", "transcribe"))
    raise ConfigError(f"there is no command {command!r}{hint}; see: python -m rayconvai --help")


def transcribe(arguments: list[str]) -> int:
    """Print ``FILE<tab>TEXT`` for each sound file."""
    if len(arguments) < 2 or arguments[0].startswith("-"):
        raise ConfigError("usage: python -m rayconvai transcribe ARTEFACT FILE [FILE ...]")
    from rayconvai.core.model import Model  # torch and lightning take seconds: --help does not pay for them
    from rayconvai.experiment.mirror import fetched

    artefact, *files = arguments
    model = Model.restore_from(fetched(artefact))
    if not hasattr(model, "transcribe"):
        raise ArtefactError(f"{artefact} holds a {type(model).__name__}, which does not transcribe speech")
    for file in files:  # one by one: a bad file costs nothing of what came before it, a long one pads no other
        print(f"{file}\t{model.transcribe([Path(file)])[0]}", flush=True)
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in MODULES:
        module = f"rayconvai.{sys.argv.pop(1)}"
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        run_cli(main)
