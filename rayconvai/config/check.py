"""The schema of a run: which keys there are, and whether a config keeps to them."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from rayconvai.config.run import ResourcesConfig, RunConfig
from rayconvai.core.build import TARGET, allow, check_node, full_key, parameters
from rayconvai.core.coerce import coerce, nearest_key, type_hints
from rayconvai.core.optim import check_optim
from rayconvai.core.schedules import check_schedule
from rayconvai.errors import ConfigError, nearest

_SEEDS = 2**32
_OTHER_KEY = re.compile(r"\$\{[\w.]+\}")
_NODES = ("model", "tokenizer", "data")
_OWNED = {
    "logger": "the experiment manager makes loggers; see exp_manager.create_tensorboard_logger",
    "enable_checkpointing": "the experiment manager keeps checkpoints; see exp_manager.create_checkpoint_callback",
    "callbacks": "pass callbacks to fit in its Runtime",
    "plugins": "pass plugins to fit in its Runtime",
    "enable_progress_bar": "pass progress to fit in its Runtime",
    "enable_model_summary": "pass progress to fit in its Runtime",
    "use_distributed_sampler": "the data's own samplers split over ranks",
    "default_root_dir": "the experiment manager names the directory; see exp_manager.exp_dir",
}


def run_defaults() -> dict[str, Any]:
    """Return every key of a run with its default, as plain containers."""
    return dataclasses.asdict(RunConfig())


def from_dataclass(run: RunConfig) -> DictConfig:
    """Return the config of a run that was described in Python, checked.

    Raises:
        ConfigError: a key or value that cannot be.
    """
    config = complete(OmegaConf.create(dataclasses.asdict(run), flags={"allow_objects": True}))
    check(config)
    return config


def complete(config: DictConfig) -> DictConfig:
    """Return a copy with every key of a run: those that ``config`` leaves out have their defaults.

    Types that came from dataclasses in Hydra's ConfigStore are dropped: ``check`` knows them better.
    """
    given = OmegaConf.create(OmegaConf.to_container(config, resolve=False), flags={"allow_objects": True})
    completed = OmegaConf.merge(OmegaConf.create(run_defaults()), given)
    assert isinstance(completed, DictConfig)
    return completed


def check(config: DictConfig) -> None:
    """Check every key and value of a run's config, without building anything.

    Raises:
        ConfigError: the first thing wrong: its full key, and the nearest right name.
    """
    names = [field.name for field in dataclasses.fields(RunConfig)]
    for name in map(str, config):
        if name not in names:
            hint = nearest(name, names) or nearest_full_key(name, config)
            raise ConfigError(f"{name} is not a key of a run{hint}")
    plain = _resolved(config)
    _check_run(config)
    for name in names:
        if name in plain and name not in (*_NODES, "augment", "optim", "schedule"):
            _check_section(plain[name], name)
    _check_workers(config)
    allow(*(config.packages if "packages" in config else ()))
    for name in _NODES:
        _check_required_node(config, name)
    if "augment" in config:
        _check_augment(config)
        _check_augment_is_read(plain)
    _check_optimization(config)


def known_keys(config: DictConfig) -> set[str]:
    """Return the full keys that overrides of this config may set: those it has, and all parameters of its nodes."""
    written = {*_keys_of(config, ""), *_keys_of(OmegaConf.create(run_defaults()), "")}
    keys = set(written)
    for key in written:
        section = _value(config, key)
        if isinstance(section, DictConfig) and TARGET in section:
            with contextlib.suppress(ConfigError):  # a wrong target is reported where the node is checked
                keys.update(f"{key}.{parameter}" for parameter in parameters(section[TARGET]))
    return {key for key in keys if not key.endswith(TARGET)}


def interpolations(config: DictConfig) -> dict[str, str]:
    """Return the keys that are another key's by interpolation, ``{"data.augment": "${augment.waveform}"}``: what a
    resolved config no longer shows."""
    found = {}
    for key in _keys_of(config, ""):
        parent, _, name = key.rpartition(".")
        node: Any = _value(config, parent)._get_node(name) if parent else config._get_node(name)
        if node is not None and node._is_interpolation() and _OTHER_KEY.fullmatch(str(node._value())):
            found[key] = str(node._value())
    return found


def nearest_full_key(key: str, config: DictConfig, but: Sequence[str] = ()) -> str:
    """Return ``"; nearest: x"``: the known key most like ``key``, or one that ends in it (max_epochs)."""
    keys = sorted(known for known in known_keys(config) if not f"{known}.".startswith(f"{key}.") and known not in but)
    parent, dot, last = key.rpartition(".")
    siblings = [known.rpartition(".")[2] for known in keys if known.rpartition(".")[0] == parent]
    if dot and (hint := nearest(last, siblings)):
        return hint.replace(": ", f": {parent}.", 1)
    same_end = [known for known in keys if known.rpartition(".")[2] == last]
    return nearest(key, same_end) or (f"; nearest: {same_end[0]}" if same_end else nearest(key, keys))


def _check_run(config: DictConfig) -> None:
    if "seed" in config and isinstance(config.seed, int) and not 0 <= config.seed < _SEEDS:
        raise ConfigError(f"seed must be from 0 to {_SEEDS - 1}, not {config.seed}")
    name = str(config.name) if "name" in config else "run"
    if not name.strip() or {"..", "/"} & set(Path(name).parts):
        raise ConfigError(f"name must be the name of a directory in exp_manager.exp_dir, not {name!r}")


def _check_section(plain: Any, name: str) -> None:
    hints = type_hints(RunConfig)
    if name == "trainer" and isinstance(plain, dict):
        for key in plain:
            if key in _OWNED:
                raise ConfigError(f"trainer.{key} is not set here: {_OWNED[key]}")
    if dataclasses.is_dataclass(hints[name]) and not isinstance(plain, dict):
        raise ConfigError(f"{name} must be a section, not {plain!r}; its keys are those of {hints[name].__name__}")
    coerce(plain, hints[name], name)
    if name == "trainer":
        for key, parameter in parameters("lightning.pytorch.Trainer").items():
            if key in plain:
                coerce(plain[key], parameter.type, f"trainer.{key}")


def resources(config: DictConfig) -> ResourcesConfig:
    """Return what a run takes.

    Raises:
        ConfigError: a key or value of ``resources`` that cannot be.
    """
    plain: Any = OmegaConf.to_container(config.resources, resolve=True) if "resources" in config else {}
    found: ResourcesConfig = coerce(plain, ResourcesConfig, "resources")
    return found


def _check_workers(config: DictConfig) -> None:
    """What ``trainer`` may not say where ``resources`` says how many workers there are, and what each has."""
    taken = resources(config)
    if not taken.has_workers or "trainer" not in config:
        return
    trainer, workers = config.trainer, f"resources.workers={taken.workers}"
    for key, allowed in {"devices": ("auto", 1, "1", -1), "num_nodes": (1,)}.items():
        if key in trainer and trainer[key] not in allowed:
            raise ConfigError(f"trainer.{key} is {trainer[key]}, but {workers} says how many train; leave it out")
    accelerator = trainer.accelerator if "accelerator" in trainer else "auto"
    if taken.gpus and accelerator == "cpu":
        raise ConfigError(f"trainer.accelerator is cpu, but resources.gpus is {taken.gpus:g}; take one of them out")
    if not taken.gpus and accelerator in ("gpu", "cuda"):
        raise ConfigError(f"trainer.accelerator is {accelerator}, but {workers} have no GPUs; set resources.gpus=1")
    precision = trainer.precision if "precision" in trainer else None
    if not taken.gpus and str(precision) in ("16", "16-mixed", "16-true"):
        raise ConfigError(f"trainer.precision is {precision}, which CPUs lack; take bf16-mixed, or resources.gpus=1")


def _check_required_node(config: DictConfig, name: str) -> None:
    node = _value(config, name) if name in config else None
    if node is None and name == "tokenizer":  # not every model has one
        return
    if not isinstance(node, DictConfig):
        raise ConfigError(f"{name} must be a section with {TARGET}, not {node!r}; choose one: {name}=...")
    check_node(node)


def _check_augment(config: DictConfig) -> None:
    augment = config.augment
    if not isinstance(augment, DictConfig):
        raise ConfigError(f"augment must be a section with waveform and features, not {augment!r}")
    names = [field.name for field in dataclasses.fields(type_hints(RunConfig)["augment"])]
    for name in map(str, augment):
        if name not in names:
            raise ConfigError(f"augment.{name} is not a key of augment{nearest_key(f'augment.{name}', names)}")
    if "waveform" in augment:
        if not isinstance(augment.waveform, ListConfig):
            raise ConfigError(f"augment.waveform must be a list of steps, not {augment.waveform!r}")
        for index, step in enumerate(augment.waveform):
            if not isinstance(step, DictConfig):
                raise ConfigError(f"augment.waveform.{index} must be a section with {TARGET}, not {step!r}")
            check_node(step)
    if "features" in augment and augment.features is not None:
        if not isinstance(augment.features, DictConfig):
            raise ConfigError(f"augment.features must be a section with {TARGET} or null, not {augment.features!r}")
        check_node(augment.features)


def _check_augment_is_read(plain: Mapping[Any, Any]) -> None:
    read = [value for name in ("model", "data") for value in _values_in(plain.get(name))]
    for name, value in plain["augment"].items():
        if value and value not in read:
            key, none = f"augment.{name}", "[]" if name == "waveform" else "null"
            raise ConfigError(f"{key} is set, but nothing in model or data is ${{{key}}}; set {key}={none}")


def _values_in(node: Any) -> Iterator[Any]:
    yield node
    for below in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _values_in(below)


def _check_optimization(config: DictConfig) -> None:
    optim = config.optim if "optim" in config else None
    if not isinstance(optim, DictConfig):
        raise ConfigError(f"optim must be a section with a name, not {optim!r}; choose one: optim=adamw")
    check_optim(optim)
    schedule = config.schedule if "schedule" in config else None
    if schedule is None:
        return
    if not isinstance(schedule, DictConfig):
        raise ConfigError(f"schedule must be a section with a name, or null, not {schedule!r}")
    check_schedule(schedule)


def _resolved(config: DictConfig) -> dict[Any, Any]:
    """Return the config as plain containers: all has a value, and all that is another key's is found."""
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException:
        _check_interpolations(config)  # names the key
        raise
    assert isinstance(plain, dict)
    return plain


