"""Prepared corpora: what to train on, what to choose by, what to report on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from rayconvai.data.cache import make_once
from rayconvai.data.lines import JsonLines
from rayconvai.data.manifest import Manifest, SoundManifest
from rayconvai.data.texts import TextManifest
from rayconvai.errors import ConfigError, DataError
from rayconvai.places import cache_root

Lines = TypeVar("Lines", bound=JsonLines[Any])


@dataclass(frozen=True)
class Splits(Generic[Lines]):
    """The manifests of a corpus."""

    train: Lines
    dev: Lines
    """Chooses the best checkpoint and the best trial."""
    test: Lines | None = None
    """Chooses nothing: only reported."""

    def named(self) -> dict[str, Lines]:
        """Return those there are, by name."""
        named = {"train": self.train, "dev": self.dev, "test": self.test}
        return {name: lines for name, lines in named.items() if lines is not None}


class Corpus(Protocol):
    """Anything that can say where its examples are."""

    def prepare(self) -> Splits[Any]:
        """Make or find the corpus and open its manifests; safe to call from several processes at once.

        Raises:
            DataError: a manifest is missing, empty or damaged.
            StorageError: the corpus has to be written, and cannot be.
        """
        ...


class ManifestCorpus:
    """Anyone's own corpus, by path: one manifest a split, or one manifest whose rows have a ``split`` field.

    Args:
        train: manifest to train on.
        dev: manifest to choose by.
        test: manifest to report on.
        manifest: instead of these, one manifest whose rows say ``"split": "train"``, ``"dev"`` or ``"test"``.

    Raises:
        ConfigError: both forms are given, or neither is whole.
    """

    kind: ClassVar[type[JsonLines[Any]]] = Manifest

    def __init__(
        self,
        train: str | Path | None = None,
        dev: str | Path | None = None,
        test: str | Path | None = None,
        manifest: str | Path | None = None,
    ) -> None:
        if manifest is not None and any(path is not None for path in (train, dev, test)):
            raise ConfigError("data.corpus: 'manifest' and 'train', 'dev', 'test' exclude each other; remove one form")
        if manifest is None and (train is None or dev is None):
            missing = "train" if train is None else "dev"
            raise ConfigError(f"data.corpus.{missing} is missing; give 'train' and 'dev', or one 'manifest' for both")
        self.train, self.dev, self.test, self.manifest = train, dev, test, manifest

    def prepare(self) -> Splits[Any]:
        if self.manifest is not None:
            return _by_field(self.kind, Path(self.manifest).expanduser())
        assert self.train is not None
        assert self.dev is not None
        train, dev = _open(self.kind, "train", self.train), _open(self.kind, "dev", self.dev)
        return Splits(train, dev, None if self.test is None else _open(self.kind, "test", self.test))


class TextCorpus(ManifestCorpus):
    """The same for texts without sound: a row has what the data's ``fields`` name."""

    kind = TextManifest


class SoundCorpus(ManifestCorpus):
    """The same for sounds whose texts are not read, and need not be there."""

    kind = SoundManifest


class TrainAndDev:
    """Another corpus whose dev examples are trained on too: for a last training, when dev has chosen all it had to.

    Dev stays what it was, so what is measured on it from then on says nothing. The manifest of both is written into the
    cache, once for each pair, with absolute paths of what rows name.

    Args:
        corpus: whose train and dev to join.
        cache_dir: where to keep the manifest; else $RAYCONVAI_CACHE, else ~/.cache/rayconvai.
    """

    def __init__(self, corpus: Corpus, cache_dir: str | Path | None = None) -> None:
        self.corpus, self.cache_dir = corpus, cache_dir

    def prepare(self) -> Splits[Any]:
        splits = self.corpus.prepare()
        parts = (splits.train, splits.dev)
        identity = json.dumps([(part.fingerprint(), str(part.path.parent)) for part in parts])
        made = cache_root(self.cache_dir) / "joined" / hashlib.sha256(identity.encode()).hexdigest()[:16]

        def make(directory: Path) -> dict[str, Any]:
            with (directory / "train.jsonl").open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(row) + "\n" for part in parts for row in part.portable_rows())
            return {"from": [str(part.path) for part in parts]}

        make_once(made, make)
        return Splits(type(splits.train).open(made / "train.jsonl"), splits.dev, splits.test)


def _open(kind: type[JsonLines[Any]], split: str, path: str | Path) -> JsonLines[Any]:
    path = Path(path).expanduser()
    if not path.is_file():
        raise DataError(f"data.corpus.{split}: manifest not found: {path.absolute()}; give the path of a JSONL file")
    if path.stat().st_size == 0:
        raise DataError(f"{path.absolute()}: the {split} set is empty; write one JSON object a line")
    return kind.open(path)


def _by_field(kind: type[JsonLines[Any]], path: Path) -> Splits[Any]:
    if not path.is_file():
        raise DataError(f"data.corpus.manifest: manifest not found: {path.absolute()}; give the path of a JSONL file")
    names = _split_names(path)
    for needed in ("train", "dev"):
        if needed not in names:
            found = f"splits there are: {', '.join(sorted(names))}" if names else "no row has a 'split' field"
            fix = 'give every row "split": "train", "dev" or "test", or set data.corpus.train and data.corpus.dev'
            raise DataError(f"{path.absolute()}: the {needed} set is empty, {found}; {fix}")
    test = kind.open(path, split="test") if "test" in names else None
    return Splits(kind.open(path, split="train"), kind.open(path, split="dev"), test)


def _split_names(path: Path) -> set[str]:
    """Read the names of all splits; a line that is no JSON object is left for ``open`` to name."""
    names = set()
    with path.open("rb") as file:
        for line in file:
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = {"split": "train"}  # an unreadable line must not be reported as a missing split
            name = row.get("split") if isinstance(row, dict) else "train"
            if isinstance(name, str):
                names.add(name)
    return names
