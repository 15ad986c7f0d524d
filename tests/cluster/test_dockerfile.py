"""``cluster/Dockerfile``, which nothing here can build: what it copies is there, and of that its wheel can be made."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "cluster" / "Dockerfile").read_text().replace("\\\n", " ")
LINES = [line.split(maxsplit=1) for line in TEXT.splitlines() if line and not line.startswith("#")]


def said(instruction: str) -> list[str]:
    return [rest for name, rest in LINES if name == instruction]


def copied() -> list[str]:
    """What comes from the clone."""
    words = [shlex.split(rest) for rest in said("COPY") if "--from=" not in rest]
    return [word for line in words for word in line[:-1] if not word.startswith("--")]


def test_what_it_says() -> None:
    assert {name for name, _ in LINES} <= {"FROM", "RUN", "COPY", "WORKDIR", "ENV", "USER"}
    assert said("FROM") == ["nvidia/cuda:12.9.1-runtime-ubuntu24.04 AS python", "python AS wheel", "python"]
    assert all((ROOT / path).exists() for path in copied())
    assert any("useradd" in run and "--uid 1001" in run for run in said("RUN"))
    assert said("USER") == ["1001"], "Kubernetes takes a number for somebody who is not root, a name it does not"
    assert all("--no-cache-dir" in run for run in said("RUN") if "/pip " in run)
    assert all("rm -rf /var/lib/apt/lists/*" in run for run in said("RUN") if "apt-get" in run)


@pytest.mark.slow
def test_the_wheel_is_made_of_what_it_copies(tmp_path: Path) -> None:
    source = tmp_path / "src"
    source.mkdir()
    for path in copied():
        if (ROOT / path).is_dir():
            shutil.copytree(ROOT / path, source / path, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / path, source)
    (wheel,) = [run for run in said("RUN") if "pip wheel" in run]
    options = shlex.split(wheel.partition("pip ")[2].replace("/wheel", str(tmp_path / "wheel")))
    subprocess.run([sys.executable, "-m", "pip", *options], cwd=source, check=True, capture_output=True)
    (made,) = (tmp_path / "wheel").glob("*.whl")
    with zipfile.ZipFile(made) as archive:
        names = archive.namelist()
        (about,) = [name for name in names if name.endswith("METADATA")]
        extras = [line for line in archive.read(about).decode().splitlines() if line.startswith("Provides-Extra")]
    assert "rayconvai/configs/asr/conformer_ctc.yaml" in names
    assert {"Provides-Extra: cloud", "Provides-Extra: demo"} <= set(extras)
