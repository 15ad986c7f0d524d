"""Plots over the space: what the metric does with each parameter, with two, with all; what a better value costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from rayconvai._optional import require
from rayconvai.analysis.curves import ONE, SCALE_BY_MODE
from rayconvai.analysis.load import Sweep, Sweeps
from rayconvai.analysis.style import (
    BEST,
    STATES,
    axis_of,
    dressed,
    figure,
    hovers,
    is_log,
    is_number,
    nothing,
    options,
    shown,
)
from rayconvai.errors import SweepError, nearest

_ABSENT = "not set"
"""The place of a conditional parameter that a trial does not have."""


def valued(sweep: Sweep | Sweeps) -> pd.DataFrame:
    """Return the trials that have a value of the metric and did not turn out unusable, with it as ``value``."""
    trials = sweep.trials
    column = f"{sweep.metric.name}.best"
    if column not in trials:
        return trials.iloc[:0].assign(value=np.array([], dtype=float))
    kept = trials[trials["rank"].notna()]
    return kept.assign(value=kept[column].astype(float))


def varying(sweep: Sweep | Sweeps, trials: pd.DataFrame) -> list[str]:
    """Return the parameters that differ between these trials."""
    return [key for key in sweep.params if trials[key].map(str).nunique() > 1]


def parallel(sweep: Sweep | Sweeps) -> Any:
    """Return all parameters and the metric as parallel coordinates, a line for each trial."""
    title, metric = "Parallel coordinates", sweep.metric
    trials = valued(sweep)
    keys = varying(sweep, trials)
    if len(trials) < 2 or not keys:
        return nothing(title, _too_few(sweep, trials, keys))
    order = trials.sort_values("value", ascending=metric.mode == "max")  # the best are drawn last
    dimensions = [_dimension(order[key], is_log(order[key], sweep.log_params)) for key in keys]
    value = order["value"]
    dimensions.append({"label": metric.name, "values": value})
    made = figure(title, note=f"{len(trials)} trials by their best {metric.name}; drag along an axis to choose")
    made.add_parcoords(
        dimensions=dimensions, labelangle=-12, labelside="top",
        line={"color": value, "colorscale": SCALE_BY_MODE[metric.mode], "showscale": True,
              "colorbar": {"title": metric.name}, "cmin": value.min(), "cmax": value.quantile(0.9)},
    )  # fmt: skip
    made.update_layout(margin={"l": 80, "r": 40, "t": 120, "b": 40})
    return made


def _dimension(values: pd.Series, log: bool) -> dict[str, Any]:
    """Return an axis of parallel coordinates; trials without the parameter have a place of their own below."""
    absent = values.isna()
    if is_number(values):
        numbers = values.astype(float)
        placed = numbers.map(np.log10) if log else numbers
        low, high = float(placed.min()), float(placed.max())
        known = sorted(set(numbers.dropna()))
        if len(known) <= 6:
            ticks, texts = [float(np.log10(v) if log else v) for v in known], [shown(v) for v in known]
        else:
            ticks = [float(tick) for tick in np.linspace(low, high, 5)]
            texts = [f"{10**tick if log else tick:.3g}" for tick in ticks]
    else:
        names = options(values)
        placed = values.map(lambda value: np.nan if pd.isna(value) else float(names.index(str(value))))
        placed = placed.astype(float)
        low, high, ticks, texts = 0.0, float(len(names) - 1), [float(place) for place in range(len(names))], names
    if absent.any():
        below = low - 0.25 * ((high - low) or 1)
        placed, ticks, texts = placed.fillna(below), [below, *ticks], [_ABSENT, *texts]
    return {"label": str(values.name), "values": placed, "tickvals": ticks, "ticktext": texts}


def slices(sweep: Sweep | Sweeps, param: str | None = None) -> Any:
    """Return the metric by each parameter, or by one of them.

    Raises:
        SweepError: there is no such parameter.
    """
    title, metric = "Slices", sweep.metric
    trials = valued(sweep)
    keys = [_known(sweep, param)] if param else varying(sweep, trials)
    if trials.empty or not keys:
        return nothing(title, _too_few(sweep, trials, keys))
    subplots: Any = require("plotly.subplots", extra="analysis")
    columns = min(3, len(keys))
    rows = -(-len(keys) // columns)
    grid = subplots.make_subplots(
        rows, columns, shared_yaxes=True, horizontal_spacing=0.03, vertical_spacing=0.3 / rows
    )
    made = figure(title, note=f"{len(trials)} trials by their best {metric.name}", height=120 + 280 * rows)
    grid.update_layout(made.layout)
    texts = pd.Series(hovers(trials, sweep.params, metric.name), index=trials.index)
    shown_states: set[str] = set()
    for place, key in enumerate(keys):
        row, column = divmod(place, columns)
        have = trials[trials[key].notna()]
        where = {"row": row + 1, "col": column + 1}
        for state, part in have.groupby("state", sort=False):
            x = part[key] if is_number(trials[key]) else part[key].map(str)
            grid.add_scatter(
                x=x, y=part["value"], mode="markers", name=str(state), legendgroup=str(state),
                showlegend=state not in shown_states, hovertext=texts[part.index],
                hovertemplate="%{hovertext}<extra></extra>",
                marker={"color": STATES[str(state)], "size": 7, "opacity": 0.75}, **where,
            )  # fmt: skip
            shown_states.add(str(state))
        missing = len(trials) - len(have)
        label = key + (f" ({missing} without)" if missing else "")
        kind = axis_of(trials[key], sweep.log_params)
        grid.update_xaxes(title={"text": label, "font": {"size": 11}}, **kind, **where)
        if column == 0:
            grid.update_yaxes(title=metric.name, **where)
    return dressed(grid)


def contours(sweep: Sweep | Sweeps, x: str | None = None, y: str | None = None) -> Any:
    """Return the metric over two parameters, interpolated between the trials; the two most important unless named.

    Raises:
        SweepError: there is no such parameter.
    """
    title, metric = "Contours", sweep.metric
    trials = valued(sweep)
    numeric = [key for key in varying(sweep, trials) if is_number(trials[key])]
    chosen = [_known(sweep, key) for key in (x, y) if key]
    chosen += [key for key in _by_weight(trials, numeric, sweep.log_params) if key not in chosen]
    chosen += [key for key in varying(sweep, trials) if key not in chosen]
    if len(chosen) < 2:
        why = "two parameters that vary are needed; " + _too_few(sweep, trials, chosen)
        return nothing(
            title, why if len(trials) < 2 else f"two parameters that vary are needed, there are {len(chosen)}"
        )
    first, second = chosen[:2]
    have = trials[trials[first].notna() & trials[second].notna()]
    if len(have) < 2:
        return nothing(title, f"fewer than two trials have both {first} and {second}")
    note = f"{len(have)} of {len(trials)} trials, which have both"
    made = figure(f"{title}: {metric.name}", note=note, xaxis_title=first, yaxis_title=second)
    logs = [is_log(have[key], sweep.log_params) for key in (first, second)]
    surface = _surface(have, first, second, logs)
    scale = {"colorscale": SCALE_BY_MODE[metric.mode], "cmin": have["value"].min(), "cmax": have["value"].quantile(0.9)}
    if surface is not None:
        made.add_contour(
            x=surface[0], y=surface[1], z=surface[2], colorscale=scale["colorscale"], zmin=scale["cmin"],
            zmax=scale["cmax"], opacity=0.75, connectgaps=False, line={"width": 0.5}, hoverinfo="skip",
            colorbar={"title": metric.name},
        )  # fmt: skip
    axes = [have[key] if is_number(have[key]) else have[key].map(str) for key in (first, second)]
    made.add_scatter(
        x=axes[0], y=axes[1], mode="markers", showlegend=False, hovertext=hovers(have, sweep.params, metric.name),
        hovertemplate="%{hovertext}<extra></extra>",
        marker={"color": have["value"], "size": 8, "line": {"color": "white", "width": 1}, "showscale": surface is None,
                "colorbar": {"title": metric.name}, **scale},
    )  # fmt: skip
    made.update_xaxes(axis_of(have[first], sweep.log_params))
    made.update_yaxes(axis_of(have[second], sweep.log_params))
    return made


def _by_weight(trials: pd.DataFrame, keys: Sequence[str], log_params: set[str]) -> list[str]:
    """Order parameters by how much the metric follows them, by rank correlation."""
    ranks = trials["value"].rank()
    weights = {key: abs(ranks.corr(trials[key].astype(float).rank())) for key in keys}
    return sorted(keys, key=lambda key: -np.nan_to_num(weights[key]))


def _surface(have: pd.DataFrame, x: str, y: str, logs: Sequence[bool]) -> tuple[Any, Any, Any] | None:
    """Interpolate the metric linearly between the trials, on their own scales; None where they lie on a line."""
    if not (is_number(have[x]) and is_number(have[y])) or len(have) < 4:
        return None
    interpolate: Any = require("scipy.interpolate", extra="analysis")
    spatial: Any = require("scipy.spatial", extra="analysis")
    places = [
        np.log10(have[key].astype(float)) if log else have[key].astype(float)
        for key, log in zip((x, y), logs, strict=True)
    ]
    spans = [float(place.max() - place.min()) for place in places]
    if min(spans) == 0:
        return None
    unit = np.column_stack([(place - place.min()) / span for place, span in zip(places, spans, strict=True)])
    grid = np.linspace(0, 1, 60)
    try:
        values = interpolate.griddata(unit, have["value"].to_numpy(), tuple(np.meshgrid(grid, grid)))
    except spatial.QhullError:
        return None
    axes = [place.min() + grid * span for place, span in zip(places, spans, strict=True)]
    back = [10**axis if log else axis for axis, log in zip(axes, logs, strict=True)]
    return back[0], back[1], values


def pareto(sweep: Sweep | Sweeps, x: str = "parameters", y: str | None = None) -> Any:
    """Return the trials by what they take and how good they are, and those that no other beats in both.

    Args:
        sweep: what to show.
        x: less is better: ``parameters``, ``wall``, ``gpu``, ``memory``, any column of numbers; or ``speed``, what was
            seen in a second of training, of which more is better.
        y: a metric of the sweep; that which ranks unless named.

    Raises:
        SweepError: there is no such column.
    """
    metric = next((one for one in sweep.metrics if one.name == y), None) if y else sweep.metric
    if metric is None:
        names = [one.name for one in sweep.metrics]
        raise SweepError(f"{y} is no metric of the sweep{nearest(str(y), names)}; there are: {', '.join(names)}")
    title = f"Pareto front: {metric.name} against {x}"
    trials = valued(sweep)
    costs = _costs(trials, x)
    kept = trials.assign(x=costs, y=trials.get(f"{metric.name}.best", np.nan)).dropna(subset=["x", "y"])
    if kept.empty:
        why = f"no trial has both {metric.name} and {x}" if len(trials) else _too_few(sweep, trials, [])
        return nothing(title, why)
    sign_x, sign_y = -1 if x == "speed" else 1, 1 if metric.mode == "min" else -1
    front, least = [], np.inf
    for name, row in kept.assign(a=sign_x * kept["x"], b=sign_y * kept["y"]).sort_values(["a", "b"]).iterrows():
        if row["b"] < least:
            front.append(name)
            least = row["b"]
    note = f"{len(kept)} trials, {len(front)} on the front"
    if missing := len(trials) - len(kept):
        note += f"; {missing} without {metric.name} or {x}"
    made = figure(title, note=note, xaxis_title=x, yaxis_title=f"best {metric.name}")
    texts = pd.Series(hovers(kept, sweep.params, metric.name), index=kept.index)
    for state, part in kept.groupby("state", sort=False):
        made.add_scatter(
            x=part["x"], y=part["y"], mode="markers", name=str(state), hovertext=texts[part.index],
            hovertemplate=f"%{{hovertext}}<br>{x} %{{x:.4g}}<extra></extra>",
            marker={"color": STATES[str(state)], "size": 8, "opacity": 0.7},
        )  # fmt: skip
    best = kept.loc[front]
    made.add_scatter(
        x=best["x"], y=best["y"], mode="lines+markers", name="front", hovertext=texts[front],
        hovertemplate=f"%{{hovertext}}<br>{x} %{{x:.4g}}<extra></extra>", line={"color": BEST, "shape": "hv"},
        marker={"color": BEST, "size": 10, "symbol": "circle-open", "line": {"width": 2}},
    )  # fmt: skip
    return made


def _costs(trials: pd.DataFrame, x: str) -> pd.Series:
    seen = [name for name in trials if str(name).startswith("seen.")]
    if x == "speed":
        if not seen or trials.empty:
            return pd.Series(np.nan, index=trials.index)
        return trials[seen[0]].astype(float) / trials["wall"].astype(float).where(trials["wall"] > 0)
    if x not in trials or not (trials[x].isna().all() or is_number(trials[x])):
        numbers = ["speed", *(str(name) for name in trials if is_number(trials[name]))]
        raise SweepError(f"{x} is no column of numbers{nearest(x, numbers)}; there are: {', '.join(numbers)}")
    return trials[x].astype(float)


def repeats(sweep: Sweep | Sweeps) -> Any:
    """Return the mean of each point's repeats, with the interval that holds the true mean 95 times in 100."""
    title, metric = f"Repeats: {sweep.metric.name}", sweep.metric
    if isinstance(sweep, Sweeps):
        return nothing(title, ONE)
    if sweep.spec.get("repeats", 1) < 2:
        return nothing(title, "each point was tried once; repeats: 3 in the sweep file tries it with three seeds")
    groups = [group for group in sweep.state.ranked_groups(metric.name, metric.mode) if group.mean is not None][:40]
    if not groups:
        return nothing(title, f"no trial has a value of {metric.name} yet")
    names = [f"point {group.group}" for group in groups]
    lone = sum(group.low is None for group in groups)
    note = "means and their 95 % intervals, best first; each seed is a dot"
    note += f"; {lone} points have one value so far, and no interval" if lone else ""
    made = figure(title, note=note, height=max(320, 130 + 24 * len(groups)), xaxis_title=f"best {metric.name}")
    texts = dict(zip(sweep.trials.index, hovers(sweep.trials, sweep.params, metric.name), strict=True))
    dots = [(name, trial) for name, group in zip(names, groups, strict=True) for trial in group.trials if trial.usable]
    known = [(name, trial, best[0]) for name, trial in dots if (best := trial.best(metric.name, metric.mode))]
    made.add_scatter(
        x=[value for _, _, value in known], y=[name for name, _, _ in known], mode="markers", name="one seed",
        hovertext=[texts[trial.name] for _, trial, _ in known], hovertemplate="%{hovertext}<extra></extra>",
        marker={"size": 7, "color": STATES["waiting"], "opacity": 0.8},
    )  # fmt: skip
    made.add_scatter(
        x=[group.mean for group in groups], y=names, mode="markers", name="mean",
        hovertext=[texts[group.trials[0].name] for group in groups],
        hovertemplate="mean %{x:.4g}<br>%{hovertext}<extra></extra>", marker={"size": 10, "color": BEST},
        error_x={"array": [0 if g.high is None else g.high - (g.mean or 0) for g in groups], "color": BEST},
    )  # fmt: skip
    made.update_yaxes(categoryorder="array", categoryarray=names[::-1])
    return made


def _known(sweep: Sweep | Sweeps, key: str) -> str:
    if key not in sweep.params:
        raise SweepError(f"{key} is no key of the space{nearest(key, sweep.params)}; it has: {', '.join(sweep.params)}")
    return key


def _too_few(sweep: Sweep | Sweeps, trials: pd.DataFrame, keys: Sequence[str]) -> str:
    if len(trials) > 1 and not keys:
        return f"no parameter differs between the {len(trials)} trials that have a value of {sweep.metric.name}"
    have = {0: "no trial has", 1: "only one trial has"}.get(len(trials), f"{len(trials)} trials have")
    return f"{have} a value of {sweep.metric.name}"
