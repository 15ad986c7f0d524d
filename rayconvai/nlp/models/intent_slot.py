"""What a request asks for, and with which particulars: intent and slots, read at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self, override

from rayconvai.core import Index, LabelsType, LogitsType, NeuralType, typecheck
from rayconvai.core.build import build
from rayconvai.core.model import Model
from rayconvai.core.sample import Sample
from rayconvai.core.typecheck import trace
from rayconvai.data.module import dataset_of, refuse_not_finite
from rayconvai.errors import GraphError
from rayconvai.nlp.answers import Classified, Tagged, in_words, spans_of, words_in
from rayconvai.nlp.dataset import TextBatch, TextDataset
from rayconvai.nlp.encoder import TextEncoder
from rayconvai.nlp.heads import SequenceClassifier, SequenceLoss, TokenClassifier, TokenLoss
from rayconvai.nlp.labels import Labels, Span
from rayconvai.nlp.metrics import Score, class_counts, span_counts
from rayconvai.nlp.reader import batches, build_encoder, load_reader, log_evaluation, save_reader, tokens_seen
from rayconvai.nlp.samples import tagged, with_intent
from rayconvai.tokenizers import Tokenizer


# B batch, T tokens, W words, C classes
class IntentSlotClassificationModel(Model):
    """Tells the intent of a request and marks its slots (BIO), with one encoder for both.

    Args:
        encoder: tokens to vectors.
        intent_classifier: vectors to scores of the intents.
        slot_classifier: vectors to scores of the slots' tags, for each word.
        tokenizer: text to tokens.
        labels: names of the intents.
        tags: names of the slots' tags.
        intent_weight: of the intents' loss in the sum, from 0 to 1; the rest is the slots'.

    Raises:
        GraphError: the parts do not fit together.
    Source: Chen et al. 2019 (arXiv 1902.10909).
    """

    metric_names = (
        *("train_loss", "val_loss", "val_intent_accuracy", "val_slot_f1", "val_exact"),
        *("test_loss", "test_intent_accuracy", "test_slot_f1", "test_exact"),
    )
    usage = "tag {} TEXT"

    def __init__(
        self,
        *,
        encoder: TextEncoder,
        intent_classifier: SequenceClassifier,
        slot_classifier: TokenClassifier,
        tokenizer: Tokenizer,
        labels: Labels,
        tags: Labels,
        intent_weight: float = 0.5,
    ) -> None:
        super().__init__()
        if (intent_classifier.num_classes, slot_classifier.num_classes) != (len(labels), len(tags)):
            raise GraphError(
                f"the classifiers have {intent_classifier.num_classes} and {slot_classifier.num_classes} classes, but "
                f"there are {len(labels)} intents and {len(tags)} tags"
            )
        if not 0 < intent_weight < 1:
            raise ValueError(f"intent_weight is {intent_weight}; it must be between 0 and 1")
        self.encoder, self.intent_classifier, self.slot_classifier = encoder, intent_classifier, slot_classifier
        self.tokenizer, self.labels, self.tags, self.intent_weight = tokenizer, labels, tags, intent_weight
        self.intent_loss, self.slot_loss = SequenceLoss(), TokenLoss()
        self.val_intent_accuracy, self.test_intent_accuracy = (Score("accuracy", len(labels)) for _ in range(2))
        self.val_slot_f1, self.test_slot_f1 = (Score("f1", len(tags.kinds)) for _ in range(2))
        self.val_exact, self.test_exact = Score("accuracy"), Score("accuracy")
        self.check_graph()

    @classmethod
    @override
    def from_config(  # type: ignore[override]  # a model names its own nodes
        cls,
        *,
        encoder: Mapping[str, Any],
        intent_classifier: Mapping[str, Any],
        slot_classifier: Mapping[str, Any],
        tokenizer: Tokenizer,
        labels: Labels,
        tags: Labels,
        intent_weight: float = 0.5,
        architecture: Mapping[str, Any] | None = None,
    ) -> Self:
        body = build_encoder(encoder, tokenizer, architecture)
        return cls(
            encoder=body,
            intent_classifier=build(intent_classifier, in_features=body.out_features, num_classes=len(labels)),
            slot_classifier=build(slot_classifier, in_features=body.out_features, num_classes=len(tags)),
            tokenizer=tokenizer,
            labels=labels,
            tags=tags,
            intent_weight=intent_weight,
        )

    @cached_property
    def input_types(self) -> dict[str, NeuralType]:
        return {**self.encoder.input_types, "places": NeuralType(("B", "T"), Index())}

    @cached_property
    def output_types(self) -> dict[str, NeuralType]:
        return {
            "intent_logits": NeuralType(("B", f"D:{len(self.labels)}"), LogitsType()),
            "slot_logits": NeuralType(("B", "T", f"D:{len(self.tags)}"), LogitsType()),
        }

    @typecheck()
    def forward(self, *, tokens: Tensor, lengths: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of each text's intent (B, C) and of its words' tags (B, W, C), float32."""
        return self._understand(tokens, lengths, places)

    def _understand(self, tokens: Tensor, lengths: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        encoded = self.encoder(tokens=tokens, lengths=lengths)
        intents = self.intent_classifier(encoded=encoded, lengths=lengths)
        return intents, self.slot_classifier(encoded=encoded, places=places)

    def step(
        self, *, tokens: Tensor, lengths: Tensor, places: Tensor, labels: Tensor, tags: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return both losses and both logits: what training, validation and the graph check share."""
        intents, slots = self._understand(tokens, lengths, places)
        intent_loss = self.intent_loss(logits=intents, labels=labels)
        return intent_loss, self.slot_loss(logits=slots, tags=tags), intents, slots

    @override
    def dry_step(self, batch: TextBatch) -> Tensor:
        # Encoders of others look at the values of lengths; the heads are little beside them.
        encoded: Tensor = self.encoder(tokens=batch.tokens)
        return encoded.mean()

    @override
    def check_graph(self) -> None:
        labels, tags = NeuralType(("B",), LabelsType()), NeuralType(("B", "T"), LabelsType())
        trace(self.step, **self.input_types, labels=labels, tags=tags)

    @override
    def seen(self, batch: TextBatch) -> Mapping[str, int | float | Tensor]:
        return tokens_seen(batch)

    @override
    def training_step(self, batch: TextBatch, batch_idx: int) -> Tensor:
        loss, _, _ = self._step(batch)
        refuse_not_finite(self, loss, batch.indices, "train")
        self.log_training_mean("train_loss", loss, len(batch.lengths))
        return loss

    @override
    def validation_step(self, batch: TextBatch, batch_idx: int) -> None:
        self._evaluate(batch, "val", self.val_intent_accuracy, self.val_slot_f1, self.val_exact)

    @override
    def test_step(self, batch: TextBatch, batch_idx: int) -> None:
        self._evaluate(batch, "test", self.test_intent_accuracy, self.test_slot_f1, self.test_exact)

    @override
    def report(self) -> dict[str, Any]:
        tested = self.test_exact.last is not None
        intents = self.test_intent_accuracy if tested else self.val_intent_accuracy
        slots = self.test_slot_f1 if tested else self.val_slot_f1
        return {"labels": intents.by_class(self.labels), "spans": slots.by_class(self.tags.kinds)}

    def understand(self, texts: Sequence[str | Sequence[str]], batch_size: int = 32) -> list[tuple[Classified, Tagged]]:
        """Return intent and slots of each text: a string is divided at white space, or the words are given.

        Raises:
            DataError: a text that is empty, or longer than the encoder takes.
        """
        in_order = in_words(texts)
        found: list[tuple[Classified, Tagged]] = []
        with self.in_use():
            for inputs in batches(self, in_order, batch_size):
                some = in_order[len(found) : len(found) + len(inputs["tokens"])]
                intents, slots = self(**inputs)
                best = zip(*(part.tolist() for part in intents.softmax(-1).max(-1)), strict=True)
                spans = spans_of(slots.argmax(-1), self.tags, [len(words) for words in some])
                for words, (probability, number), mine in zip(some, best, spans, strict=True):
                    found.append((Classified(self.labels[number], probability), Tagged(words, mine)))
        return found

    def classify(self, texts: Sequence[str], batch_size: int = 32) -> list[Classified]:
        """Return the intent of each text; see ``understand``."""
        return [intent for intent, _ in self.understand(texts, batch_size)]

    def tag(self, texts: Sequence[str | Sequence[str]], batch_size: int = 32) -> list[Tagged]:
        """Return the slots of each text; see ``understand``."""
        return [slots for _, slots in self.understand(texts, batch_size)]

    @override
    def save_assets(self, directory: Path) -> None:
        save_reader(directory, self, labels=self.labels, tags=self.tags)

    @classmethod
    @override
    def load_assets(cls, directory: Path) -> dict[str, Any]:
        return load_reader(directory)

    def _step(self, batch: TextBatch) -> tuple[Tensor, Tensor, Tensor]:
        tokens, lengths, _, labels, places, tags = batch
        assert labels is not None
        assert places is not None
        assert tags is not None
        intent_loss, slot_loss, intents, slots = self.step(
            tokens=tokens, lengths=lengths, places=places, labels=labels, tags=tags
        )
        return torch.lerp(slot_loss, intent_loss, self.intent_weight), intents, slots

    def _evaluate(self, batch: TextBatch, stage: str, accuracy: Score, f1: Score, exact: Score) -> None:
        loss, intents, slots = self._step(batch)
        refuse_not_finite(self, loss, batch.indices, stage)
        assert batch.labels is not None
        assert batch.tags is not None
        words, mine = words_in(batch.tags), intents.argmax(-1)
        there, found = (spans_of(tags, self.tags, words) for tags in (batch.tags, slots.argmax(-1)))
        right = sum(
            all(same) for same in zip((mine == batch.labels).tolist(), map(list.__eq__, there, found), strict=True)
        )
        counted = {
            "intent_accuracy": (accuracy, class_counts(mine, batch.labels, len(self.labels))),
            "slot_f1": (f1, span_counts(found, there, self.tags.kinds)),
            "exact": (exact, torch.tensor([[right], [len(words)], [len(words)]])),
        }
        log_evaluation(self, stage, loss, counted, len(batch.lengths))
        self.keep_samples(stage, self._samples(batch, mine.tolist(), there, found, dataset_of(self, stage)))

    def _samples(
        self,
        batch: TextBatch,
        intents: Sequence[int],
        there: Sequence[Sequence[Span]],
        found: Sequence[Sequence[Span]],
        dataset: TextDataset,
    ) -> Iterator[Sample]:
        assert batch.labels is not None
        for row, right, mine, slots, found_slots in zip(
            batch.indices.tolist(), batch.labels.tolist(), intents, there, found, strict=True
        ):
            of_slots = tagged(dataset.manifest.where(row), dataset.words(row), slots, found_slots)
            yield with_intent(of_slots, self.labels[right], self.labels[mine])
