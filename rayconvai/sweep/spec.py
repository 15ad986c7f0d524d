"""The sweep file: what varies, how it is searched, and what it may cost.

A file is read with the line of every key, so that whatever is wrong with it is said as ``sweeps/asr.yaml:14: ...``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from rayconvai.errors import StorageError, SweepError, nearest
from rayconvai.places import is_address, lasting_place, working_copy

Scalar = str | int | float | bool | None
_COMMAND_LINE = "command line: "


@dataclass(frozen=True, kw_only=True)
class MetricSpec:
    name: str = "val_loss"
    """A metric that the model logs at each validation."""
    mode: Literal["min", "max"] = "min"
    """A file has to say it: a wrong guess turns the ranking round."""


@dataclass(frozen=True, kw_only=True)
class SearchSpec:
    name: Literal["random", "grid", "quasirandom", "optuna"] = "optuna"
    """quasirandom is a scrambled Sobol sequence."""
    seed: int = 0
    sampler: Literal["tpe", "gp", "cmaes", "nsga2"] | None = None
    """Optuna's; None: tpe for one metric, nsga2 for several."""
    multivariate: bool = False
    """TPE looks at the keys together, not one by one."""
    population: int = 50
    """Of NSGA-II's generations."""


@dataclass(frozen=True, kw_only=True)
class SchedulerSpec:
    name: Literal["none", "asha", "hyperband", "median", "pbt"] = "asha"
    grace: int = 1
    """asha, hyperband, median: epochs that every trial may have before it can be stopped."""
    reduction: float = 3
    """asha, hyperband: of the trials that reach a rung, one in so many goes on."""
    interval: int = 1
    """pbt: epochs from one exploit to the next."""
    quantile: float = 0.25
    """pbt: this share of the trials, the worst, takes over from the same share of the best."""
    resample: float = 0.25
    """pbt: how often a key is drawn anew; else a number is changed by a fifth, an option to its neighbour."""


@dataclass(frozen=True, kw_only=True)
class BudgetSpec:
    """When a sweep ends: at the first of these. A larger one goes on with a sweep that has ended."""

    trials: int | None = None
    """None: all points of a grid. Each repeat of a point is a trial."""
    epochs: int | None = None
    """Of a trial: trainer.max_epochs. None: as the recipe says."""
    hours: float | None = None
    gpu_hours: float | None = None
    target: float | None = None
    """Ends the sweep when a trial's metric is this good."""
    plateau: int | None = None
    """Ends the sweep when so many trials have ended since the best one improved."""


@dataclass(frozen=True, kw_only=True)
class ResourcesSpec:
    """What one trial takes."""

    workers: int = 1
    """Processes that train a trial together; with more than one, they are Ray Train's."""
    cpus: float = 1
    """Of each worker."""
    gpus: float = 0
    """Of each worker. Of the only one it may be a fraction: several trials then share a device."""
    custom: dict[str, float] = field(default_factory=dict)
    """Of each worker: other resources that the cluster's nodes were started with."""
    accelerator_type: str | None = None
    """Trials go to nodes with such GPUs only; Ray's names: A100, H100."""
    placement: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = "PACK"
    """Whether a trial's workers go to few nodes or to many."""
    concurrent: int | None = None
    """The most trials at once; None: as many as the cluster holds."""


@dataclass(frozen=True, kw_only=True)
class PricesSpec:
    """What an hour costs."""

    cpu_hour: float = 0
    gpu_hour: float = 0
    currency: str = "USD"


@dataclass(frozen=True, kw_only=True)
class CheckpointsSpec:
    """What is kept of the trials that have ended; a running one keeps its best and its last."""

    keep: int = 5
    """The best so many trials keep their checkpoints."""
    gigabytes: float | None = None
    """The most that the checkpoints of the sweep may take; the worst trials' go first."""


