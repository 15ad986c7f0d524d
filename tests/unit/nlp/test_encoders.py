"""Encoders of text: our own, and those of transformers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from rayconvai.core.build import build
from rayconvai.errors import ConfigError
from rayconvai.nlp.encoder import TextEncoder
from rayconvai.nlp.pretrained import PretrainedEncoder
from rayconvai.nlp.transformer import TransformerEncoder
from rayconvai.tokenizers import SubwordTokenizer

TINY = {"model_type": "distilbert", "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32, "vocab_size": 50}


def own(_: Path) -> TextEncoder:
    return TransformerEncoder(vocab_size=50, d_model=16, num_layers=2, num_heads=2)


def loaded(directory: Path) -> TextEncoder:
    return PretrainedEncoder(vocab_size=30, source=str(directory))


def drawn(_: Path) -> TextEncoder:
    return PretrainedEncoder(vocab_size=50, config=TINY)


@pytest.mark.parametrize("make", [own, loaded, drawn])
def test_a_text_is_encoded_alike_alone_and_in_a_batch(make: Callable[[Path], TextEncoder], pretrained: Path) -> None:
    encoder = make(pretrained).eval()
    tokens, lengths = torch.randint(1, 30, (3, 9)), torch.tensor([9, 4, 1])
    together = encoder(tokens=tokens, lengths=lengths)
    assert together.shape == (3, 9, encoder.out_features)
    for row, length in enumerate(lengths.tolist()):
        alone = encoder(tokens=tokens[row : row + 1, :length])
        torch.testing.assert_close(together[row, :length], alone[0], atol=1e-5, rtol=0)


def test_our_own_knows_order_and_drops_tokens_in_training() -> None:
    torch.manual_seed(0)
    encoder = TransformerEncoder(vocab_size=9, d_model=8, num_layers=1, num_heads=2, dropout=0, token_dropout=0.5)
    one, other = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[1, 2, 3, 4]])
    assert not torch.equal(encoder(tokens=one), encoder(tokens=other))
    encoder.eval()
    assert torch.equal(encoder(tokens=one), encoder(tokens=other))
    assert not torch.allclose(encoder(tokens=one)[0, 0], encoder(tokens=one.flip(1))[0, 3], atol=1e-3)


def test_weights_are_those_of_the_library_and_train(pretrained: Path) -> None:
    encoder = PretrainedEncoder(vocab_size=30, source=str(pretrained))
    assert all(module.training for module in encoder.modules())
    assert (encoder.max_tokens, encoder.out_features) == (12, 16)
    reference = transformers.BertModel.from_pretrained(pretrained)
    tokens = torch.randint(1, 30, (2, 7))
    mask = torch.tensor([[1] * 7, [1] * 3 + [0] * 4])
    expected = reference(input_ids=tokens, attention_mask=mask).last_hidden_state
    found = encoder.eval()(tokens=tokens, lengths=torch.tensor([7, 3]))
    torch.testing.assert_close(found[0], expected[0])
    torch.testing.assert_close(found[1, :3], expected[1, :3])
    found.sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters()), "ranks would wait for it"


def test_on_the_meta_device_no_weights_are_read(pretrained: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(pretrained, tmp_path / "copy")
    (copy / "model.safetensors").write_bytes(b"not weights")
    with torch.device("meta"):
        encoder = PretrainedEncoder(vocab_size=30, source=str(copy))
    assert {parameter.device.type for parameter in encoder.parameters()} == {"meta"}


def test_an_artefacts_architecture_needs_no_directory(pretrained: Path) -> None:
    encoder = loaded(pretrained)
    architecture = json.loads(json.dumps(encoder.architecture))
    assert str(pretrained) not in json.dumps(architecture)
    again = PretrainedEncoder(vocab_size=30, source="/gone", architecture=architecture)
    again.load_state_dict(encoder.state_dict())


def _without(name: str) -> Callable[[Path], None]:
    return lambda directory: (directory / name).unlink()


def _config(**changes: Any) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        path = directory / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def _damaged(directory: Path) -> None:
    (directory / "model.safetensors").write_bytes(b"not weights")


def _pickled(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(_without("config.json"), "copy: no config.json", id="no_config"),
        pytest.param(_without("model.safetensors"), "copy: no weights: model.safetensors is missing$", id="no_weights"),
        pytest.param(_damaged, "its weights cannot be read", id="damaged"),
        pytest.param(_pickled, "it has pytorch_model.bin, which is a pickle", id="pickle"),
        pytest.param(_config(model_type="gpt2"), r"config.json: model_type gpt2 is not an encoder", id="decoder"),
        pytest.param(_config(model_type="bertt"), r"config.json: not a model that transformers knows", id="unknown"),
        pytest.param(_config(num_hidden_layers=2), "its weights are those of another model", id="other_model"),
        pytest.param(
            _config(num_hidden_layers=0), "are of a deeper model .* encoder.layer.0.* has no place", id="deeper"
        ),
        pytest.param(_config(hidden_size=32), r"bias is \(16,\), but config.json asks for \(32,\)", id="other_size"),
        pytest.param(_config(vocab_size=9), r"knows 9 tokens, but the tokenizer has 30", id="vocabulary"),
    ],
)
def test_directories_that_cannot_be_used(
    spoil: Callable[[Path], None], message: str, pretrained: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(pretrained, tmp_path / "copy")
    spoil(copy)
    with pytest.raises(ConfigError, match=message) as caught:
        PretrainedEncoder(vocab_size=30, source=str(copy))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        pytest.param({}, "source and config exclude each other", id="neither"),
        pytest.param({"config": {"hidden_size": 8}}, "config has no model_type", id="no_type"),
        pytest.param({"config": {"model_type": "t5"}}, "t5 is not an encoder of text", id="encoder_decoder"),
        pytest.param({"source": "package:nowhere/x"}, "package 'nowhere' is not installed", id="package"),
        pytest.param({"source": "package:rayconvai/x"}, "has no directory 'x'", id="inside"),
    ],
)
def test_nodes_that_cannot_be_built(node: dict[str, Any], message: str) -> None:
    target = {"_target_": "rayconvai.nlp.pretrained.PretrainedEncoder"}
    with pytest.raises(ConfigError, match=message):
        build({**target, **node}, vocab_size=30)


def test_the_tokenizer_of_an_encoder_comes_with_it(pretrained: Path, tmp_path: Path) -> None:
    tokenizer = SubwordTokenizer.pretrained(source=str(pretrained))
    theirs = transformers.AutoTokenizer.from_pretrained(pretrained)
    before, behind = tokenizer.frame
    assert [*before, *tokenizer.encode("fly to oslo"), *behind] == theirs("fly to oslo")["input_ids"]
    assert [len(before), len(behind)] == [1, 1]
    with pytest.raises(ConfigError, match=r"tokenizer.source: .* holds no tokenizer"):
        SubwordTokenizer.pretrained(source=str(tmp_path))
