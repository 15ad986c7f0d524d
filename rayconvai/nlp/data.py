"""The data of a run on texts: checked, read by the model's tokenizer, batched by tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rayconvai.core.model import Model
from rayconvai.data.corpus import Corpus
from rayconvai.data.lines import OnBad, keep_good
from rayconvai.data.module import ManifestData
from rayconvai.data.texts import TextManifest
from rayconvai.errors import ConfigError, DataError
from rayconvai.nlp.dataset import Reading, TextBatch, TextDataset, read
from rayconvai.nlp.labels import Labels
from rayconvai.nlp.rows import Fields
from rayconvai.tokenizers.base import Tokenizer

if TYPE_CHECKING:
    from rayconvai.nlp.models.text_classification import TextClassificationModel


@dataclass(frozen=True, kw_only=True)
class Checks:
    """What becomes of texts that cannot be used."""

    on_bad: OnBad = "refuse"
    """``refuse`` stops before training at the first bad text; ``skip`` leaves them out and logs how many."""


STRICT = Checks()


class TextData(ManifestData):
    """Train, dev and test texts of a corpus, in batches of similar length.

    Args:
        corpus: where the texts are.
        fields: which keys of a row are read, and what is learnt: a label, tags, or both.
        batch_tokens: most tokens in a batch, padding included.
        batch_size: instead, texts in a batch.
        num_buckets: groups of similar length; more give less padding and less random batches.
        checks: what becomes of texts that cannot be used.
        seed: of batches.

    Raises:
        ConfigError: nothing is to be learnt, or sizes that cannot be.
    """

    unit = "tokens"

    def __init__(
        self,
        *,
        corpus: Corpus,
        fields: Fields,
        batch_tokens: int | None = None,
        batch_size: int | None = None,
        num_buckets: int = 16,
        checks: Checks = STRICT,
        seed: int = 0,
    ) -> None:
        super().__init__(
            corpus=corpus, batch_length=batch_tokens, batch_size=batch_size, num_buckets=num_buckets, seed=seed
        )
        if fields.label is None and fields.tags is None:
            raise ConfigError("fields has neither label nor tags: name the key of what is to be learnt")
        self.fields, self.checks = fields, checks
        self._known: dict[str, Labels] = {}

    def check(self, split: str, manifest: TextManifest) -> TextManifest:
        """Check every row; those of train say which labels and tags there are."""
        known = {} if split == "train" else self._known
        problems = {i: found for i, row in enumerate(manifest) if (found := self.fields.problem(row, known))}
        usable = keep_good(manifest, problems, self.checks.on_bad)
        if split == "train":
            if self.fields.label is not None:
                self._known["label"] = Labels(sorted({self.fields.label_of(row) for row in usable}))
            if self.fields.tags is not None:
                tags = {tag for row in usable for tag in self.fields.tags_of(row)}
                self._known["tags"] = Labels.of_tags(tags)
            if any(len(names) < 2 for names in self._known.values()):
                lacking = next(key for key, names in self._known.items() if len(names) < 2)
                raise DataError(f"{manifest.path}: all texts have the same {lacking}; there is nothing to learn")
        return usable

    def assets(self) -> dict[str, Any]:
        """Return the names of what is learnt: ``labels`` of texts, ``tags`` of words."""
        self.prepare()
        names = {"label": "labels", "tags": "tags"}
        return {names[key]: known for key, known in self._known.items()}

    def texts(self) -> Iterator[str]:
        return (" ".join(self.fields.words(row)) for row in self.splits["train"])

    def bind(self, model: Model) -> None:
        """Take tokenizer and longest text from a model, and read every text.

        Raises:
            DataError: a text that is too long for the encoder, or has nothing that the tokenizer can write.
        """
        reader: TextClassificationModel = model  # type: ignore[assignment]
        for name, manifest in self.splits.items():
            readings = _read_all(reader.tokenizer, manifest, self.fields)
            problems = {i: found for i, one in enumerate(readings) if (found := _problem(one, reader))}
            usable = keep_good(manifest, problems, self.checks.on_bad)
            good = [one for i, one in enumerate(readings) if i not in problems]
            self.keep(name, TextDataset(usable, self.fields, good, self._known))

    def bound_by(self, model: Model) -> int | None:
        reader: TextClassificationModel = model  # type: ignore[assignment]
        return reader.encoder.max_tokens

    def largest_batch(self) -> tuple[TextBatch, float]:
        rows, times = self.largest_rows()
        batch: TextBatch = self.dataset("train").collate_fn(rows)
        return batch, times


def _read_all(tokenizer: Tokenizer, manifest: TextManifest, fields: Fields) -> list[Reading]:
    texts = [fields.words(row) for row in manifest]
    try:
        return read(tokenizer, texts)
    except DataError:
        for index, words in enumerate(texts):  # which one was it?
            try:
                read(tokenizer, [words])
            except DataError as error:
                raise DataError(f"{manifest.where(index)}: {error}") from error
        raise


def _problem(reading: Reading, model: TextClassificationModel) -> str:
    """Return why an encoder cannot read a text; empty: it can."""
    count, most = len(reading.tokens), model.encoder.max_tokens
    if most is not None and count > most:
        return f"the text is {count} tokens long, and the encoder takes {most}; shorten it"
    if count == sum(map(len, model.tokenizer.frame)):
        return "the text has no character that the tokenizer knows; correct it"
    return ""
