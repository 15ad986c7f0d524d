"""``python -m rayconvai promote SWEEP``: the best of a sweep is measured on unheard data and becomes an artefact.

The winner is chosen by the metric of the sweep, on dev. What is measured on test, of it and of others, is told and
chooses nothing: else the test set would have become a second dev set, and its figures too good.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table
from torch import Tensor

from rayconvai.config.check import check, complete
from rayconvai.core.model import Model
from rayconvai.errors import CheckpointError, SweepError
from rayconvai.experiment.layout import RunLayout
from rayconvai.experiment.mirror import fetched, lasting, publish, sweep_directory
from rayconvai.experiment.storage import find_last
from rayconvai.sweep.checkpoints import Left, average, best_checkpoint, best_first
from rayconvai.sweep.journal import read_journal
from rayconvai.sweep.ranking import GroupRank
from rayconvai.sweep.replay import lineage, train_segments
from rayconvai.sweep.show import command_console, quieten_lightning
from rayconvai.sweep.spec import MetricSpec, recorded_spec
from rayconvai.sweep.state import ENDED, SweepState, TrialRecord, trial_dir
from rayconvai.train.finish import card, reported_split, samples_of
from rayconvai.train.fit import evaluate
from rayconvai.train.runtime import Runtime


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is done besides measuring the winner and writing it."""

    top: int = 1
    """So many points are measured."""
    split: str = "test"
    """dev is taken where the data has no test split."""
    average: int = 0
    """The winner's best so many checkpoints are averaged, if that is no worse on dev."""
    retrain: bool = False
    """The winner is trained anew on train and dev together."""


@dataclass(frozen=True)
class Measured:
    """One trial's best checkpoint on the split."""

    trial: TrialRecord
    left: Left
    metrics: dict[str, float]


@dataclass(frozen=True)
class Promoted:
    trial: TrialRecord
    artefact: Path
    metrics: dict[str, float]
    """Of the artefact, on the split."""
    split: str
    ranks: list[tuple[GroupRank, list[Measured]]]
    """The best points, each with its trials that left a checkpoint."""
    remarks: list[str]
    """What was done to the weights, and what came of it."""
    usage: str
    """How the artefact is used from the command line, with ``{}`` for its path; empty: not at all."""


def promote(directory: Path, state: SweepState, metric: MetricSpec, options: Options = Options()) -> Promoted:  # frozen
    """Measure the sweep's best points and write the best trial of the best point, by the metric on dev, as ``best/``.

    Raises:
        SweepError: no trial has a value of the metric, or its data cannot be joined for a retraining.
        CheckpointError: the best trial left no checkpoint.
        StorageError: the artefact cannot be written.
    """
    ranks = [rank for rank in state.ranked_groups(metric.name, metric.mode) if rank.mean is not None][: options.top]
    if not ranks:
        raise SweepError(f"no trial of the sweep in {directory} has a {metric.name}; there is nothing to promote")
    for rank in ranks:
        for trial in rank.trials:
            fetched(lasting(trial_dir(directory, trial.number)))
    winner = _usable(ranks[0], metric)[0]
    run_dir = trial_dir(directory, winner.number)
    config = _config(run_dir)
    split = options.split if options.split == "dev" else reported_split(run_dir)
    left = best_checkpoint(run_dir, winner, metric)
    model, metrics = _evaluate(config, left.path, split)
    found = [(rank, _measure(directory, rank, metric, split, Measured(winner, left, metrics))) for rank in ranks]
    made = _Made(model, metrics, run_dir, config, {"checkpoint": left.path.name})
    if options.average:
        made = _averaged(made, winner, metric, split, options.average)
    if options.retrain:
        made = _retrained(directory, state, winner, left, split)
    told = {"sweep": _account(directory, state, metric, winner, left, ranks[0], found), "measured_on": split}
    artefact = directory / "best"
    content = {**card(made.config, made.run_dir, made.model), "metrics": made.metrics, **made.weights, **told}
    made.model.save_to(artefact, content, extras=samples_of(made.model, split))
    publish(artefact)
    return Promoted(winner, artefact, made.metrics, split, found, made.remarks, made.model.usage)


@dataclass(frozen=True)
class _Made:
    """A model that may become the artefact."""

    model: Model
    metrics: dict[str, float]
    run_dir: Path
    config: DictConfig
    weights: dict[str, Any]
    """Where they come from, for the card."""
    remarks: list[str] = dataclasses.field(default_factory=list)


