"""The commands of ``cluster/README.md``: those that need no cloud are run, Ray's others are at least such as it takes.

``ray job submit`` is run on a local cluster elsewhere; what is the clouds' own (aws, gcloud, az, kubectl) is not.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import click
import pytest
from moto.server import ThreadedMotoServer
from ray.dashboard.modules.job.cli import job_cli_group
from ray.scripts.scripts import cli

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "cluster" / "README.md").read_text()
BLOCKS = re.findall(r"^```\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
COMMANDS = [line.partition("     #")[0] for block in BLOCKS for line in block.splitlines() if not line.startswith("#")]
CLOUDS = ("aws ", "gcloud ", "az ", "kubectl ", "docker ", "for ")
OURS = [command for command in COMMANDS if not command.startswith(CLOUDS)]


def started_with(*words: str) -> list[str]:
    return [command for command in OURS if command.startswith(words)]


def test_all_are_known_and_name_files_that_are_there() -> None:
    assert {command.split()[0] for command in OURS} == {"(umask", "ray", "python", "set", "export"}
    files = re.findall(r"(?:cluster|sweeps|docs)/[\w./-]+\w", TEXT) + re.findall(r"\| ?`([\w.-]+)`", TEXT)
    assert len(files) > 10
    assert all((ROOT / file).exists() or (ROOT / "cluster" / file).exists() for file in files)


@pytest.mark.parametrize("command", started_with("ray "))
def test_ray_takes_it(command: str) -> None:
    name, *arguments = shlex.split(command)[1:]
    group: click.Group = cli
    if name == "job":
        group, (name, *arguments) = job_cli_group, arguments
    group.commands[name].make_context(name, arguments)  # raises of what it does not know


def test_the_secret_is_made_and_read(tmp_path: Path) -> None:
    (make,) = started_with("(umask")
    environment = {"HOME": str(tmp_path), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    script = "\n".join([make, *started_with("set ", "export "), "env", "echo RAYS=$(ray get-auth-token)"])
    shown = subprocess.run(
        ["bash", "-ec", script], env=environment | {"WANDB_API_KEY": "4567"}, capture_output=True, text=True, check=True
    )
    said = dict(line.split("=", 1) for line in shown.stdout.splitlines() if "=" in line)
    assert re.fullmatch("[0-9a-f]{64}", said["RAY_AUTH_TOKEN"])
    assert said["RAYS"] == said["RAY_AUTH_TOKEN"]
    assert (said["RAY_AUTH_MODE"], said["WANDB_API_KEY"]) == ("token", "4567")
    assert stat.S_IMODE((tmp_path / ".rayconvai.env").stat().st_mode) == 0o600


@pytest.mark.slow
def test_the_sweep_is_one_that_can_be_run(tmp_path: Path, s3: ThreadedMotoServer) -> None:
    (dry,) = started_with("python -m rayconvai.sweep")
    (submit,) = [command for command in started_with("ray job submit") if "rayconvai.sweep" in command]
    sent = submit.partition(" -- ")[2].replace("BUCKET", "speech")
    assert sent.startswith(dry.removesuffix(" --dry-run"))
    environment = os.environ | {"HOME": str(tmp_path)}
    # There the trials have a GPU, which here is none, and much speech.
    here = [
        *shlex.split(sent.replace("trainer=gpu", "trainer=cpu"))[1:],
        "overrides+=data.corpus.size=300",
        "--dry-run",
    ]
    command = [sys.executable, *here]
    shown = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    (status,) = started_with("python -m rayconvai status")
    command = [sys.executable, *shlex.split(status.replace("BUCKET", "speech"))[1:]]
    shown = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (shown.returncode, "s3://speech/runs/asr holds no sweep" in shown.stderr) == (2, True), (
        shown.stdout + shown.stderr
    )
