"""Which parameters matter: functional analysis of variance over a forest (Hutter et al. 2014), by Optuna."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd

from rayconvai._optional import require
from rayconvai.analysis.load import Sweep, Sweeps, check_metric
from rayconvai.analysis.points import valued, varying
from rayconvai.analysis.style import STATES, figure, is_log, is_number, nothing, options

SEEDS = 4
LEAST = 8
"""Trials that are needed: a forest over fewer says nothing."""
MOST = 500
"""Of more trials, so many are drawn at random: the forest's time grows faster than what it finds."""


def importance(sweep: Sweep | Sweeps, metric: str | None = None) -> Any:
    """Return which share of the metric's variance each parameter accounts for, with its spread over forests.

    A conditional parameter that some trials lack cannot be compared with the others, and is left out and said.

    Raises:
        SweepError: no trial has reported the metric.
    """
    name = check_metric(sweep, metric)
    title = f"Importance for {name}"
    trials = valued(sweep)
    if name != sweep.metric.name:
        known = pd.Series(trials.get(name, np.nan), index=trials.index, dtype=float)
        trials = trials.assign(value=known).dropna(subset=["value"])
    keys = varying(sweep, trials)
    whole = [key for key in keys if trials[key].notna().all()]
    left = [key for key in keys if key not in whole]
    said = f"; left out, as some trials do not have them: {', '.join(left)}" if left else ""
    if len(trials) < LEAST:
        return nothing(title, f"{len(trials)} trials have a value of {name}; at least {LEAST} are needed")
    if not whole or trials["value"].nunique() < 2:
        why = "no parameter that all trials have differs between them" if not whole else f"{name} is the same in all"
        return nothing(title, why + said)
    shares = measure(trials, whole, sweep.log_params)
    order = shares.mean().sort_values().index
    drawn = f"{MOST} of {len(trials)}" if len(trials) > MOST else f"{len(trials)}"
    made = figure(
        title, note=f"fANOVA over {drawn} trials, mean and spread of {SEEDS} forests{said}",
        xaxis_title="share of the variance", height=max(300, 130 + 28 * len(order)), xaxis_rangemode="tozero",
    )  # fmt: skip
    made.add_bar(
        x=shares.mean()[order], y=list(order), orientation="h", marker={"color": STATES["running"]}, showlegend=False,
        error_x={"array": shares.std()[order], "color": "#808890"}, customdata=shares.std()[order],
        hovertemplate="%{y}: %{x:.3f}, +- %{customdata:.3f}<extra></extra>",
    )  # fmt: skip
    return made


def measure(trials: pd.DataFrame, keys: list[str], log_params: set[str]) -> pd.DataFrame:
    """Return the share of the variance of ``value`` for each key: a row for each forest."""
    optuna: Any = require("optuna")
    require("sklearn", extra="analysis")
    if len(trials) > MOST:
        trials = trials.sample(MOST, random_state=0)
    distributions = {key: _distribution(optuna, trials[key], log_params) for key in keys}
    columns = {key: list(_values(trials[key])) for key in keys}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    for row, value in enumerate(trials["value"]):
        params = {key: columns[key][row] for key in keys}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, value=float(value)))
    rows = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Optuna has to say of its own interface
        for seed in range(SEEDS):
            evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=16, max_depth=16, seed=seed)
            rows.append(optuna.importance.get_param_importances(study, evaluator=evaluator, params=keys))
    return pd.DataFrame(rows)[keys]


def _distribution(optuna: Any, values: pd.Series, log_params: set[str]) -> Any:
    """Return where a parameter's values lie, from these themselves: some were given by hand, beyond the space."""
    if not is_number(values):
        return optuna.distributions.CategoricalDistribution(options(values))
    numbers = values.astype(float)
    return optuna.distributions.FloatDistribution(
        float(numbers.min()), float(np.nextafter(numbers.max(), np.inf)), log=is_log(values, log_params)
    )


def _values(values: pd.Series) -> Any:
    return values.astype(float) if is_number(values) else values.map(str)
