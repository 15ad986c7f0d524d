"""A sweep as tables: ``Sweep("runs/asr").trials``. Reads the journal and the trials' files, without Ray and torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import yaml

from rayconvai.analysis import history
from rayconvai.errors import SweepError, nearest
from rayconvai.experiment.layout import RunLayout
from rayconvai.places import is_address, read, words
from rayconvai.sweep.journal import load
from rayconvai.sweep.spec import MetricSpec
from rayconvai.sweep.state import Cost, SweepState, TrialRecord
from rayconvai.sweep.status import no_sweep
from rayconvai.sweep.store import open_store

if TYPE_CHECKING:
    from rayconvai.analysis.samples import Samples
    from rayconvai.core.model import Model


class Sweep:
    """A sweep, finished, running or dead.

    What it holds is read when it is first asked for, and then kept; ``Sweep(path)`` again reads what has come since.

    Args:
        path: its directory, or its address in a bucket: ``s3://bucket/runs/asr``.

    Raises:
        SweepError: there is no sweep, or its journal is damaged; with the place or the line.
        StorageError: it cannot be read.
    """

    state: SweepState

    def __init__(self, path: str | Path) -> None:
        self.place = str(path).rstrip("/") if is_address(path) else str(Path(path).expanduser())
        store = open_store(self.place)
        self.state = load(store)
        if not self.state.spec:
            raise no_sweep(store)
        if store.holder() is None:
            self.state.nothing_runs()  # though a driver that was killed has not said so

    def __repr__(self) -> str:
        states = ", ".join(f"{count} {name}" for name, count in self.state.counts.items() if count)
        return (
            f"<Sweep {self.name}: {self.recipe}, {self.metric.name} ({self.metric.mode}); {states or 'no trial yet'}>"
        )

    @property
    def name(self) -> str:
        return str(self.spec.get("name", Path(self.place).name))

    @property
    def recipe(self) -> str:
        return str(self.spec.get("recipe", ""))

    @property
    def spec(self) -> dict[str, Any]:
        """The sweep file, as the last session read it."""
        return self.state.spec

    @property
    def metrics(self) -> list[MetricSpec]:
        """Those of the sweep; the first ranks."""
        return self.state.metrics

    @property
    def metric(self) -> MetricSpec:
        """What the trials are ranked by."""
        return self.metrics[0]

    @cached_property
    def params(self) -> list[str]:
        """The keys of the space: columns of ``trials``."""
        points = [trial.point for trial in self.state.trials.values()]
        return list(dict.fromkeys([*self.spec.get("space", {}), *(key for point in points for key in point)]))

    @property
    def log_params(self) -> set[str]:
        """The keys that were searched on a logarithmic scale."""
        return {key for key, expression in self.spec.get("space", {}).items() if _is_log(expression)}

    @cached_property
    def trials(self) -> pd.DataFrame:
        """A row for each trial.

        Columns: the space keys (missing where a condition leaves one out), ``state``, ``reason``, ``group``,
        ``repeat``, ``attempts``, ``lost``, ``epoch``, ``parameters``, ``began``, ``ended``, ``wall``, ``cpu``, ``gpu``
        (seconds), ``memory`` (bytes), ``seen.UNIT``, ``node``, each metric's last value under its name, of the sweep's
        metrics also ``METRIC.best`` and ``METRIC.best_epoch``, and ``rank``.
        """
        trials = list(self.state.trials.values())
        frame = pd.DataFrame([self._row(trial) for trial in trials])
        index = pd.Index([trial.name for trial in trials], name="trial", dtype="object")
        bests = [f"{metric.name}.{what}" for metric in self.metrics for what in ("best", "best_epoch")]
        frame = frame.set_index(index) if trials else pd.DataFrame(columns=[*_COLUMNS, *bests], index=index)
        for key in self.params:
            if key not in frame:
                frame[key] = np.nan
        for name in ("began", "ended"):
            frame[name] = pd.to_datetime(frame[name].astype(float), unit="s", utc=True)
        ranked = self.state.ranked(self.metric.name, self.metric.mode)
        places = {trial.name: place for place, trial in enumerate(ranked, start=1) if self._value(trial) is not None}
        frame["rank"] = pd.Series(places, dtype="Int64").reindex(frame.index)
        return frame[[*self.params, *(name for name in frame if name not in self.params)]]

    def _row(self, trial: TrialRecord) -> dict[str, Any]:
        cost = trial.cost
        row: dict[str, Any] = {key: _cell(value) for key, value in trial.point.items()}
        row |= {
            "state": trial.status, "reason": trial.reason, "group": trial.group, "repeat": trial.repeat,
            "attempts": trial.attempts, "lost": trial.lost, "epoch": trial.epoch, "parameters": trial.parameters,
            "began": trial.began, "ended": trial.ended, "wall": cost.wall, "cpu": cost.cpu, "gpu": cost.gpu,
            "memory": cost.memory, **{f"seen.{unit}": amount for unit, amount in cost.seen.items()},
            "node": trial.node or None,
        }  # fmt: skip
        row |= {name: value for name, value in trial.last.items() if name not in row}
        for metric in self.metrics:
            best = trial.best(metric.name, metric.mode)
            row[f"{metric.name}.best"], row[f"{metric.name}.best_epoch"] = best or (None, None)
        return row

    def _value(self, trial: TrialRecord) -> float | None:
        best = trial.best(self.metric.name, self.metric.mode) if trial.usable else None
        return best[0] if best else None

    @cached_property
    def _told(self) -> history.Told:
        return history.told(self.place)

    @property
    def epochs(self) -> pd.DataFrame:
        """What each trial reported at the end of each epoch, as ``history`` has it; from the journal alone."""
        return self._told.epochs

    @property
    def attempts(self) -> pd.DataFrame:
        """A row for each attempt: ``trial``, ``attempt``, ``began``, ``ended``, ``node``, ``how`` it ended."""
        return self._told.attempts

    @cached_property
    def history(self) -> pd.DataFrame:
        """All metrics as one long frame: ``trial``, ``kind`` (epoch, step, validation), ``epoch``, ``step``, ``time``,
        ``metric``, ``value``. Steps and validations come from the trials' own records, where these are still there."""
        names = [trial.name for trial in self.state.trials.values()]
        return history.whole(self.place, self.epochs, names)

    @property
    def best(self) -> pd.Series:
        """The row of the best trial: of repeats, the best of the best point.

        Raises:
            SweepError: no trial has a value of the metric.
        """
        for group in self.state.ranked_groups(self.metric.name, self.metric.mode):
            valued = [trial for trial in group.trials if self._value(trial) is not None]
            if valued:
                sign = 1 if self.metric.mode == "min" else -1
                first = min(valued, key=lambda trial: (sign * (self._value(trial) or 0), trial.number))
                return self.trials.loc[first.name]
        raise SweepError(f"no trial of the sweep in {self.place} has a {self.metric.name} yet; none is the best")

    @property
    def failures(self) -> pd.DataFrame:
        """The trials that failed, were infeasible, or lost a process."""
        trials = self.trials
        bad = trials["state"].isin(["failed", "infeasible"]) | (trials["lost"] > 0)
        return trials.loc[bad, ["state", "reason", "attempts", "lost", "epoch", "node", *self.params]]

    @property
    def cost(self) -> Cost:
        """Of all trials together."""
        return self.state.cost

    @property
    def saved(self) -> float:
        """The seconds that the trials which the scheduler stopped would have gone on for, estimated."""
        return self.state.saved()

    def compare(self, a: str, b: str) -> pd.DataFrame:
        """Return what differs between two trials: point, config, metrics and provenance, a row for each key.

        Raises:
            SweepError: there is no such trial.
        """
        left, right = (self._facts(self.trial(name)) for name in (a, b))
        keys = [key for key in {**left, **right} if left.get(key) != right.get(key)]
        columns = {"key": keys, "a": [left.get(key) for key in keys], "b": [right.get(key) for key in keys]}
        return pd.DataFrame(columns, dtype="object")

    def trial(self, name: str) -> TrialRecord:
        """Return what the journal says of a trial.

        Raises:
            SweepError: there is no such trial.
        """
        found = {trial.name: trial for trial in self.state.trials.values()}
        if name not in found:
            known = f"it has {next(iter(found))} to {list(found)[-1]}" if found else "it has none yet"
            raise SweepError(f"{self.place} has no trial {name}; {known}")
        return found[name]

    def _facts(self, trial: TrialRecord) -> dict[str, Any]:
        layout = RunLayout(Path("trials") / trial.name)
        config = yaml.safe_load(self._read(layout.config) or b"") or {}
        parts = {
            "point": trial.point, "config": config, "metric": trial.last, "provenance": self.provenance(trial.name),
            "trial": {"state": trial.status, "epoch": trial.epoch, "parameters": trial.parameters},
        }  # fmt: skip
        return {key: value for name, part in parts.items() for key, value in _leaves(name, part)}

    def provenance(self, trial: str) -> dict[str, Any]:
        """Return where a trial's numbers come from; nothing where its directory is gone.

        Raises:
            SweepError: there is no such trial.
        """
        found = self._read(RunLayout(Path("trials") / self.trial(trial).name).provenance)
        return dict(json.loads(found)) if found else {}

    @property
    def card(self) -> dict[str, Any]:
        """What the artefact of the best model says of itself.

        Raises:
            SweepError: there is none.
        """
        found = self._read(Path("best") / "card.json")
        if not found:
            raise SweepError(f"{self.place}/best is not there; python -m rayconvai promote {self.place} makes it")
        return dict(json.loads(found))

    def load_best(self) -> Model:
        """Return the model of the best trial, as the artefact has it.

        Raises:
            SweepError: there is no artefact.
            ArtefactError: it is damaged.
        """
        from rayconvai.core.model import Model  # torch, which nothing else here needs
        from rayconvai.experiment.mirror import fetched

        assert self.card
        model: Model = Model.restore_from(fetched(f"{self.place}/best"))
        return model

    def samples(self, trial: str | None = None, n: int = 10) -> Samples:
        """Return what the best model, or a trial at its last validation, made of examples: the worst first, then the
        best. Nothing where none were kept. A notebook shows them as they can be read and heard.

        Raises:
            SweepError: there is no such trial, or what was kept is damaged.
        """
        from rayconvai.analysis.samples import Samples  # both bring torch
        from rayconvai.experiment.samples import read_samples

        where = "best" if trial is None else f"trials/{self.trial(trial).name}"
        directory = self._here(f"{self.place}/{where}/samples")
        try:
            found = read_samples(directory)
        except (OSError, ValueError, KeyError) as error:
            raise SweepError(f"{directory}: the samples are damaged: {words(error)}") from error
        half = n // 2
        return Samples(found if len(found) <= n else [*found[: n - half], *found[len(found) - half :]])

    @staticmethod
    def _here(place: str) -> Path:
        """Return a directory; of one in a bucket a copy that is made for it."""
        if not is_address(place):
            return Path(place)
        from rayconvai.experiment.mirror import fetched  # brings all of Lightning, which takes seconds

        return fetched(place)

    def _read(self, path: Path) -> bytes:
        return read(f"{self.place}/{path.as_posix()}")

    @staticmethod
    def concat(sweeps: Sequence[Sweep]) -> Sweeps:
        """Return the trials of several sweeps together.

        Raises:
            SweepError: none is given, or they are not ranked by the same metric.
        """
        return Sweeps(sweeps)


