"""Runs and sweeps in a bucket: they work in a copy here, and the bucket has the copy that lasts.

The working copy of ``s3://bucket/runs/x`` is a directory of the cache; whatever knows directories works in it. ``pull``
makes it what the bucket holds, ``push`` the other way round. A run pushes from a thread of its own while it trains.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lightning.pytorch import Callback

from rayconvai.errors import StorageError
from rayconvai.experiment.storage import METADATA, SUFFIX, remove
from rayconvai.places import is_address, open_address, patiently, words, working_copy

log = logging.getLogger(__name__)

PUSH_SECONDS = 5.0
"""How often a run's changes go to the bucket; a file that was lost with its machine is at most so old."""
MOST_SECONDS = 30.0
"""How long it waits at most before it tries again to reach a bucket."""
CLOSE_SECONDS = 600.0
"""How long it goes on trying at the end of a run."""
_OPEN = ("hang.txt",)
"""What the process that fetches may have open."""
_Stamps = dict[str, tuple[int, int]]
"""Of each file its size and the time of its last change."""
_STAMP = ".json"
_CHECKPOINT = re.compile(rf".*{re.escape(SUFFIX)}(?=/|$)")
"""In the name of a checkpoint, or of a file of a sharded one: the checkpoint's."""
_ADDRESS = ".address"
"""A file of a working copy, and not of the bucket: what it is the copy of."""


def address_of(path: Path) -> str | None:
    """Return the address of a file or directory of a working copy; None for any other."""
    for parent in (path, *path.parents):
        with suppress(OSError):
            root = (parent / _ADDRESS).read_text(encoding="utf-8")
            return "/".join([root, *path.relative_to(parent).parts])
    return None


def new_address(parent: str, names: Callable[[Iterable[str]], Iterable[str]]) -> str:
    """Return the first of the addresses below ``parent`` where nothing is, as ``new_directory`` does.

    Raises:
        StorageError: the bucket cannot be read.
    """
    fs, root = open_address(parent)
    try:
        there = {entry.rstrip("/").rpartition("/")[2] for entry in fs.ls(root, detail=False)}
    except FileNotFoundError:
        there = set()
    except Exception as error:
        raise StorageError(f"{parent} cannot be read: {words(error)}") from error
    return next(f"{parent}/{name}" for name in names(there) if name not in there)


def fetched(place: str | Path) -> Path:
    """Return a path; of a file or directory in a bucket, that of its working copy, which is made what the bucket has.

    Raises:
        StorageError: the bucket cannot be read.
    """
    if is_address(place):
        Mirror(str(place)).pull()
    return working_copy(place)


def sweep_directory(place: str) -> Path:
    """Return where a sweep works here: its directory; of one in a bucket a copy, for which nothing is fetched yet."""
    if is_address(place):
        Mirror(place).claim()
    return working_copy(place).absolute()


def fetched_file(place: str, *, keep: bool = False) -> Path:
    """Return a path; for a checkpoint in a bucket, where it has been fetched to. There may be no such file.

    Args:
        place: the path or address.
        keep: one that is here is not fetched again.

    Raises:
        StorageError: the bucket cannot be read.
    """
    path = working_copy(place)
    if not is_address(place):
        return path
    fs, source = open_address(place)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if keep and path.exists():
            return path
        stamp, aside = path.with_name(path.name + _STAMP), path.with_name(f".{path.name}.tmp")
        for old in (aside, path, stamp):
            remove(old)
        try:
            for file in fs.find(source):
                here = Path(f"{aside}{file.strip('/')[len(source.strip('/')) :]}")
                here.parent.mkdir(parents=True, exist_ok=True)
                fs.get_file(file, str(here))
            for file in fs.find(source + _STAMP):
                fs.get_file(file, str(stamp))
        except Exception as error:
            raise StorageError(f"{place} cannot be read: {words(error)}") from error
        if aside.exists():
            os.replace(aside, path)
    return path


@contextmanager
def in_step(path: Path) -> Iterator[None]:
    """Work in a directory that the bucket may have changed, and let the bucket have what comes of it; any other
    directory is left alone.

    Raises:
        StorageError: the bucket cannot be read or written.
    """
    address = address_of(path)
    if address is None:
        yield
        return
    mirror = Mirror(address)
    mirror.pull()
    yield
    mirror.settle()


def lasting(path: Path) -> str:
    """Return where a file or directory is for good: its address if it is in a working copy, else itself."""
    return address_of(path) or str(path)


