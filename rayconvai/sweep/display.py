"""What a sweep shows: a live table in a terminal, plain lines in a log, and the final table."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text
from typing_extensions import Self

from rayconvai.sweep.journal import ENDED, SweepState, TrialRecord
from rayconvai.sweep.spec import MetricSpec

_COLOURS = {"finished": "green", "stopped": "yellow", "infeasible": "magenta", "failed": "red", "running": "cyan"}


class Display:
    """Shows a sweep while it runs; a context manager around it."""

    def __init__(self, state: SweepState, metric: MetricSpec, total: int | None, console: Console) -> None:
        self.state, self.metric, self.total, self.console = state, metric, total, console
        self.began = time.monotonic()
        self.ended_before = state.count(*ENDED)
        self.live: Live | None = None

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.live = Live(get_renderable=self._render, console=self.console, refresh_per_second=2, transient=True)
            self.live.__enter__()
        return self

    def __exit__(self, *_: Any) -> None:
        if self.live is not None:
            self.live.__exit__(None, None, None)

    def reported(self, trial: TrialRecord) -> None:
        """A trial has reported an epoch."""
        if self.live is None and trial.epoch == 1:
            self._line(f"{trial.name} is under way: {_point(trial)}")

    def ended(self, trial: TrialRecord) -> None:
        """A trial has come to its end."""
        if self.live is None:
            best = trial.best(self.metric.name, self.metric.mode)
            value = f", best {self.metric.name} {best[0]:.4g} (epoch {best[1]})" if best else ""
            reason = f": {trial.reason}" if trial.reason else ""
            self._line(f"{trial.name} {trial.status} after epoch {trial.epoch}{value}{reason} | {self._summary()}")

    def lost(self, trial: TrialRecord) -> None:
        """A trial's process died; it will be tried again."""
        if self.live is None:
            self._line(f"{trial.name} was lost ({trial.reason}); it will be tried again")

    def _line(self, text: str) -> None:
        self.console.print(
            f"[{_duration(time.monotonic() - self.began)}] {text}", markup=False, highlight=False, soft_wrap=True
        )

    def _summary(self) -> str:
        ended = self.state.count(*ENDED)
        parts = [f"{ended}{f' of {self.total}' if self.total else ''} ended"]
        ranked = self.state.ranked(self.metric.name, self.metric.mode)
        best = ranked[0].best(self.metric.name, self.metric.mode) if ranked else None
        if best:
            parts.append(f"best {self.metric.name} {best[0]:.4g} ({ranked[0].name})")
        left = self._left(ended)
        if left is not None:
            parts.append(f"about {_duration(left)} left")
        return ", ".join(parts)

    def _left(self, ended: int) -> float | None:
        """Estimate from the pace of the trials that ended in this session."""
        done = ended - self.ended_before
        if not done or self.total is None:
            return None
        return (time.monotonic() - self.began) / done * max(0, self.total - ended)

    def _render(self) -> Group:
        counts = Counter(trial.status for trial in self.state.trials.values())
        states = Text("  ").join(
            Text(f"{count} {status}", _COLOURS.get(status, "")) for status, count in counts.items()
        )
        head = Text(f"{_duration(time.monotonic() - self.began)}  {self._summary()}")
        running = [trial for trial in self.state.trials.values() if trial.status == "running"]
        top = [trial for trial in self.state.ranked(self.metric.name, self.metric.mode)[:5] if trial not in running]
        return Group(head, states, trial_table([*running, *top], self.metric))


def trial_table(trials: list[TrialRecord], metric: MetricSpec) -> Table:
    """Make the table of trials, in the order given."""
    keys = list(dict.fromkeys(key for trial in trials for key in trial.point))
    reasons = any(trial.reason for trial in trials)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("trial", "status", metric.name, "at epoch", "epochs", "time"):
        table.add_column(name, justify="left" if name in ("trial", "status") else "right", no_wrap=True)
    for key in _short_names(keys):
        table.add_column(key, overflow="fold")
    if reasons:
        table.add_column("reason", overflow="fold")
    for trial in trials:
        best = trial.best(metric.name, metric.mode)
        seconds = trial.ended - trial.began if trial.ended and trial.began else None
        row: list[str | Text] = [
            trial.name,
            Text(trial.status, _COLOURS.get(trial.status, "")),
            f"{best[0]:.4f}" if best else "-",
            str(best[1]) if best else "-",
            str(trial.epoch),
            _duration(seconds) if seconds is not None else "-",
            *(_value(trial.point.get(key)) for key in keys),
        ]
        table.add_row(*row, *([trial.reason] if reasons else []))
    return table


def _short_names(keys: list[str]) -> list[str]:
    """Shorten dotted keys to as many last parts as keep them apart."""
    names = []
    for key in keys:
        parts = key.split(".")
        size = next(
            size
            for size in range(1, len(parts) + 1)
            if sum((f".{other}").endswith("." + ".".join(parts[-size:])) for other in keys) == 1 or size == len(parts)
        )
        names.append(".".join(parts[-size:]))
    return names


def _point(trial: TrialRecord) -> str:
    return ", ".join(f"{key}={_value(value)}" for key, value in trial.point.items())


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
