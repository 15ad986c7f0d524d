"""Tables in the docs that are made from code."""

from __future__ import annotations

from pathlib import Path

from rayconvai.experiment.reference import options_table

DOCS = Path(__file__).parents[2] / "docs"


def test_the_option_table_is_up_to_date() -> None:
    text = (DOCS / "exp_manager.md").read_text(encoding="utf-8")
    table = text.partition("<!-- options -->\n")[2].partition("<!-- end of options -->")[0]
    assert table == options_table(), "put in what python -m rayconvai.experiment.reference prints"


def test_every_option_says_what_it_does() -> None:
    assert [line for line in options_table().splitlines() if line.endswith("|  |")] == []
