"""A report's HTML: its sections from the templates in ``page/``, and the whole page with style, script and plotly.

Whatever comes from data is escaped: by the templates as text, in figures as JSON that holds no ``<``. Besides, the
page's policy lets no script run but its own two.
"""

from __future__ import annotations

import base64
import hashlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from rayconvai import __version__
from rayconvai._optional import require
from rayconvai.analysis import account, story
from rayconvai.analysis.advice import next_steps
from rayconvai.analysis.load import Sweep
from rayconvai.analysis.plots import ALL
from rayconvai.analysis.samples import to_html
from rayconvai.analysis.table import trial_rows
from rayconvai.errors import SweepError
from rayconvai.sweep.show import leader
from rayconvai.sweep.store import open_store

_PAGE = Path(__file__).with_name("page")
_SAMPLES = 6
_HEIGHT, _TOP, _TITLE = 420, 30, 25
"""Pixels: of a plot unless it says so itself, the least above it, and what a title would have taken of that."""
_LEAST = {"parallel": 720, "slices": 720, "timeline": 560}
"""Pixels that figures of many columns are wide at least: a phone's window is moved over them."""
_HALF = ("pareto", "repeats")
"""Figures that stand side by side."""


@dataclass(frozen=True)
class Section:
    """A part of the page that is refreshed as one."""

    id: str
    title: str
    """In the navigation; empty: it is not there."""
    html: Markup

    @property
    def version(self) -> str:
        """Tells whether it has changed."""
        return hashlib.sha256(self.html.encode()).hexdigest()[:16]


def sections(sweep: Sweep) -> list[Section]:
    """Tell the sweep's story; the sections and their order are the same for every sweep."""
    told = story.Told(sweep, open_store(sweep.place).holder(), _card(sweep))
    return [
        _section("summary", "Summary", story.summary(told)),
        _section("asked", "Question", story.asked(told)),
        _section("sure", "Certainty", story.sure(told)),
        _section("failures", "Failures", story.failures(told)),
        _section("trials", "Trials", trial_rows(told.state)),
        *_figures(sweep),
        _section("samples", "Samples", _samples(told)),
        _section("cost", "Cost", account.cost(told)),
        _section("provenance", "Provenance", account.provenance(told)),
        _section("next", "Next", {"steps": next_steps(told)}),
    ]


def whole_page(name: str, parts: list[Section], live: int = 0) -> str:
    """Return the report as one HTML document.

    Args:
        name: the sweep's.
        parts: what it is made of.
        live: milliseconds from one refresh to the next, where it is served; 0: it stays as it is.

    Raises:
        ConfigError: plotly is not installed.
    """
    scripts = [Markup(text) for text in (_plotly(), _file("report.js"))]
    content = {"name": name, "sections": parts, "version": __version__, "made": now(), "live": live}
    page = {"style": Markup(_file("style.css")), "scripts": scripts, "policy": _policy(scripts, live)}
    return str(_template("report").render(content | page))


def now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")


def _section(name: str, title: str, content: dict[str, Any]) -> Section:
    return Section(name, title, Markup(_template(name).render(content)))


def _card(sweep: Sweep) -> dict[str, Any]:
    try:
        return sweep.card
    except SweepError:  # it has not been promoted
        return {}


def _figures(sweep: Sweep) -> Iterator[Section]:
    to_json = require("plotly.io.json", extra="analysis").to_json_plotly
    for place, (name, (title, draw)) in enumerate(ALL.items()):
        figure = draw(sweep).to_plotly_json()
        layout = figure["layout"]
        # The page writes the title, which a narrow plot would cut.
        heading, _, note = layout.pop("title", {}).get("text", title).partition("<br>")
        layout["margin"]["t"] = max(_TOP, layout["margin"]["t"] - _TITLE)
        missing = [] if figure["data"] else [note["text"] for note in layout.get("annotations", [])]
        content = {
            "missing": _plain(" ".join(missing)),
            "title": _plain(heading),
            "note": _plain(note),
            "data": Markup(to_json(figure).replace("<", "\\u003c")),
            "least": _LEAST.get(name, 0),
            "height": layout.get("height") or _HEIGHT,
            "wide": name not in _HALF,
        }
        yield Section(f"plot-{name}", "Plots" if place == 0 else "", Markup(_template("figure").render(content)))


def _plain(text: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", text).split())


def _samples(told: story.Told) -> dict[str, Any]:
    """What the best model made of examples; while there is none, what the best trial makes of them so far."""
    best = leader(told.state)
    found, who = told.sweep.samples(n=_SAMPLES), f"the best model, on {told.card.get('measured_on', 'test')}"
    if not found and best:
        name = story.winner(best, told.state.metrics[0]).name
        found, who = told.sweep.samples(name, n=_SAMPLES), f"{name} at its last validation"
    if not found:
        return {
            "samples": "",
            "about": "No samples were kept: the model shows none, or no validation is over yet.",
        }
    return {
        "samples": Markup(to_html(found)),
        "about": f"What was made of {len(found)} examples by {who}: the worst first, then the best.",
    }


def _policy(scripts: list[Markup], live: int) -> str:
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    rules = [
        "default-src 'none'",
        f"script-src 'unsafe-eval' {allowed}",  # plotly compiles the shaders of its parallel coordinates
        "style-src 'unsafe-inline'",
        "img-src data: blob:",
        "media-src data:",
        "connect-src 'self'" if live else "connect-src 'none'",
    ]
    return "; ".join(rules)


@cache
def _environment() -> Environment:
    return Environment(loader=FileSystemLoader(_PAGE), autoescape=True, undefined=StrictUndefined)


def _template(name: str) -> Any:
    return _environment().get_template(f"{name}.html")


def _file(name: str) -> str:
    return (_PAGE / name).read_text(encoding="utf-8")


@cache
def _plotly() -> str:
    return str(require("plotly.offline", extra="analysis").get_plotlyjs())
