"""The doctor on storage: every node writes a file, and every node reads what the others have written."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from rayconvai.commands.finding import Finding, error, ok
from rayconvai.errors import StorageError
from rayconvai.places import is_address, open_address, read, words

FIX_DIRECTORY = "give the user that Ray runs as the right to write there, free space, or choose another storage"
FIX_BUCKET = (
    "does the bucket exist, and do the nodes have keys for it, or a role (s3:ListBucket, GetObject, PutObject, "
    "DeleteObject; AWS_ENDPOINT_URL where it is not Amazon's)?"
)


def write(place: str, names: Sequence[str], mine: str) -> list[str]:
    """Write a file of mine.

    Args:
        place: a directory or address that need not be there.
        names: the directory for the files, below the place.
        mine: the file's name, and what it is to hold.

    Returns:
        The directories that were not there, the uppermost last: ``remove`` is to remove them.

    Raises:
        StorageError: it cannot be written.
    """
    target = "/".join([place, *names, mine])
    try:
        if is_address(place):
            fs, path = open_address(target)
            fs.pipe_file(path, mine.encode())
            return []
        file = Path(target)
        made = [str(path) for path in file.parents if not path.exists()]
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("w", encoding="utf-8") as stream:
            stream.write(mine)
            stream.flush()
            os.fsync(stream.fileno())
    except StorageError:
        raise
    except Exception as problem:  # of a bucket: each cloud has its own
        said = getattr(problem, "strerror", None) or words(problem)
        raise StorageError(f"{place} cannot be written: {said}") from problem
    return made


def unseen(place: str, names: Sequence[str], theirs: Sequence[str]) -> list[str]:
    """Return which of the files are not to be seen here with what they should hold.

    Raises:
        StorageError: they cannot be read.
    """
    return [name for name in theirs if read("/".join([place, *names, name])) != name.encode()]


def remove(place: str, names: Sequence[str], mine: str, made: Sequence[str]) -> None:
    """Remove a file of mine, and the directories that were made for it unless others have put something there."""
    target = "/".join([place, *names, mine])
    with suppress(Exception):  # nothing hangs on it, and a bucket has its own words for what is not there
        if is_address(place):
            fs, path = open_address(target)
            fs.rm_file(path)
        else:
            Path(target).unlink(missing_ok=True)
    with suppress(OSError):
        for path in made:
            os.rmdir(path)


def judge(place: str, written: Mapping[str, str], missing: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    """Say whether all nodes can write, and whether they write to the same place.

    Args:
        place: where.
        written: node -> what kept it from writing or reading, else empty.
        missing: node -> the nodes whose files it does not see.
    """
    fix = FIX_BUCKET if is_address(place) else FIX_DIRECTORY
    for node, problem in written.items():
        if problem:
            found = error("storage", problem, fix)
            yield Finding(found.check, found.level, found.text, found.fix, node)
    alone = [(node, other) for node, others in missing.items() for other in others if not written.get(other)]
    if alone:
        node, other = alone[0]
        yield error(
            "storage", f"{place} is not the same place on all nodes: {node} does not see what {other} wrote",
            "mount one file system there on every node, or take a bucket",
        )  # fmt: skip
    elif not any(written.values()):
        nodes = f"all {len(written)} nodes write and read each other's files" if len(written) > 1 else "can be written"
        yield ok("storage", f"{place}: {nodes}")
