"""``python -m rayconvai.train`` with workers, in a process of its own, on a recipe whose every step leaves a mark."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness import plain_environment

CRASH = Path(__file__).parents[1] / "crash"
PATIENCE = 240.0
"""Seconds in which whatever is waited for must come; a hang shows as a failure."""


class Run:
    """A run in a directory, its command and what that says; the home directory marks its processes as its own."""

    def __init__(self, root: Path, name: str, *overrides: str, **variables: str) -> None:
        self.directory, self.home = root / name, root / f"home-{name}"
        self.home.mkdir(parents=True)
        self.output = root / f"{name}.txt"
        self.command = [
            *(sys.executable, "-m", "rayconvai.train", "--config-dir", str(CRASH / "configs")),
            *("--config-name", "chance/chance", f"exp_manager.explicit_log_dir={self.directory}"),
            *("resources.workers=2", "exp_manager.resume_if_exists=true"),
            *("exp_manager.resume_ignore_no_checkpoint=true", *overrides),
        ]
        self.environment = plain_environment(self.home, CRASH) | variables

    @contextmanager
    def started(self) -> Iterator[subprocess.Popen[bytes]]:
        """Give the command; whatever happens, it does not outlive the block."""
        with self.output.open("ab") as output:
            process = subprocess.Popen(
                self.command, cwd=self.home, env=self.environment, stdout=output, stderr=output, start_new_session=True
            )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()

    def to_its_end(self) -> tuple[int, str]:
        """Give the command, let it come to its end, and return its status and all that was said."""
        with self.started() as process:
            return process.wait(), self.said()

    def said(self) -> str:
        return self.output.read_text() if self.output.exists() else ""

    def wait_for(self, process: subprocess.Popen[bytes], condition: Callable[[], Any]) -> None:
        until = time.monotonic() + PATIENCE
        while not condition():
            assert process.poll() is None, self.said()
            assert time.monotonic() < until, self.said()
            time.sleep(0.05)

    def steps(self) -> int:
        """How many steps the record speaks of."""
        return sum(line["kind"] == "step" for line in self.lines())

    def lines(self) -> list[dict[str, Any]]:
        path = self.directory / "metrics.jsonl"
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def metrics(self) -> list[dict[str, Any]]:
        """What was recorded, but when."""
        return [{key: value for key, value in line.items() if key != "time"} for line in self.lines()]

    def processes(self, title: str) -> list[int]:
        """The living processes of Ray's that this run has brought about and that have this title."""
        found = []
        for path in Path("/proc").iterdir():
            try:
                mine = f"HOME={self.home}".encode() in (path / "environ").read_bytes().split(b"\0")
                if mine and re.match(title.encode(), (path / "cmdline").read_bytes()):
                    found.append(int(path.name))
            except (OSError, ValueError):
                continue
        return found
