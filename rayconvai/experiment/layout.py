"""Where things lie in a run's directory: each path has its one owner here."""

from __future__ import annotations

import fcntl
import itertools
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rayconvai.errors import StorageError

# What an attempt writes anew; the files of the attempts before it are kept in run_0, run_1 ...
ATTEMPT_FILES = ("log.txt", "provenance.json")


@dataclass(frozen=True)
class RunLayout:
    """The directory of one run."""

    root: Path

    @property
    def config(self) -> Path:
        """The resolved config; given back, it composes the same run."""
        return self.root / "config.yaml"

    @property
    def overrides(self) -> Path:
        """The Hydra overrides that made the config."""
        return self.root / "overrides.yaml"

    @property
    def provenance(self) -> Path:
        """Where the run comes from: code, packages, hardware, seed, command, data."""
        return self.root / "provenance.json"

    @property
    def checkpoints(self) -> Path:
        """The directory of the checkpoints."""
        return self.root / "checkpoints"

    @property
    def metrics(self) -> Path:
        """The record of all metrics, one JSON object a line."""
        return self.root / "metrics.jsonl"

    @property
    def csv(self) -> Path:
        """The same as a table."""
        return self.root / "metrics.csv"

    @property
    def logger_ids(self) -> Path:
        """What services know the run by: a restart goes on under the same ids."""
        return self.root / "loggers.json"

    @property
    def log(self) -> Path:
        """What the run said."""
        return self.root / "log.txt"

    @property
    def samples(self) -> Path:
        """The directory of sample outputs."""
        return self.root / "samples"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep the directory to this process; wait while another one that is still alive has it.

        Raises:
            StorageError: it cannot be locked.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            file = (self.root / ".lock").open("w", encoding="ascii")
            fcntl.flock(file, fcntl.LOCK_EX)  # the kernel frees it when this process goes, however it goes
        except OSError as error:
            raise StorageError(f"run directory {self.root} cannot be locked: {error.strerror or error}") from error
        with file:
            yield

    def make(self) -> None:
        """Make the directory, and find out now whether it can be written.

        Raises:
            StorageError: it cannot be made or written.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root) as probe:
                probe.write(b"0")
                probe.flush()
        except OSError as error:
            raise StorageError(
                f"run directory {self.root} cannot be written: {error.strerror or error}; set exp_manager.exp_dir"
            ) from error

    def set_aside(self, *names: str) -> Path | None:
        """Move files of an earlier attempt (its log and provenance unless named) to the next run_N; return it."""
        earlier = [self.root / name for name in names or ATTEMPT_FILES if (self.root / name).exists()]
        if not earlier:
            return None
        taken = [int(p.name[4:]) for p in self.root.glob("run_*") if p.name[4:].isdigit()]
        target = self.root / f"run_{max(taken, default=-1) + 1}"
        target.mkdir()
        for path in earlier:
            os.replace(path, target / path.name)
        return target


def version_names(there: Iterable[str]) -> Iterator[str]:
    """Yield ``version_N``, beginning after all that are there."""
    taken = [int(name[8:]) for name in there if name.startswith("version_") and name[8:].isdigit()]
    return (f"version_{number}" for number in itertools.count(max(taken, default=-1) + 1))


def new_directory(parent: str, names: Callable[[Iterable[str]], Iterable[str]]) -> str:
    """Make the first of the directories that is not there, and return it: runs that begin at once have one each.

    One that cannot be made is returned too; who writes there finds out.

    Args:
        parent: where it is made.
        names: is given the names that are there.
    """
    for name in names(path.name for path in Path(parent).glob("*")):
        try:
            Path(parent, name).mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError:
            pass
        return os.path.join(parent, name)
    raise AssertionError("names end")


def write_atomically(path: Path, text: str) -> None:
    """Write a small file so that a reader sees the old one or the new one, never half of it.

    Raises:
        StorageError: it cannot be written; the old one is untouched.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with aside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise StorageError(
            f"{path} cannot be written: {error.strerror or error}; free space or fix its rights"
        ) from error
