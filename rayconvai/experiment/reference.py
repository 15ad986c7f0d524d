"""``python -m rayconvai.experiment.reference``: the table of all options, as it stands in docs/exp_manager.md."""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any

from rayconvai.experiment.options import ExpManagerConfig


def options_table() -> str:
    """Return the options as a Markdown table: key, type, default, what it does."""
    rows = "".join(
        f"| `{key}` | {kind} | {default} | {text} |\n" for key, kind, default, text in _rows(ExpManagerConfig)
    )
    return f"| Option | Type | Default | |\n| --- | --- | --- | --- |\n{rows}"


def _rows(owner: type[Any], prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    texts = _texts(owner)
    for option in fields(owner):
        section: Any = option.default_factory
        if isinstance(section, type) and is_dataclass(section):
            about = " ".join((section.__doc__ or "").split())
            yield prefix + option.name, "section", "", about
            yield from _rows(section, f"{prefix}{option.name}.")
        else:
            kind = str(option.type).replace(" | ", " or ").replace("None", "null")
            yield prefix + option.name, f"`{kind}`", f"`{_default(option)}`", texts.get(option.name, "")


def _default(option: Field[Any]) -> str:
    value = option.default if option.default_factory is MISSING else option.default_factory()
    return json.dumps(value)


def _texts(owner: type[Any]) -> dict[str, str]:
    """Return what stands below each field in the source."""
    [definition] = ast.parse(inspect.getsource(owner)).body
    assert isinstance(definition, ast.ClassDef)
    texts = {}
    for field, below in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            assert isinstance(field.target, ast.Name)
            texts[field.target.id] = re.sub(r"\s+", " ", str(below.value.value)).replace("|", "\\|")
    return texts


if __name__ == "__main__":
    print(options_table(), end="")