def _check_interpolations(config: DictConfig | ListConfig) -> None:
    names = range(len(config)) if isinstance(config, ListConfig) else list(config)
    for name in names:
        node = config._get_node(name)
        try:
            if OmegaConf.is_missing(config, name):
                key = full_key(config, name)
                raise ConfigError(f"{key} has no value yet; give it one: {key}=...")
            if OmegaConf.is_interpolation(config, name):
                config[name]
            elif isinstance(node, (DictConfig, ListConfig)) and not node._is_none():
                _check_interpolations(node)
        except InterpolationKeyError as error:
            key = full_key(config, name)
            written = OmegaConf.to_container(config, resolve=False)[name]  # type: ignore[index]
            asked = str(error).partition("'")[2].partition("'")[0]
            hint = nearest_full_key(asked, config._get_root(), but=[key])  # type: ignore[arg-type]
            raise ConfigError(f"{key} is {written}, but there is no key {asked}{hint}") from error
        except OmegaConfBaseException as error:
            raise ConfigError(f"{full_key(config, name)}: {str(error).splitlines()[0]}") from error


def _keys_of(config: DictConfig, prefix: str) -> Iterator[str]:
    for name in map(str, config):
        yield prefix + name
        value = _value(config, name)
        if isinstance(value, DictConfig):
            yield from _keys_of(value, f"{prefix}{name}.")


def _value(config: DictConfig, key: str) -> Any:
    try:
        return OmegaConf.select(config, key)
    except OmegaConfBaseException:
        return None