@dataclass(frozen=True, kw_only=True)
class SweepSpec:
    """A whole sweep file."""

    name: str
    recipe: str
    space: dict[str, Scalar | dict[str, Any]]
    """Config key or config group -> an expression of the grammar in space.py, one fixed value, or
    ``{when: {KEY: VALUE or [VALUES]}, is: EXPRESSION}``."""
    metric: MetricSpec
    more_metrics: list[MetricSpec] = field(default_factory=list)
    """Looked for together with ``metric`` by a search of several; it alone ranks the trials and ends them early."""
    constraints: list[str] = field(default_factory=list)
    """Each is to hold for every point: ``model.encoder.d_model % model.encoder.num_heads == 0``."""
    points: list[dict[str, Any]] = field(default_factory=list)
    """Tried first. Keys that a point leaves out are drawn."""
    warm_start: list[str] = field(default_factory=list)
    """Directories of other sweeps, whose results the search is told."""
    overrides: list[str] = field(default_factory=list)
    config_dirs: list[str] = field(default_factory=list)
    """Where recipes and groups are looked for, besides rayconvai's own."""
    search: SearchSpec = field(default_factory=SearchSpec)
    scheduler: SchedulerSpec = field(default_factory=SchedulerSpec)
    repeats: int = 1
    """Trials of each point, every one with a seed of its own; points are ranked by their mean."""
    budget: BudgetSpec = field(default_factory=BudgetSpec)
    resources: ResourcesSpec = field(default_factory=ResourcesSpec)
    checkpoints: CheckpointsSpec = field(default_factory=CheckpointsSpec)
    prices: PricesSpec = field(default_factory=PricesSpec)
    storage: str = "runs"
    """A directory that all nodes see, or a bucket: s3://bucket/path, gs://bucket/path."""
    max_retries: int = 2
    """How often a trial whose process or node died is started again."""
    timeout: float | None = None
    """Seconds without a report after which a trial hangs: it is started again. None: never."""
    give_up_after: int = 3
    """When the first so many trials all fail for one reason, the sweep stops."""

    @property
    def metrics(self) -> list[MetricSpec]:
        """All that are looked for; the first ranks."""
        return [self.metric, *self.more_metrics]

    @property
    def place(self) -> str:
        """The sweep's directory, or its address in a bucket."""
        storage = lasting_place(self.storage)
        return f"{storage}/{self.name}" if is_address(storage) else str(Path(storage).absolute() / self.name)

    @property
    def directory(self) -> Path:
        """Where it works here: of a sweep in a bucket, a copy."""
        return working_copy(self.place)


@dataclass(frozen=True)
class SweepFile:
    """A spec and where each of its keys stands."""

    path: str
    spec: SweepSpec
    places: dict[str, str]
    """Dotted key -> ``file:line`` or ``command line``; space keys as ``space.<key>``."""

    def at(self, key: str) -> str:
        """Where a key stands; for one that the file leaves out, its parent or the file."""
        while key and key not in self.places:
            key = key.rpartition(".")[0]
        return self.places[key] if key else self.path


