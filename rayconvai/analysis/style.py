"""How all figures look, on light paper and on dark, and what one says that has nothing to show."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from rayconvai._optional import require

STATES = {
    "finished": "#0f9d76", "stopped": "#e69f00", "running": "#2f7ed8", "paused": "#b279c6", "waiting": "#9aa0a6",
    "infeasible": "#d55e00", "failed": "#c1272d",
}  # fmt: skip
"""A trial's colour, everywhere; clear to the colour-blind, on white and on black."""
ENDS = {"lost": "#c1272d", "killed": "#7f3b3b", "interrupted": "#9aa0a6"}
"""Of attempts that ended in another way than a trial does."""
BEST = "#e5338f"
SCALE = "Viridis"
_INK, _GRID = "#808890", "rgba(128,136,144,0.25)"


def figure(title: str, *, note: str = "", **layout: Any) -> Any:
    """Return an empty figure with a title, and under it a note."""
    go: Any = require("plotly.graph_objects", extra="analysis")
    axis = {"gridcolor": _GRID, "zerolinecolor": _GRID, "linecolor": _GRID, "automargin": True}
    under = f"<br><span style='font-size:12px;color:{_INK}'>{note}</span>" if note else ""
    made = go.Figure(
        layout={
            "title": {"text": title + under, "x": 0, "xanchor": "left", "xref": "paper", "font": {"size": 16}},
            "font": {"family": "system-ui, sans-serif", "size": 12, "color": _INK},
            "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)", "template": "none",
            "margin": {"l": 60, "r": 20, "t": 70, "b": 50}, "hoverlabel": {"align": "left"},
            "legend": {"orientation": "h", "y": 1, "yanchor": "bottom", "x": 1, "xanchor": "right"},
        }
    )  # fmt: skip
    made.update_layout(**layout)
    made.update_xaxes(**axis)
    made.update_yaxes(**axis)
    return made


def nothing(title: str, why: str) -> Any:
    """Return a figure that says why it shows nothing."""
    made = figure(title)
    text = "<br>".join(textwrap.wrap(why, 42))
    made.add_annotation(text=text, x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False, font={"size": 14})
    made.update_xaxes(visible=False)
    made.update_yaxes(visible=False)
    return made


def dressed(made: Any) -> Any:
    """Give all axes of a figure, those of subplots too, their look."""
    axis = {"gridcolor": _GRID, "zerolinecolor": _GRID, "linecolor": _GRID, "automargin": True}
    made.update_xaxes(**axis)
    made.update_yaxes(**axis)
    return made


def hovers(trials: pd.DataFrame, params: Sequence[str], metric: str) -> list[str]:
    """Return for each trial its name, state, metric and point, for the mouse."""
    best = f"{metric}.best" if f"{metric}.best" in trials else metric
    texts = []
    for name, row in zip(trials.index, trials.to_dict("records"), strict=True):
        value = row.get(best)
        lines = [f"<b>{name}</b> {row['state']}, epoch {row['epoch']}"]
        lines += [f"{metric} {value:.4g}"] if value is not None and np.isfinite(value) else []
        lines += [f"{key} {shown(row[key])}" for key in params if not _missing(row[key])]
        texts.append("<br>".join(lines))
    return texts


def shown(value: Any) -> str:
    """Return a value as it is read."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def is_number(values: pd.Series) -> bool:
    """Tell whether a parameter is one of numbers; truth values and texts are options."""
    known = values.dropna()
    return len(known) > 0 and all(isinstance(v, (int, float, np.number)) and not isinstance(v, bool) for v in known)


def options(values: pd.Series) -> list[str]:
    """Return the options of a parameter that is not one of numbers, in order."""
    return sorted({str(value) for value in values.dropna()})


def is_log(values: pd.Series, log_params: set[str]) -> bool:
    """Tell whether a parameter's axis is logarithmic: it was searched so, and has no value that could not be shown."""
    return values.name in log_params and is_number(values) and bool((values.dropna().astype(float) > 0).all())


def axis_of(values: pd.Series, log_params: set[str]) -> dict[str, Any]:
    """Return the kind of axis that a parameter is shown on."""
    if not is_log(values, log_params):
        return {"type": "linear" if is_number(values) else "category"}
    span = np.log10(float(values.max()) / float(values.min()))
    return {"type": "log", "exponentformat": "power", **({"dtick": 1} if span > 1.5 else {})}


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and np.isnan(value))
