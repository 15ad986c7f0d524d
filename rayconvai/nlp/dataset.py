"""Texts as numbers, and batches of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, islice
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rayconvai.core import Dataset, Index, LabelsType, LengthsType, NeuralType, TokenIndex
from rayconvai.data.batch import padded
from rayconvai.data.texts import TextManifest
from rayconvai.nlp.heads import IGNORED
from rayconvai.nlp.labels import Labels
from rayconvai.nlp.rows import Fields
from rayconvai.tokenizers.base import Tokenizer


class Reading(NamedTuple):
    """A text as an encoder reads it."""

    tokens: list[int]
    places: list[int]
    """Of each word, where its first token stands. A word that no token is made of has the place before it."""


# B batch, T tokens, W words
class TextBatch(NamedTuple):
    """What the model gets."""

    tokens: Tensor
    """(B, T) int64, padded with zeros."""
    lengths: Tensor
    """(B,) tokens."""
    indices: Tensor
    """(B,) rows of the manifest."""
    labels: Tensor | None = None
    """(B,) the class of each text."""
    places: Tensor | None = None
    """(B, W) where each word begins, padded with zeros."""
    tags: Tensor | None = None
    """(B, W) the class of each word, padded with ``IGNORED``."""


class Ragged:
    """Rows of whole numbers of different lengths, end to end in one array."""

    def __init__(self, rows: Sequence[Sequence[int]]) -> None:
        self.ends = np.cumsum([len(row) for row in rows])
        self.values = np.fromiter(chain.from_iterable(rows), dtype=np.int32, count=int(self.ends[-1]))

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Of each row, (N,)."""
        return np.diff(self.ends, prepend=0)

    def __getitem__(self, index: int) -> Tensor:
        begin = 0 if index == 0 else self.ends[index - 1]
        return torch.from_numpy(self.values[begin : self.ends[index]].astype(np.int64))


class TextDataset(Dataset):
    """A manifest's texts, held as numbers: four bytes a token and, with tags, eight a word.

    Args:
        manifest: what was read.
        fields: which keys of its rows are learnt.
        readings: of each row.
        known: the names of classes, by ``label`` and ``tags``.
    """

    def __init__(
        self, manifest: TextManifest, fields: Fields, readings: Sequence[Reading], known: Mapping[str, Labels]
    ) -> None:
        self.manifest, self.fields = manifest, fields
        self._tokens = Ragged([reading.tokens for reading in readings])
        self._labels: Tensor | None = None
        self._words: tuple[Ragged, Ragged] | None = None
        if fields.label is not None:
            self._labels = torch.tensor([known["label"].numbers[fields.label_of(row)] for row in manifest])
        if fields.tags is not None:
            numbers = known["tags"].numbers
            tags = Ragged([[numbers[tag] for tag in fields.tags_of(row)] for row in manifest])
            self._words = Ragged([reading.places for reading in readings]), tags

    output_types = {
        "tokens": NeuralType(("B", "T"), TokenIndex()),
        "lengths": NeuralType(("B",), LengthsType()),
        "indices": NeuralType(("B",), Index()),
        "labels": NeuralType(("B",), LabelsType(), optional=True),
        "places": NeuralType(("B", "T"), Index(), optional=True),
        "tags": NeuralType(("B", "T"), LabelsType(), optional=True),
    }

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each text, (N,)."""
        return self._tokens.lengths

    def words(self, row: int) -> list[str]:
        """Return the words of a text, or the text as one where it has no tags."""
        return self.fields.words(self.manifest.row(row))

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, index: int) -> int:
        """Return the index: a batch is made of all at once."""
        return int(index)

    def _collate_fn(self, batch: Sequence[int]) -> TextBatch:
        labels = None if self._labels is None else self._labels[list(batch)]
        places, tags = self._words or (None, None)
        return TextBatch(
            *padded([self._tokens[row] for row in batch]),
            indices=torch.tensor(batch),
            labels=labels,
            places=None if places is None else _padded(places, batch, 0),
            tags=None if tags is None else _padded(tags, batch, IGNORED),
        )


def read(tokenizer: Tokenizer, texts: Sequence[Sequence[str]]) -> list[Reading]:
    """Return each text, given as words, as an encoder reads it.

    Raises:
        DataError: a character that the tokenizer cannot write, if it is of a kind that refuses such.
    """
    before, behind = tokenizer.frame
    encoded = iter(tokenizer.encode_words(list(chain.from_iterable(texts))))
    readings = []
    for words in texts:
        tokens, places = list(before), []
        for pieces in islice(encoded, len(words)):
            places.append(len(tokens) if pieces else max(len(tokens) - 1, 0))
            tokens.extend(pieces)
        readings.append(Reading(tokens + behind, places))
    return readings


def _padded(rows: Ragged, batch: Sequence[int], value: int) -> Tensor:
    return pad_sequence([rows[row] for row in batch], batch_first=True, padding_value=value)
