"""Where a run runs: all that may differ between a laptop, a trial of a sweep and a worker of a cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning.fabric.plugins import CheckpointIO, ClusterEnvironment
from lightning.pytorch import Callback
from lightning.pytorch.strategies import Strategy


@dataclass(kw_only=True)
class Runtime:
    """Hands ``fit`` its place; ``None`` leaves a choice to the config."""

    run_dir: str | Path | None = None
    """The run's directory, or its address in a bucket, where somebody else has named it (a sweep names its trials')."""
    overrides: Sequence[str] = ()
    """The Hydra overrides that made the config: kept beside it in the run directory."""
    accelerator: str | None = None
    devices: int | str | None = None
    strategy: str | Strategy | None = None
    plugins: Sequence[CheckpointIO | ClusterEnvironment] = ()
    callbacks: Sequence[Callback] = field(default=())
    """What listens to the run besides the experiment manager: a report to the sweep, say."""
    go_on: bool = False
    """Go on from the newest checkpoint in the run's directory, if there is one, whatever the config says: workers that
    died are started again."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What is known of the place and goes into the run's provenance.json, such as Ray's nodes."""
    most_workers: int | None = None
    """How many workers there may be, if that varies."""
    accumulate: int = 1
    """Batches of each worker, times the config's ``accumulate_grad_batches``, in an optimizer step."""
    progress: bool = True
    """Show progress bars and the model's summary."""
