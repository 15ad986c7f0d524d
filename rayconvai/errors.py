"""The errors a user can cause or meet. Each carries one line: what, where, and the way out."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager


class RayconvaiError(Exception):
    """Base of all errors that the command line prints as one line."""


class ConfigError(RayconvaiError, ValueError):
    """A key, value, group or target in a config that cannot be."""


class DataError(RayconvaiError, ValueError):
    """A manifest line, sound file or text that cannot be used."""


class NeuralTypeError(RayconvaiError, TypeError):
    """A typed call whose names, counts, types or shapes do not fit its ports."""


class GraphError(NeuralTypeError):
    """A model whose modules do not fit together; found when it is built."""


class ArtefactError(RayconvaiError, ValueError):
    """An artefact that is damaged, tampered with, or asks for what it may not have."""


class CheckpointError(RayconvaiError, ValueError):
    """A checkpoint that cannot be read or does not fit the model."""


class NotFoundError(CheckpointError):
    """Nothing to resume from, although resuming was asked for."""


class LoggerMisconfigurationError(ConfigError):
    """The trainer has a logger already and the experiment manager was asked to make one."""


class CheckpointMisconfigurationError(ConfigError):
    """The trainer has a checkpoint callback already and the experiment manager was asked to make one."""


class StorageError(RayconvaiError, OSError):
    """A directory or file that cannot be written: permissions, or a full disk."""


class SweepError(RayconvaiError, ValueError):
    """A sweep file, space, or sweep directory that cannot be used; ``key`` is the file's key at fault, if known."""

    def __init__(self, message: str, *, key: str = "") -> None:
        super().__init__(message)
        self.key = key


class ClusterError(RayconvaiError, RuntimeError):
    """A Ray cluster that cannot be joined, or that has no room for what is asked of it."""


class WorkerError(RayconvaiError, RuntimeError):
    """Workers of a run that failed."""


class WorkersDiedError(WorkerError):
    """Workers of a run that died, with their machines or alone, more often than they may."""


class InfeasibleError(RayconvaiError, RuntimeError):
    """A point that cannot work: out of memory, NaN, or a config that the model refuses."""


_TOO_LITTLE_MEMORY = re.compile(
    r"out of memory|not enough memory|can(?:'t|not) allocate memory|unable to allocate|\w+_STATUS_ALLOC_FAILED", re.I
)


LESS_MEMORY = "lower data.batch_seconds (or batch_tokens, batch_size) or the sizes of the model"
"""What to do where memory was too little."""


@contextmanager
def out_of_memory_is_infeasible() -> Iterator[None]:
    """Raise ``InfeasibleError`` for the errors that torch and Python have for too little memory."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        # A loader's worker hands its error over with its trace; the last line says what it is.
        lines = str(error).strip().splitlines() or ["no more memory"]
        message = " ".join((lines[-1] if "DataLoader worker" in lines[0] else str(error) or lines[0]).split())
        if isinstance(error, InfeasibleError):
            raise
        if not isinstance(error, MemoryError) and not _TOO_LITTLE_MEMORY.search(message):
            raise
        raise InfeasibleError(f"out of memory: {message[:200]}; {LESS_MEMORY}") from error


def nearest(name: str, candidates: Iterable[str]) -> str:
    """Return ``"; nearest: x"`` for the most similar candidate, or an empty string if none is similar."""
    matches = difflib.get_close_matches(name, list(candidates), n=1, cutoff=0.6)
    return f"; nearest: {matches[0]}" if matches else ""


def require_positive(**sizes: float) -> None:
    """Check the sizes that a constructor was given, by their names.

    Raises:
        ValueError: one is not above 0.
    """
    for name, size in sizes.items():
        if not size > 0:
            raise ValueError(f"{name} is {size}; it must be more than 0")


def run_cli(main: Callable[[], int | None]) -> None:
    """Run a command and exit: a RayconvaiError becomes one line on stderr and status 2 (``--debug``: the trace too)."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    try:
        status = main()
    except RayconvaiError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    sys.exit(status)
