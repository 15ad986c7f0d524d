"""Which parameters of a network are what: matrices between hidden states, norms and biases, the output head."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from rayconvai.core.elements import LogitsType, LogprobsType, ProbsType

_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
_SCORES = (LogitsType, LogprobsType, ProbsType)
_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def hidden_matrices(module: nn.Module) -> set[str]:
    """Return the names of the parameters that Muon should train.

    These are the two-dimensional weights of the network except for embeddings, norms and the output head. The head is
    the last layer with a weight of each innermost module whose ports give logits or probabilities, or of the whole
    network where no module has such ports. A network of a single matrix has no head.
    """
    kept_out = {id(weight) for weight in _parameters_of(module, (*_EMBEDDINGS, *_NORMS))}
    heads = {id(weight) for head in _heads(module) for weight in head.parameters(recurse=False)}
    matrices = {
        name: weight
        for name, weight in module.named_parameters()
        if weight.ndim == 2 and "weight" in name.rpartition(".")[2] and id(weight) not in kept_out
    }
    hidden = {name for name, weight in matrices.items() if id(weight) not in heads}
    return hidden or set(matrices)


def norms_and_biases(module: nn.Module) -> set[str]:
    """Return the names of the parameters of norms, of biases, and of other vectors."""
    of_norms = {id(weight) for weight in _parameters_of(module, _NORMS)}
    return {
        name
        for name, parameter in module.named_parameters()
        if parameter.ndim < 2 or id(parameter) in of_norms or "bias" in name.rpartition(".")[2]
    }


def _heads(module: nn.Module) -> list[nn.Module]:
    scoring = [part for part in module.modules() if _gives_scores(part)]
    innermost = [
        part for part in scoring if not any(_gives_scores(child) for child in part.modules() if child is not part)
    ]
    heads = [layers[-1] for part in innermost if (layers := list(_weighted(part)))]
    return heads or list(_weighted(module))[-1:]


def _weighted(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the layers with a weight of two dimensions or more, in the order of their registration."""
    for layer in module.modules():
        if any(weight.ndim >= 2 for weight in layer.parameters(recurse=False)):
            yield layer


def _gives_scores(module: nn.Module) -> bool:
    ports = getattr(module, "output_types", None)
    return isinstance(ports, dict) and any(
        isinstance(getattr(port, "elements_type", None), _SCORES) for port in ports.values()
    )


def _parameters_of(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> Iterator[nn.Parameter]:
    for part in module.modules():
        if isinstance(part, kinds):
            yield from part.parameters(recurse=False)
