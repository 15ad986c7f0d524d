"""Sweeps that are written down, and their reports."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from served import Served
from written import Written, points, write_sweep

from rayconvai.analysis import serve


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of 200 trials."""
    return write_sweep(tmp_path_factory.mktemp("large") / "written").directory


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setattr(serve, "SHARE", 0)  # it may look again at once
    sweep = Written(tmp_path / "written")
    for number, (point, values) in enumerate(points(3)):
        sweep.trial(number, point, values, "finished")
    found = Served(sweep)
    yield found
    found.end()
