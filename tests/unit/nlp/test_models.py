"""Models of text, from their configs to what they say of texts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from rayconvai.commands import classify, tag
from rayconvai.core.model import Model, build_model
from rayconvai.core.sample import Marked, Sample, Text
from rayconvai.data.corpus import TextCorpus
from rayconvai.errors import ArtefactError, ConfigError, DataError, GraphError
from rayconvai.nlp.data import TextData
from rayconvai.nlp.heads import SequenceClassifier
from rayconvai.nlp.labels import Labels
from rayconvai.nlp.models.text_classification import TextClassificationModel
from rayconvai.nlp.rows import Fields
from rayconvai.nlp.transformer import TransformerEncoder
from rayconvai.tokenizers import SubwordTokenizer

from .conftest import ROWS, TEXTS, Write

MODELS = "rayconvai.nlp.models"
OWN = {"_target_": "rayconvai.nlp.transformer.TransformerEncoder", "d_model": 16, "num_layers": 1, "num_heads": 2}
SEQUENCE = {"_target_": "rayconvai.nlp.heads.SequenceClassifier", "dropout": 0.0}
WORDS = {"_target_": "rayconvai.nlp.heads.TokenClassifier", "dropout": 0.0}
NODES: dict[str, dict[str, Any]] = {
    "text": {"_target_": f"{MODELS}.text_classification.TextClassificationModel", "classifier": SEQUENCE},
    "token": {"_target_": f"{MODELS}.token_classification.TokenClassificationModel", "classifier": WORDS},
    "both": {
        "_target_": f"{MODELS}.intent_slot.IntentSlotClassificationModel",
        "intent_classifier": SEQUENCE,
        "slot_classifier": WORDS,
    },
}
FIELDS = {"text": Fields(label="intent"), "token": Fields(tags="slots"), "both": Fields(label="intent", tags="slots")}
PERFECT = {
    "text": {"val_accuracy": 1, "val_f1": 1},
    "token": {"val_f1": 1, "val_precision": 1, "val_recall": 1},
    "both": {"val_intent_accuracy": 1, "val_slot_f1": 1, "val_exact": 1},
}


def built(kind: str, manifest: Path, source: Path | None = None) -> tuple[Model, TextData]:
    data = TextData(corpus=TextCorpus(train=manifest, dev=manifest), fields=FIELDS[kind], batch_size=3)
    encoder: dict[str, Any] = OWN
    tokenizer = SubwordTokenizer.train(TEXTS, vocab_size=60)
    if source is not None:
        encoder = {"_target_": "rayconvai.nlp.pretrained.PretrainedEncoder", "source": str(source)}
        tokenizer = SubwordTokenizer.pretrained(source=str(source))
    torch.manual_seed(0)
    model = build_model({**NODES[kind], "encoder": encoder}, tokenizer=tokenizer, **data.assets())
    data.bind(model)
    return model, data


def trained(model: Model, data: TextData, steps: int = 150, **options: Any) -> Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = Trainer(
        max_steps=steps, accelerator="cpu", logger=False, use_distributed_sampler=False, num_sanity_val_steps=0,
        **{**quiet, "check_val_every_n_epoch": max(1, steps // 2), **options},
    )  # fmt: skip
    model.set_optimization({"name": "adamw", "lr": 1e-2}, None)
    trainer.fit(model, datamodule=data)
    return trainer


@pytest.mark.parametrize("kind", NODES)
def test_learns_a_tiny_language_and_its_artefact_reads_texts(
    kind: str, write: Write, pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = shutil.copytree(pretrained, tmp_path / "source") if kind == "both" else None
    model, data = built(kind, write(), source)
    kept: list[Sample] = []
    model.keep_samples = lambda stage, samples: kept.extend(samples)  # type: ignore[method-assign]
    trainer = trained(model, data)
    assert {name: trainer.callback_metrics[name] for name in PERFECT[kind]} == PERFECT[kind]
    assert trainer.callback_metrics["train_loss"] < 0.1
    assert {sample.where.rpartition(":")[2] for sample in kept} == {"1", "2", "3", "4", "5", "6"}
    assert all(sample.score < 0.3 for sample in kept[-6:])
    for group in model.report().values():
        assert all(figures["f1"] == 1 for figures in group.values())
    model.save_to(tmp_path / "artefact")
    if source is not None:
        shutil.rmtree(source)
    data.corpus = None  # type: ignore[assignment]
    restored = Model.restore_from(tmp_path / "artefact")
    artefact = str(tmp_path / "artefact")
    if kind != "token":
        answers = restored.classify(list(TEXTS), batch_size=4)
        assert [answer.label for answer in answers] == [row["intent"] for row in ROWS]
        assert classify.main([artefact, "fly to oslo"]) == 0
        assert capsys.readouterr().out.startswith("fly to oslo\ttravel\t")
    if kind != "text":
        assert [tagged.named() for tagged in restored.tag([TEXTS[0], ROWS[5]["tokens"]])] == [
            [("song", "golden river")],
            [("city", "lima")],
        ]
        assert tag.main([artefact, *TEXTS[2:4]]) == 0
        assert capsys.readouterr().out == f"{TEXTS[2]}\tcity=cape town\n{TEXTS[3]}\tcity=oslo\n"
    refused = {"text": tag, "token": classify}.get(kind)
    if refused is not None:
        with pytest.raises(ArtefactError, match="which does not"):
            refused.main([artefact, "fly"])


def test_samples_show_what_was_wrong(write: Write) -> None:
    model, data = built("both", write())
    kept: list[Sample] = []
    model.keep_samples = lambda stage, samples: kept.extend(samples)  # type: ignore[method-assign]
    with torch.no_grad():
        model.intent_classifier.project.bias[1] = 99  # all travel, and all words a city of their own
        model.slot_classifier.project.bias[1] = 99
    trained(model, data, steps=1, limit_train_batches=1, check_val_every_n_epoch=1)
    first = next(sample for sample in kept if sample.where.endswith(":1"))
    assert first.parts["intent"] == Text("music")
    assert first.parts["found intent"] == Marked((("travel", "sub"),))
    assert first.parts["reference"] == Marked((("play", ""), ("golden river", "song")))
    assert first.parts["hypothesis"] == Marked((("play", "!city"), ("golden", "!city"), ("river", "!city")))
    assert first.score == 2


def test_bfloat16_trains(write: Write) -> None:
    model, data = built("both", write())
    assert torch.isfinite(trained(model, data, 3, precision="bf16-mixed").callback_metrics["train_loss"])


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        pytest.param(["fly", " "], "text 2 is empty", id="empty"),
        pytest.param(["play " * 20], "text 1 is 22 tokens long; the encoder takes 12", id="long"),
    ],
)
def test_texts_that_cannot_be_read(texts: list[str], message: str, write: Write, pretrained: Path) -> None:
    model, _ = built("text", write(), pretrained)
    with pytest.raises(DataError, match=message):
        model.classify(texts)


def test_parts_that_do_not_fit_are_found_without_a_batch() -> None:
    tokenizer = SubwordTokenizer.train(TEXTS, vocab_size=60)
    encoder = TransformerEncoder(vocab_size=60, d_model=16, num_layers=1, num_heads=2)
    for classifier, message in (
        (SequenceClassifier(in_features=16, num_classes=3), "3 classes, but there are 2 labels"),
        (SequenceClassifier(in_features=8, num_classes=2), r"D:8.*D:16"),
    ):
        with pytest.raises(GraphError, match=message):
            TextClassificationModel(
                encoder=encoder, classifier=classifier, tokenizer=tokenizer, labels=Labels(["a", "b"])
            )


def test_data_that_a_model_does_not_learn_from_are_refused(write: Write) -> None:
    data = TextData(corpus=TextCorpus(train=write(), dev=write()), fields=FIELDS["both"], batch_size=3)
    tokenizer = SubwordTokenizer.train(TEXTS, vocab_size=60)
    with pytest.raises(ConfigError, match=r"TextClassificationModel, which does not take 'tags'"):
        build_model({**NODES["text"], "encoder": OWN}, tokenizer=tokenizer, **data.assets())