def publish(path: Path) -> None:
    """Let the bucket have a file or directory of a working copy as it is now, and nothing else below it; nothing
    happens for any other path.

    Raises:
        StorageError: it cannot be written.
    """
    address = address_of(path)
    if address is None:
        return
    if path.is_dir():
        mirror = Mirror(address)
        mirror._pushed = dict.fromkeys(mirror.sizes(), (-1, -1))  # what is there now, whatever it is
        mirror.settle()
        return
    fs, target = open_address(address)
    try:
        patiently(lambda: fs.pipe_file(target, path.read_bytes()), CLOSE_SECONDS)
    except Exception as error:
        raise StorageError(f"{address} cannot be written: {words(error)}") from error


class Mirror:
    """A directory here and its copy in a bucket.

    Raises:
        StorageError: no package knows such addresses, or it is none.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self.local = working_copy(self.address)
        self.fs, self.root = open_address(self.address)
        self._pushed: _Stamps = {}
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def probe(self) -> None:
        """Find out whether the bucket can be read and written.

        Raises:
            StorageError: it cannot.
        """
        probe = f"{self.root}/.probe-{os.getpid()}"
        try:
            self.fs.pipe_file(probe, b"0")
            self.fs.cat_file(probe)
            self.fs.rm_file(probe)
        except Exception as error:
            raise StorageError(f"{self.address} cannot be written: {words(error)}") from error

    def claim(self) -> None:
        """Make the working copy known as one, with nothing in it."""
        self.local.mkdir(parents=True, exist_ok=True)
        (self.local / _ADDRESS).write_text(self.address, encoding="utf-8")

    def sizes(self) -> dict[str, int]:
        """Return the names of the files that the bucket has, and their bytes.

        Raises:
            StorageError: it cannot be read.
        """
        try:
            return self._listed()
        except Exception as error:
            raise StorageError(f"{self.address} cannot be read: {words(error)}") from error

    def pull(self, *, whole: bool = True) -> None:
        """Make the working copy what the bucket holds; the bucket is right.

        Args:
            whole: else only what is not here and checkpoints that differ are fetched, and nothing is removed: for who
                reads beside a writer.

        Raises:
            StorageError: the bucket cannot be read, or the copy not be written.
        """
        try:
            with self._locked():
                there = self._listed()
                for name in sorted(there, key=_rank, reverse=True):  # a checkpoint while its stamp says which is here
                    self._fetch(name, there[name], keep=not whole)
                for name in self._files() if whole else ():
                    if name not in there and name not in _OPEN:
                        self._drop(self.local / name)
                self._pushed = {name: stamp for name, stamp in self._files().items() if name in there}
        except Exception as error:
            if isinstance(error, OSError) and str(error.filename or "").startswith(str(self.local)):
                raise StorageError(f"{self.local} cannot be written: {error.strerror or error}") from error
            raise StorageError(f"{self.address} cannot be read: {words(error)}") from error

    def push(self) -> None:
        """Let the bucket have what has changed here since the last time.

        A checkpoint comes there after the record of all that led to it, and after its stamp, as it does here. What the
        bucket has afterwards are the checkpoints that were here at the beginning, also those that have been removed
        meanwhile: where they come faster than they can be sent, it has a whole one all the same.

        Raises:
            StorageError: the working copy has gone.
            Exception: the bucket cannot be reached, or does not take it.
        """
        if not self.local.is_dir():  # else all that is in the bucket would have to go
            raise StorageError(f"{self.local}, the working copy of {self.address}, has been removed")
        with self._held() as (now, held):
            for name in sorted(now, key=lambda name: (_rank(name), now[name][1])):
                if self._pushed.get(name) == now[name]:
                    continue
                try:
                    self.fs.put_file(str(held.get(name, self.local / name)), f"{self.root}/{name}")
                except FileNotFoundError:
                    if (self.local / name).exists():  # else it was removed since it was listed
                        raise
                    continue
                self._pushed[name] = now[name]
        gone = [name for name in self._pushed if name not in now and not (self.local / name).exists()]
        for name in sorted(gone, key=_rank, reverse=True):  # what is left of a checkpoint is seen by its stamp
            with suppress(FileNotFoundError):
                self.fs.rm_file(f"{self.root}/{name}")
            del self._pushed[name]

    def remove(self) -> None:
        """Remove the directory from the bucket.

        Raises:
            StorageError: the bucket does not let it.
        """
        try:
            with suppress(FileNotFoundError):
                self.fs.rm(self.root, recursive=True)
        except Exception as error:
            raise StorageError(f"{self.address} cannot be removed: {words(error)}") from error

    def start(self) -> None:
        """Push from a thread from now on."""
        self._thread = threading.Thread(target=self._go_on, name="mirror", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Push what is left and end; a bucket that is away is waited for.

        Raises:
            StorageError: as ``settle``.
        """
        if self._thread is None:
            return
        self._ended.set()
        self._thread.join()
        self._thread = None
        self.settle()

    def settle(self) -> None:
        """Push until the bucket has everything; one that is away is waited for.

        Raises:
            StorageError: it did not come back in time; says what is only here.
        """
        try:
            patiently(self.push, CLOSE_SECONDS)
        except Exception as error:
            left = [name for name, stamp in self._files().items() if self._pushed.get(name) != stamp]
            raise StorageError(
                f"{self.address} cannot be written: {words(error)}; {len(left)} files are only in {self.local}, which "
                f"the next start makes what the bucket has: copy them first ({', '.join(left)})"
            ) from error

    def _go_on(self) -> None:
        wait = PUSH_SECONDS
        while not self._ended.wait(wait):
            try:
                self.push()
                if wait > PUSH_SECONDS:
                    log.warning("%s can be written again", self.address)
                wait = PUSH_SECONDS
            except Exception as error:  # noqa: BLE001 (each cloud has its own)
                if wait == PUSH_SECONDS:
                    log.warning(
                        "%s cannot be written (%s); the run goes on and tries again", self.address, words(error)
                    )
                wait = min(2 * wait, MOST_SECONDS)

    @contextmanager
    def _held(self) -> Iterator[tuple[_Stamps, dict[str, Path]]]:
        """Give the files here with their stamps and, for checkpoints that the bucket has not, another name each: by it
        they stay what they are, whatever becomes of them meanwhile."""
        place = self.local / ".held"
        try:
            while (linked := self._linked(place)) is None:
                pass
            yield linked
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def _linked(self, place: Path) -> tuple[_Stamps, dict[str, Path]] | None:
        """Do so; None: one of them was removed before it had its other name."""
        shutil.rmtree(place, ignore_errors=True)
        now, held = self._files(), dict[str, Path]()
        for name in now:
            if _rank(name) and self._pushed.get(name) != now[name]:
                link = place / str(len(held))
                try:
                    place.mkdir(exist_ok=True)
                    os.link(self.local / name, link)
                except FileNotFoundError:
                    return None
                except OSError:  # a file system without second names, or a full one
                    continue
                held[name] = link
        return now, held

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes of this machine from fetching at the same time."""
        self.claim()
        with (self.local / ".pull").open("w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _listed(self) -> dict[str, int]:
        """Return the names, below the root, and sizes of what the bucket has."""
        try:
            found = self.fs.find(self.root, detail=True, refresh=True)
        except FileNotFoundError:
            return {}
        start = len(self.root.strip("/")) + 1
        names = {path.strip("/")[start:]: int(about["size"]) for path, about in found.items()}
        return {name: size for name, size in names.items() if name and not _is_hidden(name.rpartition("/")[2])}

    def _fetch(self, name: str, size: int, *, keep: bool) -> None:
        path = self.local / name
        checkpoint = _CHECKPOINT.match(name)
        if path.is_file() and (self._is_same(path, checkpoint[0], size) if checkpoint else keep and not _rank(name)):
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            self.fs.get_file(f"{self.root}/{name}", str(aside))
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)

    def _drop(self, path: Path) -> None:
        """Remove a file, and the directories that are empty without it, which no bucket has."""
        path.unlink()
        for parent in path.relative_to(self.local).parents[:-1]:
            with suppress(OSError):
                (self.local / parent).rmdir()

    def _is_same(self, path: Path, checkpoint: str, size: int) -> bool:
        """Tell whether a file of a checkpoint here is the bucket's: it has its size, and the stamps are equal."""
        stamp = self.local / (checkpoint + _STAMP)
        if path.stat().st_size != size or not stamp.is_file():
            return False
        with suppress(FileNotFoundError):
            return bool(self.fs.cat_file(f"{self.root}/{checkpoint}{_STAMP}") == stamp.read_bytes())
        return False

    def _files(self) -> _Stamps:
        """Return the files here."""
        found = {}
        for root, directories, names in os.walk(self.local):
            directories[:] = [name for name in directories if not name.startswith(".")]
            for name in names:
                path = Path(root, name)
                if _is_hidden(name) or name.endswith(".tmp") or path.is_symlink():
                    continue
                with suppress(FileNotFoundError):
                    about = path.stat()
                    found[path.relative_to(self.local).as_posix()] = (about.st_size, about.st_mtime_ns)
        return found


def _is_hidden(name: str) -> bool:
    return name.startswith(".") and name != METADATA


def _rank(name: str) -> int:
    """Return when a file's turn is: the stamps of checkpoints after all else, and then those."""
    return 1 if name.endswith(SUFFIX + _STAMP) else 2 if _CHECKPOINT.match(name) else 0


class Mirrored(Callback):
    """Carries the mirror of a run from ``exp_manager`` to ``close``."""

    def __init__(self, mirror: Mirror) -> None:
        self.mirror = mirror
