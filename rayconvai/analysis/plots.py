"""The plots of a sweep. Each takes a ``Sweep`` and returns a plotly figure; one that has nothing to show says why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rayconvai.analysis.curves import learning_curves, lineage, timeline
from rayconvai.analysis.importance import importance
from rayconvai.analysis.points import contours, parallel, pareto, repeats, slices

__all__ = [
    "ALL", "contours", "importance", "learning_curves", "lineage", "parallel", "pareto", "repeats", "slices",
    "timeline",
]  # fmt: skip

ALL: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "learning_curves": ("Learning curves", learning_curves),
    "parallel": ("Parallel coordinates", parallel),
    "importance": ("Importance of the parameters", importance),
    "slices": ("Slices", slices),
    "contours": ("Contours", contours),
    "pareto": ("Pareto front", pareto),
    "repeats": ("Repeats", repeats),
    "timeline": ("Timeline", timeline),
    "lineage": ("Lineage", lineage),
}
"""Name -> title and plot, in the order of a report."""