def _measure(directory: Path, rank: GroupRank, metric: MetricSpec, split: str, winner: Measured) -> list[Measured]:
    """Measure the trials of a point that have a checkpoint; the winner has been measured."""
    found = []
    for trial in _usable(rank, metric):
        run_dir = trial_dir(directory, trial.number)
        left = best_first(run_dir, trial, metric)
        if trial is winner.trial:
            found.append(winner)
        elif left:
            found.append(Measured(trial, left[0], _evaluate(_config(run_dir), left[0].path, split)[1]))
    return found


def _usable(rank: GroupRank, metric: MetricSpec) -> list[TrialRecord]:
    """Return the trials of a point that have a value, best first."""
    sign = 1 if metric.mode == "min" else -1
    valued = [
        (sign * best[0], trial.number, trial)
        for trial in rank.trials
        if trial.usable and (best := trial.best(metric.name, metric.mode)) is not None
    ]
    return [trial for _, _, trial in sorted(valued, key=lambda item: item[:2])]


def _config(run_dir: Path) -> DictConfig:
    file = RunLayout(run_dir).config
    if not file.is_file():
        raise CheckpointError(f"{run_dir} has no {file.name}; nothing can be made of this trial")
    config = OmegaConf.load(file)
    assert isinstance(config, DictConfig)
    config = complete(config)  # a sweep of before has not the keys of today
    check(config)
    return config


def _evaluate(config: DictConfig, weights: Path | Mapping[str, Tensor], split: str) -> tuple[Model, dict[str, float]]:
    return evaluate(config, weights, split, Runtime(progress=False, devices=1))


def _averaged(made: _Made, trial: TrialRecord, metric: MetricSpec, split: str, count: int) -> _Made:
    """Average the best checkpoints of a trial; keep that if it is no worse on dev than the single best one."""
    left = best_first(made.run_dir, trial, metric)[:count]
    if len(left) < 2:
        remark = f"nothing to average: {trial.name} has no second checkpoint left"
        return dataclasses.replace(made, remarks=[remark])
    single = _evaluate(made.config, left[0].path, "dev")[1]
    if metric.name not in single:
        raise SweepError(f"{metric.name} is not measured on dev; it cannot tell whether an average is better")
    weights = average([one.path for one in left])
    model, mean = _evaluate(made.config, weights, "dev")
    worse = (mean[metric.name] - single[metric.name]) * (1 if metric.mode == "min" else -1) > 0
    epochs = ", ".join(str(one.epoch) for one in left)
    figures = f"{metric.name} {mean[metric.name]:.4f}, of the best alone {single[metric.name]:.4f}"
    if worse:
        remark = f"the average of epochs {epochs} is worse on dev and not taken: {figures}"
        return dataclasses.replace(made, remarks=[remark])
    if split != "dev":
        model, mean = _evaluate(made.config, weights, split)
    names = [one.path.name for one in left]
    remark = f"the average of epochs {epochs} is taken, on dev: {figures}"
    return dataclasses.replace(made, model=model, metrics=mean, weights={"averaged": names}, remarks=[remark])


def _retrained(directory: Path, state: SweepState, trial: TrialRecord, left: Left, split: str) -> _Made:
    """Train a trial anew, dev joined to train, as far as its best epoch."""
    run_dir = directory / "retrained" / f"{trial.name}-{left.epoch}"
    spec = recorded_spec(state.spec, directory)
    config = train_segments(spec, lineage(state, trial, left.epoch), run_dir, with_dev)
    last = find_last(RunLayout(run_dir).checkpoints)
    assert last is not None
    # On what it was trained with, a figure would say nothing.
    model, metrics = _evaluate(config, last, split)
    remark = f"trained anew on train and dev as far as epoch {left.epoch}: {run_dir}"
    if split == "dev":
        metrics = {}
        remark += "; measured on nothing, as the data has no test split"
    weights = {"checkpoint": last.name, "trained_on": "train and dev"}
    return _Made(model, metrics, run_dir, config, weights, [remark])


def with_dev(config: DictConfig) -> DictConfig:
    """Return the config of a run that trains on train and dev.

    Raises:
        SweepError: its data is not made from a corpus.
    """
    corpus = OmegaConf.select(config, "data.corpus")
    if corpus is None:
        target = OmegaConf.select(config, "data._target_")
        raise SweepError(f"the data of this recipe ({target}) has no corpus whose dev could be trained on too")
    joined = {"_target_": "rayconvai.data.corpus.TrainAndDev", "corpus": corpus}
    changed = OmegaConf.merge(config, {})
    assert isinstance(changed, DictConfig)
    changed.data = {**changed.data, "corpus": joined}
    # All checkpoints look good on what they were trained with; the last is taken.
    changed.exp_manager.checkpoint_callback_params.save_top_k = 0
    return changed