class _Loader(yaml.SafeLoader):
    """YAML as OmegaConf reads it: ``1e-4`` is a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d[\d_]*(?:\.[\d_]*)?|\.\d[\d_]*)(?:[eE][-+]?\d+)$"),
    list("-+0123456789."),
)


def load_spec(path: str | Path, overrides: Sequence[str] = ()) -> SweepFile:
    """Read a sweep file; ``overrides`` (``budget.trials=4``, ``space.optim.lr=...``) change any of its keys.

    Raises:
        SweepError: no such file, no YAML, an unknown key, or a value of the wrong type; with file and line.
    """
    tree, places = _read(Path(path))
    for override in overrides:
        _override(tree, places, override)
    file = SweepFile(str(path), _convert(SweepSpec, tree, "", places, str(path)), places)
    if "mode" not in tree["metric"]:
        raise SweepError(f"{file.at('metric')}: key 'metric.mode' is missing: min or max?")
    _check(file)
    return file


def recorded_spec(recorded: Mapping[str, Any], place: str | Path) -> SweepSpec:
    """Return the spec that the journal of the sweep in a place has.

    Raises:
        SweepError: there is no sweep, or it is one of another version's.
    """
    if not recorded:
        raise SweepError(f"{place} holds no sweep: it has no journal")
    spec: SweepSpec = _convert(SweepSpec, dict(recorded), "", {}, f"the journal in {place}")
    return spec


def _read(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SweepError(f"sweep file {path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    places: dict[str, str] = {}
    try:
        loader = _Loader(text)
        node = _joined(loader.get_single_node(), text)
        if not isinstance(node, yaml.MappingNode):
            raise SweepError(f"{path}: a sweep file is a mapping of keys (name, recipe, space, metric, ...)")
        _collect_places(node, "", str(path), places)
        tree: dict[str, Any] = loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        hint = " (inside {...} an expression with commas needs quotes)" if "flow" in str(error.context) else ""
        raise SweepError(f"{path}:{line}: not valid YAML: {error.problem}{hint}") from error
    except yaml.YAMLError as error:
        raise SweepError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    return tree, places


def _joined(node: Any, text: str) -> Any:
    """Put together what YAML has cut at the commas of an expression: ``{when: ..., is: uniform(0, 1)}``."""
    whole: list[Any] = []
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:  # what was cut off is a key without a value
            if whole and _is_cut(whole[-1][1]) and value.start_mark.index == value.end_mark.index:
                whole[-1] = (whole[-1][0], _span(whole[-1][1], key, text))
            else:
                whole.append((key, _joined(value, text)))
        node.value = whole
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            if whole and _is_cut(whole[-1]):
                whole[-1] = _span(whole[-1], item, text)
            else:
                whole.append(_joined(item, text))
        node.value = whole
    return node


def _is_cut(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.style is None and node.value.count("(") > node.value.count(")")


def _span(first: yaml.Node, last: yaml.Node, text: str) -> yaml.ScalarNode:
    written = text[first.start_mark.index : last.end_mark.index]
    return yaml.ScalarNode("tag:yaml.org,2002:str", written, first.start_mark, last.end_mark)


def _collect_places(node: yaml.MappingNode, prefix: str, path: str, places: dict[str, str]) -> None:
    seen: set[str] = set()
    for key_node, value_node in node.value:
        place = f"{path}:{key_node.start_mark.line + 1}"
        key = str(key_node.value)
        if key in seen:
            raise SweepError(f"{place}: key '{prefix}{key}' stands twice")
        seen.add(key)
        places[prefix + key] = place
        # Keys below space are config keys: dotted names of their own, not a tree.
        if isinstance(value_node, yaml.MappingNode) and prefix != "space.":
            _collect_places(value_node, f"{prefix}{key}.", path, places)


def _override(tree: dict[str, Any], places: dict[str, str], override: str) -> None:
    key, equals, text = override.partition("=")
    added = key.endswith("+")
    key = key.strip().lstrip("+").rstrip("+ ")
    where = f"{_COMMAND_LINE}'{override}'"
    if key.startswith("~") and not equals:
        parent, name = _parent(tree, key[1:], where)
        if name not in parent:
            raise SweepError(f"{where}: there is no key '{key[1:]}' to remove{nearest(name, parent)}")
        del parent[name]
        _forget_places(places, key[1:])
        return
    if not equals or not key:
        raise SweepError(f"{where} is not of the form KEY=VALUE (or ~KEY)")
    try:
        loader = _Loader(text)
        node = _joined(loader.get_single_node(), text)
        value = None if node is None else loader.construct_document(node)
    except yaml.YAMLError as error:
        raise SweepError(f"{where}: the value is not valid YAML; quote it") from error
    parent, name = _parent(tree, key, where)
    before = parent.get(name)
    if override.startswith("+") and isinstance(before, list):
        raise SweepError(f"{where}: {key} stands in the file; {key}=... replaces it, {key}+=... adds to it")
    if added:
        if not isinstance(before, list | None):
            raise SweepError(f"{where}: {key} is no list to add to; write {key}=...")
        value = [*(before or []), *(value if isinstance(value, list) else [value])]
    parent[name] = value
    _forget_places(places, key)
    places[key] = where


def _forget_places(places: dict[str, str], key: str) -> None:
    """Forget where a key and those below it stood in the file."""
    for gone in [place for place in places if place == key or place.startswith(key + ".")]:
        del places[gone]


def _parent(tree: dict[str, Any], key: str, where: str) -> tuple[dict[str, Any], str]:
    head, dot, rest = key.partition(".")
    if not dot:
        return tree, key
    parent = tree.setdefault(head, {})
    if not isinstance(parent, dict):
        raise SweepError(f"{where}: '{head}' has no keys below it")
    return parent, rest


def _convert(kind: Any, value: Any, key: str, places: dict[str, str], path: str) -> Any:
    """Check ``value`` against a dataclass tree's types; no silent conversions but int -> float."""
    if is_dataclass(kind):
        return _convert_section(kind, value, key, places, path)
    if kind is Any:
        return value
    where = _where(key, places, path)
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        if value not in args:
            raise SweepError(f"{where}: {key} is {value!r}, not one of {', '.join(args)}{nearest(str(value), args)}")
        return value
    if origin in (Union, UnionType):
        if value is None and type(None) in args:
            return None
        if len(args) == 2 and type(None) in args:
            return _convert(next(arg for arg in args if arg is not type(None)), value, key, places, path)
        if type(value) in [get_origin(arg) or arg for arg in args]:
            return value
        hint = "; write choice(...) for values to choose from" if isinstance(value, list) else ""
        raise SweepError(f"{where}: {key} is {value!r}, not an expression or a plain value{hint}")
    if origin is list and isinstance(value, list):
        return [_convert(args[0], item, key, places, path) for item in value]
    if origin is dict and isinstance(value, dict):
        return {str(name): _convert(args[1], item, f"{key}.{name}", places, path) for name, item in value.items()}
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is kind:
        return value
    raise SweepError(f"{where}: {key} is {value!r}, not {_NAMES.get(origin or kind, kind)}")


