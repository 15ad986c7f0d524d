"""Manifests of texts: JSON lines, one text a line, with whatever is said of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from typing_extensions import Self

from rayconvai.data.lines import JsonLines, Row


class TextManifest(JsonLines[Row]):
    """Rows as they are written; who reads them says which keys there must be, and checks them."""

    noun = "texts"

    @classmethod
    def open(cls, path: str | Path, split: str | None = None) -> Self:
        path = Path(path).expanduser().absolute()
        return cls(path, cls._scan(path, split))

    def fingerprint(self) -> dict[str, Any]:
        """Return ``{"sha256", "texts"}``; the digest is over all keys of each row but ``split``, in their order."""
        return {"sha256": self.digest(), "texts": len(self)}

    def portable_rows(self) -> Iterator[Row]:
        return iter(self)

    def _example(self, row: Row, line: int) -> Row:
        return row

    def _seen(self, row: Row) -> Sequence[Any]:
        return [(name, row[name]) for name in sorted(row) if name != "split"]

    def __repr__(self) -> str:
        return f"TextManifest({str(self.path)!r}, {len(self)} texts)"
