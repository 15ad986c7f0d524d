"""Artefacts: a trained model as a directory that can be handed to anyone. Nothing in it is pickled.

config.yaml          the model's config node, resolved
model.safetensors    its weights
assets/              what else it needs: a tokenizer
samples/             what it made of some examples; not all have it
card.json            format version, metrics, data, provenance, and the SHA-256 of every other file and of itself
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import yaml
from safetensors import SafetensorError
from torch import nn

from rayconvai.core.build import resolve_target
from rayconvai.errors import ArtefactError, ConfigError, StorageError

if TYPE_CHECKING:
    from rayconvai.core.model import Model

FORMAT = 2
CONFIG, WEIGHTS, ASSETS, CARD = "config.yaml", "model.safetensors", "assets", "card.json"


def write_artefact(
    path: Path,
    model: Model,
    *,
    config: Mapping[str, Any],
    card: Mapping[str, Any],
    extras: Callable[[Path], None] | None = None,
) -> Path:
    """Write ``model`` as an artefact, whole or not at all: made beside ``path`` and renamed.

    Raises:
        ArtefactError: ``path`` exists and is not an artefact.
        StorageError: it cannot be written.
    """
    if path.exists() and not (path / CARD).is_file():
        raise ArtefactError(f"{path} exists and is not an artefact; choose another path")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as scratch:
            made = Path(scratch) / path.name
            (made / ASSETS).mkdir(parents=True)
            (made / CONFIG).write_text(yaml.safe_dump(dict(config), sort_keys=False), encoding="utf-8")
            safetensors.torch.save_model(model, str(made / WEIGHTS))
            model.save_assets(made / ASSETS)
            if extras is not None:
                extras(made)
            files = {name: sha256(made / name) for name in sorted(_files(made))}
            plain = json.loads(json.dumps({"format": FORMAT, **card, "files": files}, default=str))
            text = json.dumps({**plain, "sha256": card_digest(plain)}, indent=2)
            (made / CARD).write_text(text + "\n", encoding="utf-8")
            if path.exists():
                path.rename(Path(scratch) / "replaced")
            made.rename(path)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or _one_line(error)
        raise StorageError(f"cannot write the artefact {path}: {reason}; free space there, then try again") from error
    return path


@dataclass(frozen=True)
class Artefact:
    """An artefact whose card and files have been checked."""

    path: Path
    config: dict[str, Any]
    card: dict[str, Any]

    @property
    def assets(self) -> Path:
        """The directory that the model's ``load_assets`` reads."""
        return self.path / ASSETS

    def model_class(self, config: Mapping[str, Any]) -> type[Model]:
        """Return the class to build, after checking that the config names nothing but modules of allowed packages."""
        try:
            classes = [resolve_target(target) for target in _targets(config)]
        except ConfigError as error:
            raise ArtefactError(f"{self.path / CONFIG}: {error}") from error
        for found in classes:
            if not (isinstance(found, type) and issubclass(found, nn.Module)):
                name = getattr(found, "__name__", found)
                raise ArtefactError(f"{self.path / CONFIG}: {name} is not a torch module; an artefact may not name it")
        if not classes or not hasattr(classes[0], "load_assets"):
            raise ArtefactError(f"{self.path / CONFIG}: the outermost _target_ is not a rayconvai model")
        return classes[0]  # type: ignore[return-value]  # the check above: only models have load_assets

    def load_weights(self, model: nn.Module, *, strict: bool) -> None:
        """Load the weights into ``model``."""
        try:
            safetensors.torch.load_model(model, str(self.path / WEIGHTS), strict=strict)
        except (RuntimeError, SafetensorError) as error:
            raise ArtefactError(f"{self.path / WEIGHTS} does not fit the config: {_one_line(error)}") from error


def read_artefact(path: Path) -> Artefact:
    """Read and verify an artefact: its card, and the checksum of every file it lists.

    Raises:
        ArtefactError: not an artefact, from a newer version, damaged, or with a file outside itself or not in its card.
    """
    card = _read_card(path)
    for name, digest in card["files"].items():
        file = path / name
        if "\0" in name or not file.resolve().is_relative_to(path.resolve()):
            raise ArtefactError(f"{path / CARD} lists {name!r}, which is outside the artefact; do not use it")
        if not file.is_file():
            raise ArtefactError(f"{path}: {name} is missing; get the artefact again")
        if sha256(file) != digest:
            raise ArtefactError(f"{path}: {name} was changed or damaged (its SHA-256 differs from the card's)")
    extra = set(_files(path)) - set(card["files"]) - {CARD}
    if extra:
        raise ArtefactError(f"{path}: {sorted(extra)[0]} is not in the card; remove it or get the artefact again")
    for needed in (CONFIG, WEIGHTS):
        if needed not in card["files"]:
            raise ArtefactError(f"{path / CARD} does not list {needed}; get the artefact again")
    return Artefact(path, _read_config(path / CONFIG), card)


def _read_card(path: Path) -> dict[str, Any]:
    try:
        if not (path / CARD).is_file():
            raise ArtefactError(f"{path} is not an artefact: it has no {CARD}")
        card = json.loads((path / CARD).read_text(encoding="utf-8"))
        version, files, digest = card["format"], card["files"], card.pop("sha256", None)
    except ArtefactError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtefactError(f"{path / CARD} cannot be read: {_one_line(error)}; get the artefact again") from error
    if version != FORMAT:
        raise ArtefactError(f"{path} has artefact format {version}; this rayconvai reads format {FORMAT}")
    if not (isinstance(files, dict) and all(isinstance(digest, str) for digest in files.values())):
        raise ArtefactError(f"{path / CARD}: 'files' must map names to checksums; get the artefact again")
    assert isinstance(card, dict)
    if digest != card_digest(card):
        raise ArtefactError(f"{path}: {CARD} was changed or damaged (its SHA-256 differs from its own)")
    return card


def card_digest(card: Mapping[str, Any]) -> str:
    """Return the SHA-256 of what a card says, its own left out, in hexadecimal."""
    return hashlib.sha256(json.dumps(card, sort_keys=True).encode()).hexdigest()


def _read_config(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
        # A few aliases can stand for more values than there is memory; saved configs have none.
        aliases = any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader))
        config = None if aliases else yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ArtefactError(f"{file} cannot be read: {_one_line(error)}") from error
    # An interpolation could read the environment of whoever loads the artefact; saved configs are resolved.
    if not isinstance(config, dict) or "${" in text:
        raise ArtefactError(f"{file} is not a resolved model config")
    return config


def _targets(config: Any) -> Iterator[str]:
    if isinstance(config, Mapping):
        if "_target_" in config:
            yield str(config["_target_"])
        for value in config.values():
            yield from _targets(value)
    elif isinstance(config, list):
        for value in config:
            yield from _targets(value)


def _files(root: Path) -> Iterator[str]:
    for directory, folders, names in os.walk(root):
        links = [name for name in folders if os.path.islink(os.path.join(directory, name))]
        for name in (*names, *links):
            yield (Path(directory) / name).relative_to(root).as_posix()


def sha256(file: Path) -> str:
    """Return the SHA-256 of a file of any size, in hexadecimal."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