class Sweeps:
    """Several sweeps that one metric ranks; each trial is called by its sweep: ``asr/t0003``."""

    def __init__(self, sweeps: Sequence[Sweep]) -> None:
        if not sweeps:
            raise SweepError("Sweep.concat was given no sweep")
        for other in sweeps[1:]:
            if other.metric != sweeps[0].metric:
                said = [f"{one.name} by {one.metric.name} ({one.metric.mode})" for one in (sweeps[0], other)]
                raise SweepError(f"sweeps that are ranked by one metric can be put together, not {' and '.join(said)}")
        self.sweeps = list(sweeps)
        names = [sweep.name for sweep in sweeps]
        self.names = names if len(set(names)) == len(names) else [sweep.place for sweep in sweeps]
        if len(set(self.names)) < len(self.names):
            raise SweepError(f"Sweep.concat was given one sweep twice: {', '.join(self.names)}")
        self.metrics = sweeps[0].metrics
        self.metric = sweeps[0].metric
        self.name = " + ".join(self.names)
        self.params = list(dict.fromkeys(key for sweep in sweeps for key in sweep.params))
        self.log_params = {key for sweep in sweeps for key in sweep.log_params}

    @cached_property
    def trials(self) -> pd.DataFrame:
        """As ``Sweep.trials``, with a column ``sweep``; ``rank`` is over all of them."""
        frames = []
        for name, sweep in zip(self.names, self.sweeps, strict=True):
            frame = sweep.trials.rename(index=lambda trial, name=name: f"{name}/{trial}")
            frames.append(frame.dropna(axis="columns", how="all").assign(sweep=name))
        frame = pd.concat(frames)
        columns = dict.fromkeys(name for sweep in self.sweeps for name in sweep.trials)
        frame = frame.reindex(columns=[*columns, "sweep"])
        values = frame[f"{self.metric.name}.best"].astype(float).where(frame["rank"].notna())
        frame["rank"] = values.rank(method="first", ascending=self.metric.mode == "min").astype("Int64")
        return frame

    @cached_property
    def epochs(self) -> pd.DataFrame:
        return self._joined("epochs")

    @cached_property
    def history(self) -> pd.DataFrame:
        return self._joined("history")

    def _joined(self, what: str) -> pd.DataFrame:
        frames = []
        for name, sweep in zip(self.names, self.sweeps, strict=True):
            frame = getattr(sweep, what)
            frames.append(frame.assign(trial=frame["trial"].cat.rename_categories(lambda t, name=name: f"{name}/{t}")))
        joined = pd.concat(frames, ignore_index=True)
        return joined.astype({"trial": "category", "kind": "category", "metric": "category"})

    @property
    def best(self) -> pd.Series:
        """The row of the best trial of all.

        Raises:
            SweepError: no trial has a value of the metric.
        """
        valued = self.trials["rank"].dropna()
        if valued.empty:
            raise SweepError(f"no trial of {self.name} has a {self.metric.name} yet; none is the best")
        return self.trials.loc[str(valued.idxmin())]


