"""A process that reports nothing for too long ends itself, and leaves the stacks of its threads behind."""

from __future__ import annotations

import faulthandler
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FILE = "hang.txt"


@contextmanager
def hang_watch(run_dir: Path, seconds: float | None) -> Iterator[None]:
    """End this process if the block takes longer than ``seconds``, even while it holds the interpreter's lock.

    The stacks of all threads are then in the run's hang.txt. One block at a time in a process. None: no watch.
    """
    if seconds is None:
        yield
        return
    path = run_dir / _FILE
    run_dir.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:  # appending nothing leaves the time of what is there as it is
        faulthandler.dump_traceback_later(seconds, exit=True, file=file)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
    if not path.stat().st_size:
        path.unlink()


def hang_reason(run_dir: Path, since: float) -> str:
    """Say that an attempt that died did so because it hung; empty if it did not.

    Args:
        run_dir: the trial's.
        since: when the attempt began, in seconds since 1970.
    """
    path = run_dir / _FILE
    try:
        if path.stat().st_mtime < since:
            return ""
        times = re.findall(r"^Timeout \((\d+):(\d+):([\d.]+)\)", path.read_text(encoding="utf-8"), re.M)
    except OSError:
        return ""
    if not times:
        return ""
    hours, minutes, seconds = map(float, times[-1])
    return f"no report in {3600 * hours + 60 * minutes + seconds:g} s (stacks in {_FILE})"
