"""Plots over time: learning curves, who worked where and when, and who went on from whom."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from rayconvai.analysis.load import Sweep, Sweeps, check_metric
from rayconvai.analysis.style import BEST, ENDS, STATES, figure, hovers, nothing, shown
from rayconvai.sweep.state import trial_name

MOST = 300
"""So many curves at most: a browser cannot show thousands."""
ONE = "shown of one sweep at a time, not of several together"


def learning_curves(sweep: Sweep | Sweeps, metric: str | None = None, top: int | None = None) -> Any:
    """Return a metric by epoch, a line for each trial, and where the scheduler stopped it.

    Args:
        sweep: what to show.
        metric: that which ranks unless named.
        top: only the best so many trials; the best 300 of more.

    Raises:
        SweepError: no trial has reported the metric.
    """
    name = check_metric(sweep, metric)
    title = f"Learning curves: {name}"
    trials, epochs = sweep.trials, sweep.epochs
    rows = epochs[epochs["metric"] == name]
    rows = rows[np.isfinite(rows["value"])]
    if rows.empty:
        return nothing(title, f"no trial has reported {name} yet")
    limit = min(top or MOST, MOST)
    places = trials["rank"].astype(float)
    chosen = places.sort_values(na_position="last").index[:limit]
    rows = rows[rows["trial"].isin(chosen)]
    curves = dict(iter(rows.groupby("trial", observed=True, sort=False)[["epoch", "value"]]))
    note = f"the best {limit} of {len(trials)} trials" if limit < len(trials) else f"{len(trials)} trials"
    counts = trials.loc[chosen, "state"].value_counts()
    silent = sum(trial not in curves for trial in chosen)
    note += f", of which {silent} have not reported it" if silent else ""
    note += f"; x: the {counts['stopped']} that were stopped early" if counts.get("stopped") else ""
    made = figure(title, note=note, xaxis_title="epoch", yaxis_title=name)
    texts = dict(zip(trials.index, hovers(trials, sweep.params, sweep.metric.name), strict=True))
    best = places.idxmin() if places.notna().any() else None
    for state, colour in STATES.items():
        members = [trial for trial in chosen if trial in curves and trials.at[trial, "state"] == state]
        if members:
            _lines(made, {trial: curves[trial] for trial in members}, state, colour, texts)
    if best in curves:
        part = curves[best]
        made.add_scattergl(
            x=part["epoch"], y=part["value"], mode="lines+markers", name=f"best: {best}", text=texts[best],
            line={"color": BEST, "width": 3}, marker={"size": 5},
            hovertemplate="%{text}<br>epoch %{x}: %{y:.4g}<extra></extra>",
        )  # fmt: skip
    return made


def _lines(made: Any, curves: dict[str, pd.DataFrame], state: str, colour: str, texts: dict[str, str]) -> None:
    """Add the curves of a state as one trace, with gaps between, and a mark where each ends."""
    x: list[Any] = []
    y: list[Any] = []
    names: list[str | None] = []
    for trial, part in curves.items():
        x += [*part["epoch"], None]
        y += [*part["value"], None]
        names += [*[trial] * len(part), None]
    made.add_scattergl(
        x=x, y=y, mode="lines", name=state, legendgroup=state, text=names, connectgaps=False, opacity=0.55,
        line={"color": colour, "width": 1.2}, hovertemplate="%{text}, epoch %{x}: %{y:.4g}<extra></extra>",
    )  # fmt: skip
    ends = [part.iloc[-1] for part in curves.values()]
    symbol = "x" if state in ("stopped", "failed", "infeasible") else "circle"
    made.add_scattergl(
        x=[end["epoch"] for end in ends], y=[end["value"] for end in ends], mode="markers", legendgroup=state,
        showlegend=False, name=state, text=[texts[trial] for trial in curves],
        marker={"color": colour, "size": 7, "symbol": symbol},
        hovertemplate=f"%{{text}}<br>{state} at epoch %{{x}}: %{{y:.4g}}<extra></extra>",
    )  # fmt: skip


def timeline(sweep: Sweep | Sweeps) -> Any:
    """Return when each attempt was at work, on which node, and how it ended."""
    title = "Timeline"
    if isinstance(sweep, Sweeps):
        return nothing(title, ONE)
    attempts = sweep.attempts
    if attempts.empty:
        return nothing(title, "no trial has begun yet")
    attempts = attempts.assign(node=attempts["node"].fillna("node not known"))
    lanes, order = _lanes(attempts)
    unknown = (attempts["node"] == "node not known").sum()
    note = f"{len(attempts)} attempts at {attempts['trial'].nunique()} trials"
    note += f"; of {unknown} the journal does not say the node" if unknown else ""
    made = figure(title, note=note, barmode="overlay", height=max(300, 120 + 18 * len(order)), bargap=0.15)
    points = dict(zip(sweep.trials.index, hovers(sweep.trials, sweep.params, sweep.metric.name), strict=True))
    for how, colour in {**STATES, **ENDS}.items():
        part = attempts[attempts["how"] == how]
        if len(part):
            seconds = (part["ended"] - part["began"]).dt.total_seconds()
            texts = [
                f"{points[trial]}<br>attempt {attempt}, {_span(length)}, then {how}"
                for trial, attempt, length in zip(part["trial"], part["attempt"], seconds, strict=True)
            ]
            made.add_bar(
                base=part["began"], x=1000 * seconds, y=[lanes[row] for row in part.index], orientation="h", name=how,
                text=part["trial"], textposition="inside", insidetextanchor="middle", textangle=0, hovertext=texts,
                marker={"color": colour, "line": {"width": 0}}, hovertemplate="%{hovertext}<extra></extra>",
            )  # fmt: skip
    made.update_layout(uniformtext={"minsize": 9, "mode": "hide"})  # names that do not fit their bar
    made.update_xaxes(type="date")
    made.update_yaxes(categoryorder="array", categoryarray=order[::-1])
    return made


def _lanes(attempts: pd.DataFrame) -> tuple[dict[Any, str], list[str]]:
    """Give each attempt a line of its node that is free."""
    free: dict[str, list[Any]] = {}
    lanes: dict[Any, tuple[str, int]] = {}
    for row, node, began, ended in zip(
        attempts.index, attempts["node"], attempts["began"], attempts["ended"], strict=True
    ):
        lines = free.setdefault(node, [])
        at = next((place for place, end in enumerate(lines) if end <= began), len(lines))
        lines[at : at + 1] = [ended]
        lanes[row] = (node, at)
    order = [f"{node} | {at + 1}" for node in sorted(free) for at in range(len(free[node]))]
    return {row: f"{node} | {at + 1}" for row, (node, at) in lanes.items()}, order


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def lineage(sweep: Sweep | Sweeps) -> Any:
    """Return, of population based training, who went on from whose weights, at which epoch."""
    title = "Lineage"
    if isinstance(sweep, Sweeps):
        return nothing(title, ONE)
    exploits = [(trial, exploit) for trial in sweep.state.trials.values() for exploit in trial.exploits]
    if not exploits:
        scheduler = sweep.spec.get("scheduler", {}).get("name", "another")
        why = "" if scheduler == "pbt" else f" (the scheduler is {scheduler}, not pbt)"
        return nothing(title, f"no trial took over another's weights{why}")
    metric = sweep.metric
    made = figure(
        title, note=f"{len(exploits)} times a trial went on from a better one's weights, with a changed point",
        xaxis_title="epoch", height=max(320, 140 + 22 * len(sweep.state.trials)),
    )  # fmt: skip
    lines_x: list[Any] = []
    lines_y: list[Any] = []
    for trial, exploit in exploits:
        lines_x += [exploit.epoch, exploit.epoch, None]
        lines_y += [trial_name(exploit.donor), trial.name, None]
    x, y, values, texts = [], [], [], []
    for trial in sweep.state.trials.values():
        curve = trial.curve(metric.name)
        for epoch, value in curve.items():
            x.append(epoch)
            y.append(trial.name)
            values.append(value)
            texts.append(f"<b>{trial.name}</b> epoch {epoch}<br>{metric.name} {value:.4g}")
    made.add_scatter(x=lines_x, y=lines_y, mode="lines", line={"color": BEST, "width": 1.5}, name="weights taken over")
    made.add_scatter(
        x=x, y=y, mode="markers", name=metric.name, hovertext=texts, hovertemplate="%{hovertext}<extra></extra>",
        marker={"size": 9, "color": values, "colorscale": SCALE_BY_MODE[metric.mode],
                "colorbar": {"title": metric.name}},
    )  # fmt: skip
    made.add_scatter(
        x=[exploit.epoch for _, exploit in exploits], y=[trial.name for trial, _ in exploits], mode="markers",
        marker={"symbol": "circle-open", "size": 14, "color": BEST, "line": {"width": 2}}, name="a new point",
        hovertext=[
            f"<b>{trial.name}</b> goes on from {trial_name(exploit.donor)} after epoch {exploit.epoch}<br>"
            + "<br>".join(f"{key} {shown(value)}" for key, value in exploit.point.items())
            for trial, exploit in exploits
        ],
        hovertemplate="%{hovertext}<extra></extra>",
    )  # fmt: skip
    made.update_yaxes(categoryorder="array", categoryarray=[t.name for t in sweep.state.trials.values()][::-1])
    return made


SCALE_BY_MODE = {"min": "Viridis_r", "max": "Viridis"}
"""The best is bright."""