def _account(
    directory: Path,
    state: SweepState,
    metric: MetricSpec,
    winner: TrialRecord,
    left: Left,
    rank: GroupRank,
    found: list[tuple[GroupRank, list[Measured]]],
) -> dict[str, Any]:
    """Return what the card says of the sweep: all that is needed to come to the same model again."""
    schedule = lineage(state, winner, left.epoch)
    chosen = {"metric": metric.name, "mode": metric.mode, "value": left.value, "epoch": left.epoch}
    repeats = {"repeats": rank.values, "mean": rank.mean, "low": rank.low, "high": rank.high}
    return {
        "name": state.spec.get("name", directory.name),
        "directory": lasting(directory.absolute()),
        "trial": winner.name,
        "point": schedule[-1].point,
        "overrides": schedule[-1].overrides,
        "schedule": [dataclasses.asdict(segment) for segment in schedule],
        "chosen_on_dev": chosen | repeats,
        "best_of": {"trials": len(state.trials), "ended": state.count(*ENDED)},
        "measured": {one.trial.name: one.metrics for _, trials in found for one in trials},
        "identity": state.identity,
    }


def result_table(promoted: Promoted, metric: MetricSpec) -> Table:
    """Make the table of the points that were measured, best first by dev; of repeats, each and their mean."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    names = sorted({name for _, trials in promoted.ranks for one in trials for name in one.metrics})
    for name in ("", "trial", f"{metric.name} (dev)", "95 %", "epoch", *names):
        table.add_column(name, justify="left" if name in ("", "trial") else "right", no_wrap=True)
    for place, (rank, trials) in enumerate(promoted.ranks, start=1):
        measured = {one.trial.number: one for one in trials}
        for trial in _usable(rank, metric):
            one = measured.get(trial.number)
            best = trial.best(metric.name, metric.mode)
            value, epoch = (one.left.value, one.left.epoch) if one else best or (0.0, 0)
            shown = [f"{one.metrics[name]:.4f}" if one else "gone" for name in names]
            table.add_row(str(place), trial.name, f"{value:.4f}", "", str(epoch), *shown)
        if len(rank.values) > 1 and rank.mean is not None:
            interval = "" if rank.low is None else f"{rank.low:.4f} to {rank.high:.4f}"
            part = "" if len(trials) == len(rank.values) else f" (of {len(trials)})"
            means = [f"{fmean(one.metrics[name] for one in trials):.4f}{part}" if trials else "gone" for name in names]
            table.add_row(str(place), "mean", f"{rank.mean:.4f}", interval, "", *means)
    return table


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m rayconvai promote",
        description="Measure the best points of a sweep again, on test, and write the best one, chosen by the sweep's "
        "metric on dev, as the artefact SWEEP/best.",
    )
    parser.add_argument("sweep", help="the sweep's directory or address: runs/asr, s3://bucket/runs/asr")
    parser.add_argument("--top", type=int, default=3, metavar="N", help="measure so many points (3)")
    parser.add_argument("--split", choices=("test", "dev"), default="test", help="what to measure on (test)")
    parser.add_argument("--average", type=int, default=0, metavar="K", help="average the winner's K best checkpoints")
    parser.add_argument("--retrain", action="store_true", help="train the winner anew on train and dev")
    given = parser.parse_args(arguments)
    if given.top < 1 or given.average < 0 or (given.average and given.retrain):
        parser.error("--top is 1 or more; --average and --retrain exclude each other: no dev is left to choose by")
    quieten_lightning()
    console = command_console()
    state = read_journal(given.sweep)
    metric = recorded_spec(state.spec, given.sweep).metric
    options = Options(top=given.top, split=given.split, average=given.average, retrain=given.retrain)
    with console.status(f"measuring the best of {given.sweep}"):
        promoted = promote(sweep_directory(given.sweep), state, metric, options)
    show(promoted, state, metric, console)
    return 0


def show(promoted: Promoted, state: SweepState, metric: MetricSpec, console: Console) -> None:
    """Print what was measured and what became the artefact."""
    console.print(result_table(promoted, metric))
    known, live = len(state.trials), len(state.live)
    unready = f", {live} of which have not ended" if live else ""
    figures = ", ".join(f"{name} {value:.4f}" for name, value in sorted(promoted.metrics.items()))
    lines = [
        f"best: {promoted.trial.name} of {known} trials{unready}, by {metric.name} on dev (test chooses nothing)",
        *promoted.remarks,
        f"measured on {promoted.split}: {figures or 'nothing'}",
        f"artefact: {lasting(promoted.artefact)}",
    ]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
