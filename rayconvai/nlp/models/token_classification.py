"""The spans of a text: names, places, whatever its words are marked with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor
from typing_extensions import Self, override

from rayconvai.core import Index, LabelsType, LogitsType, NeuralType, typecheck
from rayconvai.core.build import build
from rayconvai.core.model import Model
from rayconvai.core.sample import Sample
from rayconvai.core.typecheck import trace
from rayconvai.data.module import dataset_of, refuse_not_finite
from rayconvai.errors import GraphError
from rayconvai.nlp.answers import Tagged, in_words, spans_of, words_in
from rayconvai.nlp.dataset import TextBatch, TextDataset
from rayconvai.nlp.encoder import TextEncoder
from rayconvai.nlp.heads import TokenClassifier, TokenLoss
from rayconvai.nlp.labels import Labels
from rayconvai.nlp.metrics import Score, span_counts
from rayconvai.nlp.reader import batches, build_encoder, load_reader, log_evaluation, save_reader, tokens_seen
from rayconvai.nlp.samples import tagged
from rayconvai.tokenizers import Tokenizer


# B batch, T tokens, W words, C classes
class TokenClassificationModel(Model):
    """Marks the spans of a text with their types (BIO).

    Args:
        encoder: tokens to vectors.
        classifier: vectors to scores of the tags, for each word by its first token.
        tokenizer: text to tokens.
        tags: names of the tags.

    Raises:
        GraphError: the parts do not fit together.
    """

    metric_names = (
        *("train_loss", "val_loss", "val_f1", "val_precision", "val_recall"),
        *("test_loss", "test_f1", "test_precision", "test_recall"),
    )
    usage = "tag {} TEXT"

    def __init__(
        self, *, encoder: TextEncoder, classifier: TokenClassifier, tokenizer: Tokenizer, tags: Labels
    ) -> None:
        super().__init__()
        if classifier.num_classes != len(tags):
            raise GraphError(f"classifier has {classifier.num_classes} classes, but there are {len(tags)} tags")
        self.encoder, self.classifier = encoder, classifier
        self.tokenizer, self.tags = tokenizer, tags
        self.loss = TokenLoss()
        count = len(tags.kinds)
        self.val_f1, self.test_f1 = Score("f1", count), Score("f1", count)
        self.val_precision, self.test_precision = Score("precision", count), Score("precision", count)
        self.val_recall, self.test_recall = Score("recall", count), Score("recall", count)
        self.check_graph()

    @classmethod
    @override
    def from_config(  # type: ignore[override]  # a model names its own nodes
        cls,
        *,
        encoder: Mapping[str, Any],
        classifier: Mapping[str, Any],
        tokenizer: Tokenizer,
        tags: Labels,
        architecture: Mapping[str, Any] | None = None,
    ) -> Self:
        body = build_encoder(encoder, tokenizer, architecture)
        head = build(classifier, in_features=body.out_features, num_classes=len(tags))
        return cls(encoder=body, classifier=head, tokenizer=tokenizer, tags=tags)

    @cached_property
    def input_types(self) -> dict[str, NeuralType]:
        return {**self.encoder.input_types, "places": NeuralType(("B", "T"), Index())}

    @cached_property
    def output_types(self) -> dict[str, NeuralType]:
        return {"logits": NeuralType(("B", "T", f"D:{len(self.tags)}"), LogitsType())}

    @typecheck()
    def forward(self, *, tokens: Tensor, lengths: Tensor, places: Tensor) -> Tensor:
        """Return the logits of each word's tags (B, W, C), float32."""
        return self._tag(tokens, lengths, places)

    def _tag(self, tokens: Tensor, lengths: Tensor, places: Tensor) -> Tensor:
        logits: Tensor = self.classifier(encoded=self.encoder(tokens=tokens, lengths=lengths), places=places)
        return logits

    def step(self, *, tokens: Tensor, lengths: Tensor, places: Tensor, tags: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss and logits: what training, validation and the graph check share."""
        logits = self._tag(tokens, lengths, places)
        return self.loss(logits=logits, tags=tags), logits

    @override
    def dry_step(self, batch: TextBatch) -> Tensor:
        # Encoders of others look at the values of lengths; the head is little beside them.
        encoded: Tensor = self.encoder(tokens=batch.tokens)
        return encoded.mean()

    @override
    def check_graph(self) -> None:
        trace(self.step, **self.input_types, tags=NeuralType(("B", "T"), LabelsType()))

    @override
    def seen(self, batch: TextBatch) -> Mapping[str, int | float | Tensor]:
        return tokens_seen(batch)

    @override
    def training_step(self, batch: TextBatch, batch_idx: int) -> Tensor:
        loss, _ = self._step(batch)
        refuse_not_finite(self, loss, batch.indices, "train")
        self.log_training_mean("train_loss", loss, len(batch.lengths))
        return loss

    @override
    def validation_step(self, batch: TextBatch, batch_idx: int) -> None:
        self._evaluate(batch, "val", {"f1": self.val_f1, "precision": self.val_precision, "recall": self.val_recall})

    @override
    def test_step(self, batch: TextBatch, batch_idx: int) -> None:
        self._evaluate(
            batch, "test", {"f1": self.test_f1, "precision": self.test_precision, "recall": self.test_recall}
        )

    @override
    def report(self) -> dict[str, Any]:
        return {"spans": (self.test_f1 if self.test_f1.last is not None else self.val_f1).by_class(self.tags.kinds)}

    def tag(self, texts: Sequence[str | Sequence[str]], batch_size: int = 32) -> list[Tagged]:
        """Return the spans of each text: a string is divided at white space, or the words are given.

        Raises:
            DataError: a text that is empty, or longer than the encoder takes.
        """
        in_order = in_words(texts)
        found: list[Tagged] = []
        with self.in_use():
            for inputs in batches(self, in_order, batch_size):
                some = in_order[len(found) : len(found) + len(inputs["tokens"])]
                spans = spans_of(self(**inputs).argmax(-1), self.tags, [len(words) for words in some])
                found.extend(Tagged(words, mine) for words, mine in zip(some, spans, strict=True))
        return found

    @override
    def save_assets(self, directory: Path) -> None:
        save_reader(directory, self, tags=self.tags)

    @classmethod
    @override
    def load_assets(cls, directory: Path) -> dict[str, Any]:
        return load_reader(directory)

    def _step(self, batch: TextBatch) -> tuple[Tensor, Tensor]:
        assert batch.places is not None
        assert batch.tags is not None
        return self.step(tokens=batch.tokens, lengths=batch.lengths, places=batch.places, tags=batch.tags)

    def _evaluate(self, batch: TextBatch, stage: str, metrics: Mapping[str, Score]) -> None:
        loss, logits = self._step(batch)
        refuse_not_finite(self, loss, batch.indices, stage)
        assert batch.tags is not None
        words = words_in(batch.tags)
        there, found = (spans_of(tags, self.tags, words) for tags in (batch.tags, logits.argmax(-1)))
        counts = span_counts(found, there, self.tags.kinds)
        counted = {name: (metric, counts) for name, metric in metrics.items()}
        log_evaluation(self, stage, loss, counted, len(batch.lengths))
        self.keep_samples(stage, self._samples(batch, there, found, dataset_of(self, stage)))

    def _samples(self, batch: TextBatch, there: Any, found: Any, dataset: TextDataset) -> Iterator[Sample]:
        for row, right, mine in zip(batch.indices.tolist(), there, found, strict=True):
            yield tagged(dataset.manifest.where(row), dataset.words(row), right, mine)
