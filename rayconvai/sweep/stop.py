"""What tells trials to end after the batch that they are at, with a checkpoint: a file in the sweep's directory."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from rayconvai.places import exists, is_address, open_address

FILE_SECONDS = 1.0
"""How often a trial looks for the file."""
BUCKET_SECONDS = 5.0
"""The same, in a bucket, where looking takes a while: it is done beside the training."""


class StopSign:
    """The file of a sweep, or the object in its bucket."""

    def __init__(self, place: str) -> None:
        self.place = f"{place}/stop"
        self._looked = time.monotonic()
        self._looking: Future[bool] | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._put_up = False

    def put_up(self) -> None:
        """Tell them. Nothing where it cannot be written: a full disk is what may have stopped the sweep."""
        if self._put_up:
            return
        with suppress(Exception):
            if is_address(self.place):
                fs, path = open_address(self.place)
                fs.pipe_file(path, b"")
            else:
                Path(self.place).touch()
            self._put_up = True

    def take_down(self) -> None:
        """Tell those who begin from now on nothing."""
        if is_address(self.place):
            fs, path = open_address(self.place)
            with suppress(Exception):  # a bucket has its own words for what is not there
                fs.rm_file(path)
        else:
            Path(self.place).unlink(missing_ok=True)

    def is_due(self) -> bool:
        """Say whether it is time to look again."""
        return time.monotonic() - self._looked > (BUCKET_SECONDS if is_address(self.place) else FILE_SECONDS)

    def is_up(self) -> bool:
        """Look whether it is there; of one in a bucket, say what was seen the last time."""
        self._looked = time.monotonic()
        if not is_address(self.place):
            return Path(self.place).exists()
        self._thread = self._thread or ThreadPoolExecutor(1, "stop")
        seen = self._looking
        if seen is not None and not seen.done():
            return False
        self._looking = self._thread.submit(exists, self.place)
        return seen is not None and seen.exception() is None and seen.result()
