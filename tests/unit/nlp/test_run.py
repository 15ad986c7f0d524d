"""Recipes, through the doors that users take."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rayconvai.config.compose import Composer, compose
from rayconvai.core.model import Model
from rayconvai.data.requests import RequestCorpus, requests
from rayconvai.sweep.checker import PointChecker
from rayconvai.train.finish import finish
from rayconvai.train.fit import fit
from rayconvai.train.runtime import Runtime

from .conftest import ROWS, Write

DIGEST = "adf0dc3017af3fd1e722b01ea1dd18fab919470b1967e88b6a4de81ef650a6e7"
TINY = ("trainer=cpu", "model.encoder.d_model=16", "model.encoder.num_layers=1", "data.corpus.size=200")


def test_the_embedded_corpus_is_the_same_everywhere(tmp_path: Path) -> None:
    corpus = RequestCorpus(size=200, cache_dir=tmp_path)
    assert corpus.fingerprint()["sha256"] == DIGEST
    splits = corpus.prepare().named()
    assert [len(part) for part in splits.values()] == [160, 20, 20]
    train = requests("train", seed=1)
    texts = {next(train)["text"] for _ in range(2000)}
    held = requests("dev", seed=2)
    assert not texts & {next(held)["text"] for _ in range(200)}


@pytest.mark.parametrize(
    ("recipe", "metric"),
    [("nlp/text_classification", "accuracy"), ("nlp/token_classification", "f1"), ("nlp/intent_slot", "exact")],
)
def test_recipes_train_and_say_what_they_measured(
    recipe: str, metric: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYCONVAI_CACHE", str(tmp_path / "cache"))
    config = compose(recipe, [*TINY, "trainer.max_epochs=1"])
    result = fit(config, Runtime(run_dir=tmp_path / "run", progress=False))
    assert 0 <= result.metrics[f"val_{metric}"] <= 1
    assert result.best_checkpoint is not None
    measured = finish(config, result.run_dir, result.best_checkpoint, tmp_path / "artefact", Runtime(progress=False))
    assert f"test_{metric}" in measured
    card = json.loads((tmp_path / "artefact" / "card.json").read_text())
    assert card["data"]["train"]["texts"] == 160
    assert {"labels", "spans"} & set(card)
    assert type(Model.restore_from(tmp_path / "artefact")).__name__ == card["model"]


def test_a_dry_run_knows_what_a_pretrained_encoder_takes(pretrained: Path, write: Write) -> None:
    manifest = write(base=ROWS)
    overrides = [
        *("data=texts", f"data.corpus.train={manifest}", f"data.corpus.dev={manifest}"),
        *("model/encoder=pretrained", "tokenizer=pretrained", f"model.encoder.source={pretrained}"),
        *("optim=finetune", "trainer=cpu", "trainer.max_epochs=1"),
    ]
    checker = PointChecker(Composer("nlp/intent_slot", overrides), on_cpu=True)
    verdict = checker.check({"optim.lr": 1e-4})
    assert verdict.problem == ""
    step = checker.step(verdict)
    assert step is not None
    assert step.flops > 0
    assert "pooling must be one of mean, first" in checker.problem({"model.intent_classifier.pooling": "max"})
