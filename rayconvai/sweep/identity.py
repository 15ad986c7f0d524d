"""What makes two sweeps the same: a sweep is taken up again under its name, another one is not."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rayconvai.errors import SweepError
from rayconvai.sweep.journal import read_journal
from rayconvai.sweep.spec import SweepFile, SweepSpec
from rayconvai.sweep.state import SweepState

_KEYS = (
    "recipe", "overrides", "config_dirs", "space", "constraints", "points", "metric", "more_metrics", "search",
    "scheduler", "repeats",
)  # fmt: skip
_MAY_CHANGE = ("trainer.max_epochs", "resources.", "samples")


def identity(spec: SweepSpec, config: DictConfig | None = None, epochs: int | None = None) -> dict[str, Any]:
    """Return what makes a sweep this one; budget, resources, storage and prices may change.

    Args:
        spec: the sweep file.
        config: what the recipe composes to.
        epochs: of a trial at most.
    """
    whole = dataclasses.asdict(spec)
    known: dict[str, Any] = {key: whole[key] for key in _KEYS}
    if config is not None:
        flat = {key: value for key, value in _flat("", config) if not key.startswith(_MAY_CHANGE)}
        known |= {"config": flat, "epochs": epochs}
    # JSON, as the journal will give it back.
    found: dict[str, Any] = json.loads(json.dumps(known, default=str))
    return found


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return what differs between two identities, a phrase each."""
    found = []
    for key in (key for key in _KEYS if key in before and before[key] != now[key]):
        old, new = before[key], now[key]
        parts = [part for part in {**old, **new} if old.get(part) != new.get(part)] if key == "space" else []
        found += [f"space.{part} was {_said(old, part)}, is {_said(new, part)}" for part in parts]
        if not parts:  # of a space, the order alone
            found.append(f"{key} was {json.dumps(old)}, is {json.dumps(new)}")
    if found or "config" not in before or "config" not in now:
        return found
    old, new = before["config"], now["config"]
    return [
        f"{key} of the recipe was {_said(old, key)}, is {_said(new, key)}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key, _ABSENT) != new.get(key, _ABSENT)
    ]


def check_identity(state: SweepState, spec: SweepSpec, now: Mapping[str, Any]) -> None:
    """Check that a sweep's directory holds this sweep, or nothing.

    Raises:
        SweepError: it holds another one, with the differences and the ways out.
    """
    changed = differences(state.identity, now) if state.identity else []
    if changed:
        more = f" (and {len(changed) - _SHOWN} more)" if len(changed) > _SHOWN else ""
        raise SweepError(
            f"{spec.place} holds another sweep of this name: {'; '.join(changed[:_SHOWN])}{more}; give this one a "
            "new name (name=...), or --fork, which does so and tells its search the old one's results"
        )
    before, epochs = state.identity.get("epochs"), now.get("epochs")
    if before and epochs and epochs < before:
        raise SweepError(
            f"{spec.place}: its trials had {before} epochs, now {epochs}; a sweep can be extended, not shortened"
        )
    if before and epochs and epochs > before and spec.scheduler.name == "hyperband":
        raise SweepError(
            f"{spec.place}: its hyperband brackets were made for {before} epochs, not {epochs}; give the longer "
            "sweep a new name (name=...), or --fork"
        )


def fork(file: SweepFile) -> SweepFile:
    """Return the sweep under the next free name, warm-started from the one that has its name now.

    The same command again finds the fork that it made. Results that were for other metrics are not told.

    Raises:
        SweepError: there is nothing to fork from.
        ConfigError: the recipe cannot be composed.
    """
    from rayconvai.config.compose import compose  # these bring torch, which takes seconds
    from rayconvai.sweep.plan import trial_overrides

    spec = file.spec
    before = read_journal(spec.place)
    if not before.identity:
        raise SweepError(f"{spec.place} holds no sweep to fork from; leave --fork out")
    comparable = before.trials and all(metric in before.metrics for metric in spec.metrics)
    warm = [*spec.warm_start, spec.place] if comparable else spec.warm_start
    base = compose(spec.recipe, trial_overrides(file), [Path(path) for path in spec.config_dirs])
    now = identity(spec, base, spec.budget.epochs)
    for number in itertools.count(2):
        forked = dataclasses.replace(spec, name=f"{spec.name}-{number}", warm_start=warm)
        there = read_journal(forked.place)
        with suppress(SweepError):  # that one is another sweep too
            check_identity(there, forked, now)
            return dataclasses.replace(file, spec=forked)
    raise AssertionError


_SHOWN = 5
_ABSENT = object()


def _said(config: Mapping[str, Any], key: str) -> str:
    return json.dumps(config[key]) if key in config else "absent"


def _flat(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, DictConfig) and value:
        for name in value:
            yield from _flat(f"{key}.{name!s}" if key else str(name), value[name])
    else:
        yield key, OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
