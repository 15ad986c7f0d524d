"""Encoders of Hugging Face's ``transformers``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rayconvai._optional import require
from rayconvai.core import typecheck
from rayconvai.core.attention import length_mask
from rayconvai.errors import ConfigError, nearest
from rayconvai.nlp.encoder import TextEncoder
from rayconvai.places import pretrained, words

_OF_A_PLACE = ("_name_or_path", "auto_map", "architectures", "transformers_version")
"""Keys of a library's config that say where it comes from, not what is built."""


# B batch, T tokens, D channels
class PretrainedEncoder(TextEncoder):
    """An encoder of text that the library ``transformers`` knows, with the weights it was trained with or new ones.

    Weights are read from safetensors alone; no code that comes with a model is run. Built on the meta device it has
    no weights, and reads none.

    Args:
        vocab_size: of the tokenizer; the encoder may have room for more.
        source: a directory with ``config.json`` and ``model.safetensors``, ``package:NAME/DIRECTORY`` inside an
            installed Python package, or a name on the hub.
        config: instead, the library's config (``model_type`` and sizes): weights are drawn.
        architecture: instead of both, what an artefact holds: weights are loaded later.

    Raises:
        ConfigError: no such model, no weights, weights of another model, no encoder of text, or a vocabulary that is
            too small for the tokenizer.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        source: str | None = None,
        config: Mapping[str, Any] | None = None,
        architecture: Mapping[str, Any] | None = None,
    ) -> None:
        library: Any = require("transformers", extra="nlp")
        if architecture is None and (source is None) == (config is None):
            raise ConfigError("source and config exclude each other; give one and set the other to null")
        directory = pretrained(source) if source is not None and architecture is None else None
        found = _read_config(library, directory) if directory else _make_config(library, architecture or config or {})
        where = f"model.encoder ({directory or found.model_type})"
        if found.vocab_size < vocab_size:
            raise ConfigError(
                f"{where} knows {found.vocab_size} tokens, but the tokenizer has {vocab_size}; "
                "take the encoder's own: tokenizer=pretrained"
            )
        if directory is None or torch.get_default_device().type == "meta":
            model = library.AutoModel.from_config(found)
        else:
            model = _load(library, directory, found)
        super().__init__(vocab_size, found.hidden_size, _longest(model, found))
        model.pooler = None  # nothing learns through it, and ranks would wait for its gradients
        self.model = model.train()  # loaded ones come without dropout
        self.architecture = {key: value for key, value in found.to_dict().items() if key not in _OF_A_PLACE}

    @typecheck()
    def forward(self, *, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return the encoded tokens (B, T, D); padded ones hold anything finite."""
        mask = None if lengths is None else length_mask(lengths, tokens.shape[1]).long()
        return torch.as_tensor(self.model(input_ids=tokens, attention_mask=mask).last_hidden_state)


def _read_config(library: Any, directory: Path) -> Any:
    if not (directory / "config.json").is_file():
        raise ConfigError(f"{directory}: no config.json; give the directory of a pretrained encoder")
    where = str(directory / "config.json")
    try:
        config = library.AutoConfig.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # whatever the library raises
        raise ConfigError(f"{where}: not a model that transformers knows: {_short(error)}") from error
    _check_encoder(library, config, where)
    return config


def _make_config(library: Any, given: Mapping[str, Any]) -> Any:
    if "model_type" not in given:
        raise ConfigError("config has no model_type; say what to build: bert, distilbert, modernbert ...")
    try:
        config = library.AutoConfig.for_model(**given)
    except Exception as error:
        raise ConfigError(f"config is refused by transformers: {_short(error)}") from error
    _check_encoder(library, config, "config")
    return config


def _check_encoder(library: Any, config: Any, where: str) -> None:
    auto = library.models.auto.modeling_auto
    encoders = set(auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES)
    kind = config.model_type
    if kind not in encoders or config.is_encoder_decoder or not hasattr(config, "hidden_size"):
        hint = nearest(kind, encoders) or "; such are bert, roberta, distilbert, electra, modernbert"
        raise ConfigError(f"{where}: model_type {kind} is not an encoder of text{hint}")


def _load(library: Any, directory: Path, config: Any) -> nn.Module:
    if not list(directory.glob("*.safetensors")):
        others = [path.name for path in (*directory.glob("*.bin"), *directory.glob("*.pt"))]
        fix = f"; it has {others[0]}, which is a pickle: save it as safetensors" if others else ""
        raise ConfigError(f"{directory}: no weights: model.safetensors is missing{fix}")
    try:
        with _quiet(library):
            model, said = library.AutoModel.from_pretrained(
                directory,
                config=config,
                use_safetensors=True,
                local_files_only=True,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except Exception as error:
        raise ConfigError(f"{directory}: its weights cannot be read: {_short(error)}") from error
    for name, found, asked in sorted(said["mismatched_keys"]):
        raise ConfigError(f"{directory}: {name} is {tuple(found)}, but config.json asks for {tuple(asked)}")
    missing = sorted(name for name in said["missing_keys"] if not name.startswith("pooler."))
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ConfigError(
            f"{directory}: its weights are those of another model than config.json's {config.model_type}: "
            f"{missing[0]}{more} not among them"
        )
    for name in sorted(said["unexpected_keys"]):
        if _is_of_a_layer_more(model, name.removeprefix(f"{model.base_model_prefix}.")):
            raise ConfigError(f"{directory}: its weights are of a deeper model than config.json's: {name} has no place")
    loaded: nn.Module = model
    return loaded


def _is_of_a_layer_more(model: nn.Module, name: str) -> bool:
    for list_name, layers in model.named_modules():
        if isinstance(layers, nn.ModuleList) and name.startswith(f"{list_name}."):
            number = name.removeprefix(f"{list_name}.").partition(".")[0]
            if number.isdecimal() and int(number) >= len(layers):
                return True
    return False


def _longest(model: nn.Module, config: Any) -> int | None:
    """Return how many tokens a text may have; None: no limit is known."""
    for name, part in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(part, nn.Embedding):
            # RoBERTa and its like count positions from behind their padding token.
            return part.num_embeddings - (0 if part.padding_idx is None else part.padding_idx + 1)
    limit: int | None = getattr(config, "max_position_embeddings", None)
    return limit


@contextmanager
def _quiet(library: Any) -> Iterator[None]:
    """Keep the library's bars and reports off the terminal: what matters of them becomes an error."""
    logs = library.utils.logging
    level = logs.get_verbosity()
    logs.set_verbosity_error()
    logs.disable_progress_bar()
    try:
        yield
    finally:
        logs.set_verbosity(level)
        logs.enable_progress_bar()


def _short(error: Exception) -> str:
    return words(error)[:200]
