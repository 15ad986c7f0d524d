"""Fixtures for all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# W&B sends reports of its own use otherwise, also of runs that are offline.
os.environ["WANDB_ERROR_REPORTING"] = "false"

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real speech beside the checkout; tests that ask for it are skipped where it is not."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real data is not at {SHARED_DATA}")
    return SHARED_DATA
