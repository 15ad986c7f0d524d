"""The command in a process of its own, on a recipe that takes no time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness import plain_environment

from rayconvai.sweep.journal import iter_records

HERE = Path(__file__).parent
SWEEP = """\
name: demo
recipe: tiny/tiny
config_dirs: [{configs}]
space:
  model.floor: grid(0.0, 0.5)
  model.breaks: grid(no, 'nan', memory, code, process)
metric: {{name: val_loss, mode: min}}
search: {{name: grid}}
scheduler: {{name: asha, grace: 1, reduction: 2}}
resources: {{cpus: 1, concurrent: 1}}
storage: {storage}
"""


@contextmanager
def started(directory: Path, *overrides: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """Run the command with a home of its own; whatever happens, it does not outlive the block."""
    directory.mkdir(exist_ok=True)
    file = directory / "demo.yaml"
    file.write_text(SWEEP.format(configs=HERE / "configs", storage=directory))
    (directory / "home").mkdir(exist_ok=True)
    environment = plain_environment(directory / "home", HERE)
    command = [sys.executable, "-m", "rayconvai.sweep", str(file), *overrides]
    process = subprocess.Popen(
        command, cwd=directory, env=environment | variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def run(directory: Path, *overrides: str, **variables: str) -> tuple[int, str]:
    with started(directory, *overrides, **variables) as process:
        output, _ = process.communicate()
    return process.returncode, output


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if text in line:
            return
    raise AssertionError(f"no line with {text!r} in:\n{''.join(seen)}")


def epochs_written(directory: Path) -> list[tuple[int, int]]:
    records = iter_records(directory / "demo")
    return [(record["trial"], record["epoch"]) for record in records if record["kind"] == "result"]