_COLUMNS = (
    "state", "reason", "group", "repeat", "attempts", "lost", "epoch", "parameters", "began", "ended", "wall", "cpu",
    "gpu", "memory", "node",
)  # fmt: skip


def _is_log(expression: Any) -> bool:
    inner = expression.get("is") if isinstance(expression, Mapping) else expression
    text = str(inner).replace(" ", "").lower()
    return text.startswith(("log", "qlog", "tag(log")) or "(log" in text or "log=true" in text


def _cell(value: Any) -> Any:
    """Return a value of a point as a table holds it: null is an option like any other, and not a missing value."""
    return "null" if value is None else value if isinstance(value, (str, int, float, bool)) else json.dumps(value)


def _leaves(name: str, node: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from _leaves(f"{name}.{key}", value)
    else:
        yield name, node


def check_metric(sweep: Sweep | Sweeps, metric: str | None) -> str:
    """Return a metric's name, that which ranks unless named.

    Raises:
        SweepError: no trial has reported it.
    """
    if metric is None or metric == sweep.metric.name:
        return sweep.metric.name
    known = [str(name) for name in sweep.epochs["metric"].cat.categories]
    if metric not in known:
        raise SweepError(f"no trial reported {metric}{nearest(metric, known)}; there are: {', '.join(known)}")
    return metric
