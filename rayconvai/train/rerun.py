"""``python -m rayconvai.train --rerun RUN_DIR``: a recorded run once more, in a directory of its own."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from omegaconf import DictConfig
from typing_extensions import override

from rayconvai.config.compose import compose
from rayconvai.errors import ConfigError
from rayconvai.experiment.comparison import compare_numbers, differences
from rayconvai.experiment.layout import RunLayout
from rayconvai.experiment.record import MetricsRecord
from rayconvai.experiment.takeover import TAKEN
from rayconvai.train.runtime import Runtime

log = logging.getLogger(__name__)

_OWN = ("id", "name", "group", "resume")
"""What ties a W&B run to the recorded one."""


@dataclass(frozen=True)
class RecordedRun:
    """A run's directory, read to have the same run once more."""

    layout: RunLayout
    config: DictConfig
    provenance: dict[str, Any]
    """Empty where there is none that can be read."""

    def overrides(self) -> list[str]:
        """Return what makes the recorded config that of a new run: its place, and what resolving it took away."""
        lines = [f"{key}={value}" for key, value in self.provenance.get("interpolations", {}).items()]
        section = self.config.exp_manager
        lines += [f"exp_manager.{key}=null" for key in ("explicit_log_dir", "version")]
        lines += ["exp_manager.resume_if_exists=false"]
        lines += [
            f"~exp_manager.wandb_logger_kwargs.{key}" for key in _OWN if key in (section.wandb_logger_kwargs or ())
        ]
        if self.config.trainer.accelerator == "auto" and self._training("accelerator") == "cpu":
            lines += ["trainer.accelerator=cpu"]
        return lines

    def take_threads(self) -> None:
        """Compute with as many threads as the run did: on CPUs, sums depend on it."""
        threads = self.provenance.get("numerics", {}).get("threads")
        if threads and threads != torch.get_num_threads():
            log.warning("threads: %d, as the run had, not %d", threads, torch.get_num_threads())
            torch.set_num_threads(threads)

    def runtime(self, runtime: Runtime, config: DictConfig) -> Runtime:
        """Return the place of the same run once more: one that tells what differs.

        Raises:
            ConfigError: the config leads into the recorded run's directory.
        """
        section = config.exp_manager
        version = [] if section.version is None else [str(section.version)]
        named = Path(section.exp_dir or "runs", section.name or "default", *version)
        if Path(section.explicit_log_dir or named).resolve() == self.layout.root.resolve():
            raise ConfigError(f"a rerun does not go into the directory of its run, {self.layout.root}; name another")
        callbacks = [*runtime.callbacks, WarnOfDifferences(self.provenance)]
        return replace(
            runtime, callbacks=callbacks, facts={**runtime.facts, "rerun_of": str(self.layout.root.resolve())}
        )

    def compare(self, again: Path) -> str:
        """Say whether a run has the recorded numbers."""
        return compare_numbers(self.layout.metrics, RunLayout(again).metrics)

    def _training(self, key: str) -> Any:
        return self.provenance.get("training", {}).get(key)


class WarnOfDifferences(Callback):
    """Says before the first step what may change the numbers, in a line each."""

    def __init__(self, provenance: Mapping[str, Any]) -> None:
        self.provenance = provenance

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.provenance or not trainer.is_global_zero:
            return
        for layout in [logger.layout for logger in trainer.loggers if isinstance(logger, MetricsRecord)]:
            for line in differences(self.provenance, _read_provenance(layout)):
                log.warning("%s", line)


def read_run(directory: Path) -> RecordedRun:
    """Read a run's directory.

    Raises:
        ConfigError: it is none, its config cannot be composed, or no one config made its weights.
    """
    layout = RunLayout(directory)
    if directory == Path():
        raise ConfigError("--rerun: name a run's directory, such as runs/digits/2026-01-31_12-00-00")
    if not directory.is_dir():
        raise ConfigError(f"--rerun: there is no directory {directory}")
    if not layout.config.is_file() or (directory / "card.json").is_file():
        found = [path.parent for depth in ("*", "*/*") for path in directory.glob(f"{depth}/provenance.json")]
        runs = sorted(run for run in found if (run / "config.yaml").is_file())
        hint = f"; runs in it: {', '.join(str(path) for path in runs[-3:])}" if runs else ""
        raise ConfigError(f"--rerun: {directory} is no run's directory, which has a config.yaml and a log.txt{hint}")
    _refuse_taken_over(directory)
    provenance: dict[str, Any] = {}
    try:
        provenance = _read_provenance(layout)
    except (OSError, ValueError):
        log.warning("%s cannot be read: code, packages, machine and data are not compared", layout.provenance)
    return RecordedRun(layout, compose("config", (), [directory]), provenance)


def _refuse_taken_over(directory: Path) -> None:
    sources = [path.name for path in directory.glob(f"checkpoints/{TAKEN}*")]
    for file in [directory / "provenance.json", *directory.glob("run_*/provenance.json")]:
        try:
            sources.append(Path(json.loads(file.read_text(encoding="utf-8")).get("resumed_from") or "").name)
        except (OSError, ValueError):
            continue
    if any(source.startswith(TAKEN) for source in sources):
        sweep, trial = directory.absolute().parents[1], directory.name
        raise ConfigError(
            f"--rerun: {directory} took over another trial's weights, so that no one config made its own; train its "
            f"history anew: python -m rayconvai replay {sweep} {trial}"
        )


def _read_provenance(layout: RunLayout) -> dict[str, Any]:
    provenance: dict[str, Any] = json.loads(layout.provenance.read_text(encoding="utf-8"))
    return provenance
