"""What a sweep shows while it runs: a live view in a terminal, plain lines in a log."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from typing_extensions import Self

from rayconvai.sweep.show import duration, leader, overview, shown_mean, shown_point, time_left, trial_table
from rayconvai.sweep.spec import MetricSpec
from rayconvai.sweep.state import ENDED, SweepState, TrialRecord, trial_name

_ROWS = 12
"""Trials that run are shown up to this number."""


class Display:
    """Shows a sweep while it runs; a context manager around it."""

    def __init__(self, state: SweepState, metric: MetricSpec, total: int | None, console: Console) -> None:
        self.state, self.metric, self.total, self.console = state, metric, total, console
        self.began = time.monotonic()
        self.live: Live | None = None
        self._view: RenderableType = ""
        self._stale = 0.0

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.live = Live(get_renderable=self._render, console=self.console, refresh_per_second=1, transient=True)
            self.live.__enter__()
        return self

    def __exit__(self, *_: Any) -> None:
        if self.live is not None:
            self._stale = 0.0
            self.live.__exit__(None, None, None)

    def reported(self, trial: TrialRecord) -> None:
        """A trial has reported an epoch."""
        if trial.epoch == 1:
            self._line(f"{trial.name} is under way: {shown_point(trial)}")

    def ended(self, trial: TrialRecord) -> None:
        """A trial has come to its end."""
        if self.live is None:
            best = trial.best(self.metric.name, self.metric.mode)
            value = f", best {self.metric.name} {best[0]:.4g} (epoch {best[1]})" if best else ""
            reason = f": {trial.reason}" if trial.reason else ""
            self._line(f"{trial.name} {trial.status} after epoch {trial.epoch}{value}{reason} | {self._summary()}")

    def lost(self, trial: TrialRecord) -> None:
        """A trial's process died; it will be tried again."""
        self._line(f"{trial.name} was lost ({trial.reason}); it will be tried again")

    def took_over(self, trial: TrialRecord) -> None:
        """A trial goes on from another's weights."""
        last = trial.exploits[-1]
        after = f"takes over from {trial_name(last.donor)} after epoch {last.epoch}"
        self._line(f"{trial.name} {after}: {shown_point(trial)}")

    def _line(self, text: str) -> None:
        if self.live is None:
            self.console.print(
                f"[{duration(time.monotonic() - self.began)}] {text}", markup=False, highlight=False, soft_wrap=True
            )

    def _summary(self) -> str:
        parts = [f"{self.state.count(*ENDED)}{f' of {self.total}' if self.total else ''} ended"]
        if best := leader(self.state):
            parts.append(f"best {self.metric.name} {shown_mean(best)}")
        left = time_left(self.state, self.total)
        if left is not None:
            parts.append(f"about {duration(left)} left")
        return ", ".join(parts)

    def _render(self) -> RenderableType:
        """Make the view, so often that it takes no more than a fiftieth of a core."""
        began = time.monotonic()
        if began >= self._stale:
            self._view = self._fresh()
            self._stale = began + 50 * (time.monotonic() - began)
        return self._view

    def _fresh(self) -> RenderableType:
        # Called from another thread than the driver's: all is copied before it is gone through.
        running = [trial for trial in list(self.state.live.values()) if trial.status == "running"]
        shown = running[:_ROWS]
        more = [f"and {len(running) - _ROWS} more are running"] if len(running) > _ROWS else []
        best = [trial for trial in self.state.ranked(self.metric.name, self.metric.mode)[:5] if trial not in shown]
        return Group(
            overview(self.state, self.total, at_work=True), "", trial_table([*shown, *best], self.metric), *more
        )