_NAMES: dict[Any, str] = {
    int: "an integer", float: "a number", str: "a text", bool: "true or false", list: "a list", dict: "a mapping",
}  # fmt: skip


def _convert_section(kind: Any, value: Any, key: str, places: dict[str, str], path: str) -> Any:
    where = _where(key, places, path)
    hints = get_type_hints(kind)
    if not isinstance(value, dict):
        way = f"; write {key}.name={value}" if "name" in hints and isinstance(value, str) else ""
        raise SweepError(
            f"{where}: {key} is {value!r}, not a mapping of {', '.join(f.name for f in fields(kind))}{way}"
        )
    prefix = f"{key}." if key else ""
    for name in value:
        if name not in hints:
            place = next((place for known, place in places.items() if known.startswith(f"{prefix}{name}.")), None)
            way = nearest(str(name), hints)
            if not key and not way:
                way = "; a key of the recipe stands in space, or in overrides: overrides+=[KEY=VALUE]"
            raise SweepError(f"{place or _where(f'{prefix}{name}', places, path)}: unknown key '{prefix}{name}'{way}")
    for item in fields(kind):
        if item.name not in value and item.default is MISSING and item.default_factory is MISSING:
            raise SweepError(f"{where}: key '{prefix}{item.name}' is missing")
    return kind(**{name: _convert(hints[name], item, f"{prefix}{name}", places, path) for name, item in value.items()})


def _where(key: str, places: dict[str, str], path: str) -> str:
    while key and key not in places:
        key = key.rpartition(".")[0]
    return places[key] if key else path


