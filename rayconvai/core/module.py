"""Modules: network parts, losses and datasets, each with its ports."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import nn
from torch.utils import data
from typing_extensions import Self

from rayconvai.core.serialization import FileIO, Serialization
from rayconvai.core.typecheck import Typing, typecheck
from rayconvai.errors import NeuralTypeError


class NeuralModule(nn.Module, Typing, Serialization, FileIO):
    """Base of all network parts."""

    __jit_unused_properties__: ClassVar[list[str]] = ["num_weights"]

    @property
    def num_weights(self) -> int:
        """How many weights train."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)

    def freeze(self) -> Self:
        """Stop training: no parameter takes gradients, and the module is in evaluation mode."""
        # Whether each parameter took gradients before; the attribute is there only while frozen.
        before = {name: parameter.requires_grad for name, parameter in self.named_parameters()}
        # Frozen twice, it still remembers what was before the first time.
        self._frozen_grad_map = {**before, **self.__dict__.get("_frozen_grad_map", {})}
        self.requires_grad_(False)
        return self.eval()

    def unfreeze(self, partial: bool = False) -> Self:
        """Train again, in training mode.

        Args:
            partial: give each parameter what it had before ``freeze``, so that one frozen earlier stays so; else all
                parameters take gradients.

        Raises:
            ValueError: partial, and the module is not frozen.
        """
        before = self.__dict__.pop("_frozen_grad_map", None)
        if partial and before is None:
            raise ValueError("unfreeze(partial=True) needs a freeze() before it, to know what to go back to")
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(before.get(name, True) if partial and before is not None else True)
        return self.train()

    @contextmanager
    def as_frozen(self) -> Iterator[None]:
        """Freeze the module for a while; then everything, each submodule's mode too, is as it was."""
        gradients = [(parameter, parameter.requires_grad) for parameter in self.parameters()]
        self.requires_grad_(False)
        try:
            with self._evaluating():
                yield
        finally:
            for parameter, required in gradients:
                parameter.requires_grad_(required)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Compute without dropout and gradients for a while; then each submodule's mode is as it was."""
        with self._evaluating(), torch.inference_mode():
            yield

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training


class Loss(NeuralModule):
    """Base of losses: modules whose output is what training makes smaller."""


class _Collation(Typing, Serialization):
    """How a dataset makes a batch: its output ports say what is in one. Datasets have no input ports."""

    def _collate_fn(self, batch: Sequence[Any]) -> Any:
        """Make a batch of examples; override this."""
        return data.default_collate(list(batch))

    @typecheck(input_types=None)
    def collate_fn(self, batch: Sequence[Any]) -> Any:
        """Make a batch of examples, checked against the output ports; for a ``DataLoader``.

        Raises:
            NeuralTypeError: the batch does not fit the ports, or the dataset has input ports.
        """
        if self.input_types is not None:
            raise NeuralTypeError(f"{type(self).__name__} has input_types; a dataset is fed by nothing, remove them")
        return self._collate_fn(batch)


class Dataset(data.Dataset[Any], _Collation):
    """Base of datasets whose examples have a number."""


class IterableDataset(data.IterableDataset[Any], _Collation):
    """Base of datasets whose examples come one after another."""
