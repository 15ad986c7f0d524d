"""Draw the final table of a finished sweep as an SVG: ``python docs/sweep_figure.py runs/asr docs/sweep.svg``."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

from rich.console import Console

from rayconvai.sweep.journal import read_journal
from rayconvai.sweep.show import trial_table
from rayconvai.sweep.spec import MetricSpec


def main(directory: Path, figure: Path) -> None:
    metric = MetricSpec(name="val_wer", mode="min")
    state = read_journal(directory)
    console = Console(record=True, width=96, force_terminal=True, file=io.StringIO())
    console.print("$ python -m rayconvai.sweep sweeps/asr.yaml", highlight=False)
    console.print(trial_table(state.ranked(metric.name, metric.mode), metric))
    card = json.loads((directory / "best" / "card.json").read_text())
    console.print(f"best on the test voices: word error rate {card['metrics']['test_wer']:.2%}", highlight=False)
    console.save_svg(str(figure), title="rayconvai")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