def _check(file: SweepFile) -> None:
    """What the types cannot say."""
    spec = file.spec
    if not re.fullmatch(r"[\w][\w.-]*", spec.name):
        raise SweepError(f"{file.at('name')}: name {spec.name!r} is to be a directory: letters, digits, '-', '_', '.'")
    if not spec.space:
        raise SweepError(f"{file.at('space')}: space is empty; name at least one key that varies")
    at_least: dict[str, tuple[float | None, float]] = {
        "budget.trials": (spec.budget.trials, spec.repeats),
        "budget.epochs": (spec.budget.epochs, 1),
        "budget.plateau": (spec.budget.plateau, 1),
        "resources.workers": (spec.resources.workers, 1),
        "resources.concurrent": (spec.resources.concurrent, 1),
        "resources.gpus": (spec.resources.gpus, 0),
        "scheduler.grace": (spec.scheduler.grace, 1),
        "scheduler.interval": (spec.scheduler.interval, 1),
        "search.seed": (spec.search.seed, 0),
        "search.population": (spec.search.population, 2),
        "checkpoints.keep": (spec.checkpoints.keep, 1),
        "prices.cpu_hour": (spec.prices.cpu_hour, 0),
        "prices.gpu_hour": (spec.prices.gpu_hour, 0),
        "repeats": (spec.repeats, 1),
        "max_retries": (spec.max_retries, 0),
        "give_up_after": (spec.give_up_after, 1),
    }
    for key, (value, low) in at_least.items():
        if value is not None and value < low:
            raise SweepError(f"{file.at(key)}: {key} is {value:g}, less than {low:g}")
    above: dict[str, tuple[float | None, float]] = {
        "budget.hours": (spec.budget.hours, 0),
        "budget.gpu_hours": (spec.budget.gpu_hours, 0),
        "resources.cpus": (spec.resources.cpus, 0),
        "checkpoints.gigabytes": (spec.checkpoints.gigabytes, 0),
        "scheduler.reduction": (spec.scheduler.reduction, 1),
        "timeout": (spec.timeout, 0),
    }
    for key, (value, low) in above.items():
        if value is not None and not value > low:
            raise SweepError(f"{file.at(key)}: {key} is {value:g}; it must be more than {low:g}")
    for key, share, high in (
        ("scheduler.quantile", spec.scheduler.quantile, 0.5),
        ("scheduler.resample", spec.scheduler.resample, 1),
    ):
        if not 0 <= share <= high:
            raise SweepError(f"{file.at(key)}: {key} is {share:g}; it is a share between 0 and {high:g}")
    _check_belonging(file)
    try:
        lasting_place(spec.storage)
    except StorageError as error:
        raise SweepError(f"{file.at('storage')}: storage {error}") from error


_OF_SCHEDULERS = {
    "grace": ("asha", "hyperband", "median"), "reduction": ("asha", "hyperband"),
    "interval": ("pbt",), "quantile": ("pbt",), "resample": ("pbt",),
}  # fmt: skip


def _check_belonging(file: SweepFile) -> None:
    """Refuse keys that nothing would read, and parts that do not go together."""
    spec = file.spec
    search, scheduler = spec.search, spec.scheduler
    unread = {
        **{f"scheduler.{key}": scheduler.name not in names for key, names in _OF_SCHEDULERS.items()},
        "search.sampler": search.name != "optuna",
        "search.multivariate": (search.name, search.sampler or "tpe") != ("optuna", "tpe") or bool(spec.more_metrics),
        "search.population": (search.name, search.sampler or "nsga2") != ("optuna", "nsga2"),
        "budget.gpu_hours": not spec.resources.gpus,
    }
    for key, nothing in unread.items():
        # Whoever changes search or scheduler from the command line need not take out what the file says of the old one.
        named = file.places.get(f"{key.partition('.')[0]}.name", "")
        swapped = named.startswith(_COMMAND_LINE) and not file.places.get(key, "").startswith(_COMMAND_LINE)
        if nothing and key in file.places and not swapped:
            reader = {"scheduler": scheduler.name, "search": f"{search.name} {search.sampler or ''}".strip()}
            by = reader.get(key.partition(".")[0], "a sweep without resources.gpus")
            raise SweepError(f"{file.at(key)}: {key} means nothing to {by}; take it out")
    names = [metric.name for metric in spec.metrics]
    if doubled := [name for name in names if names.count(name) > 1]:
        raise SweepError(f"{file.at('more_metrics')}: more_metrics: {doubled[0]} is looked for already; take it out")
    if spec.more_metrics and search.name == "optuna" and search.sampler not in (None, "nsga2"):
        raise SweepError(
            f"{file.at('search.sampler')}: {search.sampler} looks for one metric; for several leave the sampler out "
            "or name nsga2"
        )
    if scheduler.name == "pbt":
        if spec.repeats > 1:
            raise SweepError(f"{file.at('repeats')}: pbt trials take over from each other; repeats must be 1")
        if spec.budget.trials is None or spec.budget.trials < 4:
            raise SweepError(f"{file.at('budget.trials')}: budget.trials is pbt's population; give it at least 4")
