"""A tiny language of requests, as manifests, and a pretrained encoder that fits it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from rayconvai.tokenizers import SubwordTokenizer

ROWS: tuple[dict[str, Any], ...] = (
    {"tokens": ["play", "golden", "river"], "intent": "music", "slots": ["O", "B-song", "I-song"]},
    {"tokens": ["play", "winter", "now"], "intent": "music", "slots": ["O", "B-song", "O"]},
    {"tokens": ["fly", "to", "cape", "town"], "intent": "travel", "slots": ["O", "O", "B-city", "I-city"]},
    {"tokens": ["fly", "me", "to", "oslo"], "intent": "travel", "slots": ["O", "O", "O", "B-city"]},
    {"tokens": ["play", "oslo"], "intent": "music", "slots": ["O", "B-song"]},
    {"tokens": ["to", "lima", "now"], "intent": "travel", "slots": ["O", "B-city", "O"]},
)
TEXTS = tuple(" ".join(row["tokens"]) for row in ROWS)
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write rows as a manifest; a row can be changed by ``rows``, where None takes a key away."""

    def write_rows(
        name: str = "train", base: Sequence[dict[str, Any]] = ROWS, rows: dict[int, dict[str, Any]] | None = None
    ) -> Path:
        path = tmp_path / f"{name}.jsonl"
        with path.open("w", encoding="utf-8") as file:
            for index, row in enumerate(base):
                changed = {**row, **(rows or {}).get(index, {})}
                file.write(json.dumps({key: value for key, value in changed.items() if value is not None}) + "\n")
        return path

    return write_rows


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT with weights of its own, as the library saves one, and its word pieces with ``[CLS]`` and ``[SEP]``."""
    import transformers
    from tokenizers import processors

    directory = tmp_path_factory.mktemp("pretrained")
    base = SubwordTokenizer.train(TEXTS, vocab_size=60)._tokenizer
    base.add_special_tokens(["[CLS]", "[SEP]", "[PAD]"])
    ids = {name: base.token_to_id(name) for name in ("[CLS]", "[SEP]")}
    base.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    transformers.PreTrainedTokenizerFast(tokenizer_object=base).save_pretrained(directory)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=base.get_vocab_size(),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=12,
    )
    transformers.BertModel(config).save_pretrained(directory)
    return directory
