"""What all models of text share: how their encoder is built and kept, and how they read texts that are no corpus."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torchmetrics import Metric

from rayconvai.core.build import build
from rayconvai.core.model import Model
from rayconvai.data.batch import padded
from rayconvai.data.rows import HALF, is_unicode
from rayconvai.errors import ArtefactError, DataError
from rayconvai.nlp.dataset import TextBatch, read
from rayconvai.nlp.encoder import TextEncoder
from rayconvai.nlp.labels import Labels, load_labels, save_labels
from rayconvai.tokenizers import Tokenizer, load_tokenizer

ARCHITECTURE_FILE = "architecture.json"


class Reader(Protocol):
    """A model of text."""

    encoder: TextEncoder
    tokenizer: Tokenizer


def build_encoder(node: Mapping[str, Any], tokenizer: Tokenizer, architecture: Mapping[str, Any] | None) -> TextEncoder:
    """Build an encoder for a tokenizer.

    Args:
        node: its config.
        tokenizer: whose tokens it reads.
        architecture: what an artefact holds of it; None: there is no artefact, or its config says all.
    """
    derived: dict[str, Any] = {"vocab_size": tokenizer.vocab_size}
    if architecture is not None:
        derived["architecture"] = architecture
    encoder: TextEncoder = build(node, **derived)
    return encoder


def save_reader(directory: Path, model: Reader, **labels: Labels) -> None:
    """Write what a model of text needs besides weights and config: tokenizer, labels, its encoder's architecture."""
    model.tokenizer.save(directory / "tokenizer")
    save_labels(directory, **labels)
    if model.encoder.architecture is not None:
        text = json.dumps(dict(model.encoder.architecture), indent=1, default=str)
        (directory / ARCHITECTURE_FILE).write_text(text + "\n", encoding="utf-8")


def load_reader(directory: Path) -> dict[str, Any]:
    """Read what ``save_reader`` wrote.

    Raises:
        ArtefactError: a file is missing or damaged.
    """
    assets = {"tokenizer": load_tokenizer(directory / "tokenizer"), **load_labels(directory)}
    path = directory / ARCHITECTURE_FILE
    if not path.is_file():
        return assets
    try:
        return {**assets, "architecture": json.loads(path.read_text(encoding="utf-8"))}
    except (OSError, ValueError) as error:
        raise ArtefactError(f"{path}: cannot be read: {error}") from error


def log_evaluation(
    model: Model, stage: str, loss: Tensor, metrics: Mapping[str, tuple[Metric, Tensor]], count: int
) -> None:
    """Log the loss of a batch and what it adds to each metric, by its name: ``val_loss``, ``val_f1`` ..."""
    model.log_evaluation_mean(f"{stage}_loss", loss, count)
    for name, (metric, counts) in metrics.items():
        metric.update(counts)
        model.log_evaluation_mean(f"{stage}_{name}", metric, count, prog_bar=True)


def tokens_seen(batch: TextBatch) -> dict[str, int | float | Tensor]:
    """Return how much a training batch holds."""
    return {"tokens": batch.lengths.sum(), "texts": len(batch.lengths)}


def batches(model: Model, texts: Sequence[Sequence[str]], batch_size: int) -> Iterator[dict[str, Tensor]]:
    """Yield texts, each given as words, as a model reads them: ``tokens``, ``lengths`` and ``places``.

    Raises:
        DataError: a text that is empty, no Unicode, or longer than the encoder takes.
    """
    reader: Any = model
    for number, words in enumerate(texts, start=1):
        if not any(word.strip() for word in words):
            raise DataError(f"text {number} is empty; give at least a word")
        if not is_unicode("".join(words)):
            raise DataError(f"text {number} is {' '.join(words)!r}, {HALF}")
    most = reader.encoder.max_tokens
    for first in range(0, len(texts), batch_size):
        readings = read(reader.tokenizer, texts[first : first + batch_size])
        for number, one in enumerate(readings, start=first + 1):
            if most is not None and len(one.tokens) > most:
                raise DataError(f"text {number} is {len(one.tokens)} tokens long; the encoder takes {most}: shorten it")
            if not one.tokens:
                raise DataError(f"text {number} has no character that the tokenizer knows")
        tokens, lengths = padded([torch.tensor(one.tokens) for one in readings])
        places, _ = padded([torch.tensor(one.places) for one in readings])
        inputs = {"tokens": tokens, "lengths": lengths, "places": places}
        yield {name: tensor.to(model.device) for name, tensor in inputs.items()}
