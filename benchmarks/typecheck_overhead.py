"""Microseconds that a typed call costs over a bare one, and over none under torch.compile.

    python benchmarks/typecheck_overhead.py

A module with two inputs and two outputs and an empty body, so that what is timed is the call alone. The fastest of
several rounds counts, in CPU time, the variants taking turns in each.
"""

from __future__ import annotations

import argparse
import functools
import time
import timeit
from collections.abc import Callable

import torch
from torch import Tensor

from rayconvai.core import LengthsType, MelSpectrogramType, NeuralModule, NeuralType
from rayconvai.core import typecheck as check

INPUTS = {
    "features": NeuralType(("B", "T", "D:80"), MelSpectrogramType()),
    "lengths": NeuralType(("B",), LengthsType()),
}
OUTPUTS = {
    "encoded": NeuralType(("B", "T", "D:80"), MelSpectrogramType()),
    "encoded_lengths": NeuralType(("B",), LengthsType()),
}


class Bare(NeuralModule):
    """No decorator."""

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inputs."""
        return features, lengths


class ByAttribute(Bare):
    """Ports as class attributes."""

    input_types = INPUTS
    output_types = OUTPUTS

    @check()
    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inputs."""
        return features, lengths


class ByProperty(ByAttribute):
    """Ports as properties that make their types anew for each call."""

    @property
    def input_types(self) -> dict[str, NeuralType]:  # type: ignore[override]
        """Make the input ports."""
        return {
            "features": NeuralType(("B", "T", "D:80"), MelSpectrogramType()),
            "lengths": NeuralType(("B",), LengthsType()),
        }

    @property
    def output_types(self) -> dict[str, NeuralType]:  # type: ignore[override]
        """Make the output ports."""
        return {
            "encoded": NeuralType(("B", "T", "D:80"), MelSpectrogramType()),
            "encoded_lengths": NeuralType(("B",), LengthsType()),
        }


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()

    def call(module: NeuralModule) -> Callable[[], object]:
        return functools.partial(module, features=torch.zeros(8, 100, 80), lengths=torch.zeros(8))

    def unchecked(run: Callable[[], object]) -> Callable[[], object]:
        def without() -> object:
            check.set_typecheck_enabled(False)
            try:
                return run()
            finally:
                check.set_typecheck_enabled(True)

        return without

    def compiled(module: NeuralModule) -> Callable[[], object]:
        return call(torch.compile(module, backend="eager", fullgraph=True))  # type: ignore[arg-type]

    variants = {
        "bare": call(Bare()),
        "bare, switching checks off and on": unchecked(call(Bare())),
        "typed, checks off (with that switching)": unchecked(call(ByAttribute())),
        "typed, ports as attributes": call(ByAttribute()),
        "typed, ports as properties": call(ByProperty()),
        "compiled, bare": compiled(Bare()),
        "compiled, typed": compiled(ByAttribute()),
    }
    best = dict.fromkeys(variants, float("inf"))
    for _ in range(options.rounds):
        for name, run in variants.items():
            best[name] = min(
                best[name], timeit.timeit(run, timer=time.process_time, number=options.calls) / options.calls * 1e6
            )
    for name, microseconds in best.items():
        print(f"{name:42s} {microseconds:7.2f} us")


if __name__ == "__main__":
    main()
