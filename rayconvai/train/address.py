"""Where Ray runs, as the environment has it. Imports no Ray, so that what is wrong is said at once."""

from __future__ import annotations

import os
import socket

from rayconvai.errors import ClusterError, StorageError

_KNOCK_SECONDS = 10


def enter(working_dir: str | None, what: str) -> None:
    """Go where relative paths in configs begin; None: a job of Ray's is there already.

    Args:
        working_dir: the directory.
        what: was started there, for the message.

    Raises:
        StorageError: it is not there.
    """
    if working_dir is None:
        return
    try:
        os.chdir(working_dir)
    except OSError as error:
        raise StorageError(
            f"the working directory {working_dir}, where relative paths begin, is not there; start from one that all "
            f"nodes share, or send the {what} as a job: ray job submit --working-dir ."
        ) from error


def is_local() -> bool:
    """Tell whether what is started here starts a Ray of its own."""
    return address() == "local"


def address() -> str:
    """Return the cluster's address as Ray takes it."""
    return os.environ.get("RAY_ADDRESS") or "local"


def check_address() -> None:
    """Find out quickly whether a cluster is there to join; Ray itself would try for minutes.

    Raises:
        ClusterError: RAY_ADDRESS is no address of a head, or nobody answers there.
    """
    if address() in ("local", "auto"):
        return
    host, _, port = address().rpartition(":")
    if "://" in address() or not host or not port.isdigit():
        raise ClusterError(
            f"RAY_ADDRESS={address()} is not HOST:PORT of a head (as ray start --head prints it), auto or local; "
            "through http:// or ray:// what is to run there goes as a job: ray job submit"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), _KNOCK_SECONDS).close()
    except OSError as error:
        raise ClusterError(f"no Ray cluster answers at RAY_ADDRESS={address()}: {error.strerror or error}") from error
