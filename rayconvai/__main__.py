"""``python -m rayconvai COMMAND``: the doors of the platform in one place."""

from __future__ import annotations

import importlib
import runpy
import sys

from rayconvai.errors import ConfigError, nearest, run_cli

USAGE = """usage: python -m rayconvai COMMAND ...

commands:
  train       train one model:    train --config-name asr/conformer_ctc [KEY=VALUE ...]
  sweep       train many:         sweep sweeps/asr.yaml [KEY=VALUE ...] [--dry-run]
  status      how it stands:      status runs/asr [--trials]
  report      its story, HTML:    report runs/asr [-o FILE] [--serve]
  promote     the best of it:     promote runs/asr [--top N] [--average K] [--retrain]
  replay      a trial anew:       replay runs/asr [t0003]
  doctor      will it work here?  doctor [--address HEAD:6379] [--storage s3://bucket/runs]
  transcribe  speech to text:     transcribe ARTEFACT FILE [FILE ...]
  classify    the class of texts: classify ARTEFACT TEXT [TEXT ...]
  tag         their spans:        tag ARTEFACT TEXT [TEXT ...]
  synthesize  text to speech:     synthesize ARTEFACT "TEXT" -o out.wav [--vocoder ARTEFACT]
  intelligibility  of speech:     intelligibility SYNTHESIZER RECOGNIZER MANIFEST [--split test] [--vocoder ARTEFACT]

Errors are one line; --debug shows where they come from.
"""

MODULES = ("train", "sweep")
"""Commands that are modules with a command line of their own."""
COMMANDS = {
    "status": "rayconvai.sweep.status",
    "report": "rayconvai.analysis.report",
    "promote": "rayconvai.sweep.promote",
    "replay": "rayconvai.sweep.replay",
    "doctor": "rayconvai.commands.doctor",
    "transcribe": "rayconvai.commands.transcribe",
    "classify": "rayconvai.commands.classify",
    "tag": "rayconvai.commands.tag",
    "synthesize": "rayconvai.commands.synthesize",
    "intelligibility": "rayconvai.commands.intelligibility",
}
"""The others, each with its module, whose ``main`` takes the arguments and returns the exit status."""


def main() -> int:
    """Run the command that the command line names."""
    command, *arguments = sys.argv[1:] or ["--help"]
    if command in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    if command not in COMMANDS:
        hint = nearest(command, (*MODULES, *COMMANDS))
        raise ConfigError(f"there is no command {command!r}{hint}; see: python -m rayconvai --help")
    status: int = importlib.import_module(COMMANDS[command]).main(arguments)
    return status


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in MODULES:
        module = f"rayconvai.{sys.argv.pop(1)}"
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        run_cli(main)
