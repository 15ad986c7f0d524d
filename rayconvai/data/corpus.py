"""Prepared corpora: what to train on, what to choose by, what to report on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rayconvai.data.cache import make_once
from rayconvai.data.manifest import Manifest
from rayconvai.errors import ConfigError, DataError
from rayconvai.places import cache_root


@dataclass(frozen=True)
class Splits:
    """The manifests of a corpus."""

    train: Manifest
    dev: Manifest
    """Chooses the best checkpoint and the best trial."""
    test: Manifest | None = None
    """Chooses nothing: only reported."""


class Corpus(Protocol):
    """Anything that can say where its utterances are."""

    def prepare(self) -> Splits:
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

    def prepare(self) -> Splits:
        if self.manifest is not None:
            return _by_field(Path(self.manifest).expanduser())
        assert self.train is not None
        assert self.dev is not None
        test = None if self.test is None else _open("test", self.test)
        return Splits(_open("train", self.train), _open("dev", self.dev), test)


class TrainAndDev:
    """Another corpus whose dev utterances are trained on too: for a last training, when dev has chosen all it had to.

    Dev stays what it was, so what is measured on it from then on says nothing. The manifest of both is written into the
    cache, once for each pair, with absolute paths of the sounds.

    Args:
        corpus: whose train and dev to join.
        cache_dir: where to keep the manifest; else $RAYCONVAI_CACHE, else ~/.cache/rayconvai.
    """

    def __init__(self, corpus: Corpus, cache_dir: str | Path | None = None) -> None:
        self.corpus, self.cache_dir = corpus, cache_dir

    def prepare(self) -> Splits:
        splits = self.corpus.prepare()
        parts = (splits.train, splits.dev)
        identity = json.dumps([(part.fingerprint(), str(part.path.parent)) for part in parts])
        made = cache_root(self.cache_dir) / "joined" / hashlib.sha256(identity.encode()).hexdigest()[:16]

        def make(directory: Path) -> dict[str, Any]:
            with (directory / "train.jsonl").open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(row) + "\n" for part in parts for row in _absolute(part))
            return {"from": [str(part.path) for part in parts]}

        make_once(made, make)
        return Splits(_open("train", made / "train.jsonl"), splits.dev, splits.test)


def _absolute(manifest: Manifest) -> Iterator[dict[str, Any]]:
    """Yield the rows of a manifest as they would be read from any directory."""
    for index, row in enumerate(manifest):
        kept = {"audio_filepath": str(row.audio_filepath), "duration": row.duration, "text": row.text}
        kept |= {"speaker": row.speaker} if row.speaker is not None else {}
        yield kept | ({"offset": row.offset} if manifest.has_offset(index) else {})


def _open(split: str, path: str | Path) -> Manifest:
    path = Path(path).expanduser()
    if not path.is_file():
        raise DataError(f"data.corpus.{split}: manifest not found: {path.absolute()}; give the path of a JSONL file")
    if path.stat().st_size == 0:
        raise DataError(f"{path.absolute()}: the {split} set is empty; write one JSON object a line")
    return Manifest.open(path)


def _by_field(path: Path) -> Splits:
    if not path.is_file():
        raise DataError(f"data.corpus.manifest: manifest not found: {path.absolute()}; give the path of a JSONL file")
    names = _split_names(path)
    for needed in ("train", "dev"):
        if needed not in names:
            found = f"splits there are: {', '.join(sorted(names))}" if names else "no row has a 'split' field"
            fix = 'give every row "split": "train", "dev" or "test", or set data.corpus.train and data.corpus.dev'
            raise DataError(f"{path.absolute()}: the {needed} set is empty, {found}; {fix}")
    test = Manifest.open(path, split="test") if "test" in names else None
    return Splits(Manifest.open(path, split="train"), Manifest.open(path, split="dev"), test)


def _split_names(path: Path) -> set[str]:
    """Read the names of all splits; a line that is no JSON object is left for ``Manifest.open`` to name."""
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
