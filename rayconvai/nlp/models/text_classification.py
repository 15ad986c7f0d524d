"""The class of a text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor
from typing_extensions import Self, override

from rayconvai.core import LabelsType, LogitsType, NeuralType, typecheck
from rayconvai.core.build import build
from rayconvai.core.model import Model
from rayconvai.core.sample import Sample
from rayconvai.core.typecheck import trace
from rayconvai.data.module import dataset_of, refuse_not_finite
from rayconvai.errors import GraphError
from rayconvai.nlp.answers import Classified
from rayconvai.nlp.dataset import TextBatch, TextDataset
from rayconvai.nlp.encoder import TextEncoder
from rayconvai.nlp.heads import SequenceClassifier, SequenceLoss
from rayconvai.nlp.labels import Labels
from rayconvai.nlp.metrics import Score, class_counts
from rayconvai.nlp.reader import batches, build_encoder, load_reader, log_evaluation, save_reader, tokens_seen
from rayconvai.nlp.samples import classified
from rayconvai.tokenizers import Tokenizer


# B batch, T tokens, C classes
class TextClassificationModel(Model):
    """Tells which of several classes a text belongs to.

    Args:
        encoder: tokens to vectors.
        classifier: vectors to scores of the classes.
        tokenizer: text to tokens.
        labels: names of the classes.
        label_smoothing: of the loss.

    Raises:
        GraphError: the parts do not fit together.
    """

    metric_names = ("train_loss", "val_loss", "val_accuracy", "val_f1", "test_loss", "test_accuracy", "test_f1")
    usage = "classify {} TEXT"

    def __init__(
        self,
        *,
        encoder: TextEncoder,
        classifier: SequenceClassifier,
        tokenizer: Tokenizer,
        labels: Labels,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        if classifier.num_classes != len(labels):
            raise GraphError(f"classifier has {classifier.num_classes} classes, but there are {len(labels)} labels")
        self.encoder, self.classifier = encoder, classifier
        self.tokenizer, self.labels = tokenizer, labels
        self.loss = SequenceLoss(label_smoothing)
        count = len(labels)
        self.val_accuracy, self.val_f1 = Score("accuracy", count), Score("macro_f1", count)
        self.test_accuracy, self.test_f1 = Score("accuracy", count), Score("macro_f1", count)
        self.check_graph()

    @classmethod
    @override
    def from_config(  # type: ignore[override]  # a model names its own nodes
        cls,
        *,
        encoder: Mapping[str, Any],
        classifier: Mapping[str, Any],
        tokenizer: Tokenizer,
        labels: Labels,
        label_smoothing: float = 0.0,
        architecture: Mapping[str, Any] | None = None,
    ) -> Self:
        body = build_encoder(encoder, tokenizer, architecture)
        head = build(classifier, in_features=body.out_features, num_classes=len(labels))
        return cls(encoder=body, classifier=head, tokenizer=tokenizer, labels=labels, label_smoothing=label_smoothing)

    @cached_property
    def input_types(self) -> dict[str, NeuralType]:
        return self.encoder.input_types

    @cached_property
    def output_types(self) -> dict[str, NeuralType]:
        return {"logits": NeuralType(("B", f"D:{len(self.labels)}"), LogitsType())}

    @typecheck()
    def forward(self, *, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Return logits (B, C), float32."""
        return self._classify(tokens, lengths)

    def _classify(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        logits: Tensor = self.classifier(encoded=self.encoder(tokens=tokens, lengths=lengths), lengths=lengths)
        return logits

    def step(self, *, tokens: Tensor, lengths: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss and logits: what training, validation and the graph check share."""
        logits = self._classify(tokens, lengths)
        return self.loss(logits=logits, labels=labels), logits

    @override
    def dry_step(self, batch: TextBatch) -> Tensor:
        # Encoders of others look at the values of lengths; the head is little beside them.
        encoded: Tensor = self.encoder(tokens=batch.tokens)
        return encoded.mean()

    @override
    def check_graph(self) -> None:
        labels = NeuralType(("B",), LabelsType())
        trace(self.step, **self.input_types, labels=labels)

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
        self._evaluate(batch, "val", self.val_accuracy, self.val_f1)

    @override
    def test_step(self, batch: TextBatch, batch_idx: int) -> None:
        self._evaluate(batch, "test", self.test_accuracy, self.test_f1)

    @override
    def report(self) -> dict[str, Any]:
        return {"labels": (self.test_f1 if self.test_f1.last is not None else self.val_f1).by_class(self.labels)}

    def classify(self, texts: Sequence[str], batch_size: int = 32) -> list[Classified]:
        """Return the class of each text.

        Raises:
            DataError: a text that is empty, or longer than the encoder takes.
        """
        found: list[Classified] = []
        with self.in_use():
            for inputs in batches(self, [[text] for text in texts], batch_size):
                probabilities = self(tokens=inputs["tokens"], lengths=inputs["lengths"]).softmax(-1)
                for best, number in zip(*(part.tolist() for part in probabilities.max(-1)), strict=True):
                    found.append(Classified(self.labels[number], best))
        return found

    @override
    def save_assets(self, directory: Path) -> None:
        save_reader(directory, self, labels=self.labels)

    @classmethod
    @override
    def load_assets(cls, directory: Path) -> dict[str, Any]:
        return load_reader(directory)

    def _step(self, batch: TextBatch) -> tuple[Tensor, Tensor]:
        assert batch.labels is not None
        return self.step(tokens=batch.tokens, lengths=batch.lengths, labels=batch.labels)

    def _evaluate(self, batch: TextBatch, stage: str, accuracy: Score, f1: Score) -> None:
        loss, logits = self._step(batch)
        refuse_not_finite(self, loss, batch.indices, stage)
        assert batch.labels is not None
        counts = class_counts(logits.argmax(-1), batch.labels, len(self.labels))
        log_evaluation(self, stage, loss, {"accuracy": (accuracy, counts), "f1": (f1, counts)}, len(batch.lengths))
        self.keep_samples(stage, self._samples(batch, logits, dataset_of(self, stage)))

    def _samples(self, batch: TextBatch, logits: Tensor, dataset: TextDataset) -> Iterator[Sample]:
        assert batch.labels is not None
        for row, there, probabilities in zip(
            batch.indices.tolist(), batch.labels.tolist(), logits.softmax(-1).cpu(), strict=True
        ):
            found = self.labels[int(probabilities.argmax())]
            text = " ".join(dataset.words(row))
            where = dataset.manifest.where(row)
            yield classified(where, text, self.labels[there], found, float(probabilities[there]))
