"""``ray job submit`` from a clean checkout to a cluster of two nodes that asks for a token: a sweep, and the doctor."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from moto.server import ThreadedMotoServer
from ray._private.ray_constants import get_runtime_env_default_excludes
from ray._private.runtime_env.packaging import create_package
from ray_processes import PATIENCE, RayProcesses, ray_processes

from rayconvai.sweep.journal import iter_records, read_journal

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SWEEP = ("python", "-m", "rayconvai.sweep", "sweeps/smoke.yaml")
TRIALS = 8
"""Of the sweep that is stopped: so many that some are left when it comes to that."""
S3 = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("clean") / "rayconvai"
    subprocess.run(["git", "clone", "-q", str(Path(__file__).parents[2]), str(directory)], check=True)
    return directory


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def cluster(shared: Path) -> Iterator[RayProcesses]:
    with ray_processes(RAYCONVAI_STORAGE=str(shared)) as running:
        yield running


def records(place: str, kind: str) -> list[dict[str, Any]]:
    return [record for record in iter_records(place) if record["kind"] == kind]


def wait_for(job: subprocess.Popen[str], condition: Callable[[], Any]) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        assert job.poll() is None, job.communicate()[0]
        assert time.monotonic() < until, "it takes too long"
        time.sleep(0.2)


def test_a_small_package_travels(checkout: Path, tmp_path: Path) -> None:
    for litter in ("runs/smoke/a.ckpt", "wandb/run", ".venv/bin/python", "rayconvai/__pycache__/x.pyc", "outputs/log"):
        (checkout / litter).parent.mkdir(parents=True, exist_ok=True)
        (checkout / litter).write_bytes(bytes(2**20))
    package = tmp_path / "package.zip"
    # As `ray job submit --working-dir` makes it.
    create_package(str(checkout), package, include_gitignore=True, excludes=get_runtime_env_default_excludes())
    names = zipfile.ZipFile(package).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {"rayconvai", "configs", "sweeps", "pyproject.toml"} <= tops
    assert tops.isdisjoint({"runs", "wandb", ".venv", "outputs", ".git", "tests", "benchmarks", "docs"})
    assert not any("__pycache__" in name for name in names)
    assert package.stat().st_size < 4 * 2**20


def test_stopped_and_submitted_again(cluster: RayProcesses, checkout: Path, shared: Path) -> None:
    place = str(shared / "runs" / "smoke")
    submit = ("--working-dir", ".", "--", *SWEEP, f"budget.trials={TRIALS}")
    job = cluster.job("submit", "--submission-id", "smoke-1", *submit, directory=checkout)
    wait_for(job, lambda: records(place, "end"))
    assert "smoke-1" in cluster.job("list", directory=checkout).communicate()[0]
    assert "was stopped" in cluster.job("stop", "smoke-1", directory=checkout).communicate()[0]
    first, _ = job.communicate()
    assert f"sweep: {place}" in first  # the logs were followed
    assert f"sweep: {place}" in cluster.job("logs", "--follow", "smoke-1", directory=checkout).communicate()[0]
    ended = {record["trial"] for record in records(place, "end")}
    assert 0 < len(ended) < TRIALS, first
    again = cluster.job("submit", *submit, directory=checkout)
    second, _ = again.communicate()
    assert again.returncode == 0, second
    assert f"going on with {place}: {len(ended)} of " in second
    assert f"artefact: {place}/best" in second
    state = read_journal(place)
    assert (state.closed, len(state.trials)) == ("done", TRIALS)
    assert [state.trials[number].attempts for number in sorted(ended)] == [1] * len(ended)
    told = [(record["trial"], record["epoch"]) for record in records(place, "result")]
    assert len(told) == len(set(told))
    facts = [json.loads(file.read_text()) for file in Path(place).glob("trials/*/provenance.json")]
    assert {fact["directory"].count("working_dir_files") for fact in facts} == {1}  # what was sent is what ran
    assert len({worker["node"] for fact in facts for worker in fact.get("ray", {}).get("workers", ())}) == 2


def test_with_storage_in_a_bucket(cluster: RayProcesses, checkout: Path, s3: ThreadedMotoServer) -> None:
    host, port = s3.get_host_and_port()
    variables = json.dumps({"env_vars": S3 | {"AWS_ENDPOINT_URL": f"http://{host}:{port}"}})
    sweep = (*SWEEP, "storage=s3://speech/jobs", "budget.trials=2")
    job = cluster.job("submit", "--working-dir", ".", "--runtime-env-json", variables, "--", *sweep, directory=checkout)
    said, _ = job.communicate()
    assert job.returncode == 0, said
    assert "artefact: s3://speech/jobs/smoke/best" in said
    assert [trial.attempts for trial in read_journal("s3://speech/jobs/smoke").trials.values()] == [1, 1]


def test_storage_that_is_lost_with_the_job_is_refused(cluster: RayProcesses, checkout: Path) -> None:
    variables = json.dumps({"env_vars": {"RAYCONVAI_STORAGE": ""}})
    job = cluster.job("submit", "--working-dir", ".", "--runtime-env-json", variables, "--", *SWEEP, directory=checkout)
    said, _ = job.communicate()
    assert job.returncode != 0
    assert "sweeps/smoke.yaml:20: storage 'runs' is relative, and a Ray job's working directory is temporary" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(("variables", "words"), [
    pytest.param({"RAY_AUTH_TOKEN": "0" * 64}, "refuses the token", id="wrong_token"),
    pytest.param({"RAY_AUTH_MODE": "disabled"}, "asks for a token", id="no_token"),
])  # fmt: skip
def test_a_refused_token_is_one_line(
    cluster: RayProcesses, checkout: Path, tmp_path: Path, variables: dict[str, str], words: str
) -> None:
    environment = {name: value for name, value in cluster.environment.items() if name != "RAY_AUTH_TOKEN_PATH"}
    environment |= {"RAY_ADDRESS": cluster.address, **variables}
    command = [sys.executable, "-m", "rayconvai.sweep", "sweeps/smoke.yaml", f"storage={tmp_path}"]
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"error: the Ray cluster at RAY_ADDRESS={cluster.address} {words}")
    assert "Traceback" not in done.stderr


def test_the_doctor_looks_at_every_node(cluster: RayProcesses, checkout: Path, shared: Path) -> None:
    doctor = ("python", "-m", "rayconvai", "doctor", "--storage", str(shared / "runs"))
    job = cluster.job("submit", "--working-dir", ".", "--", *doctor, directory=checkout)
    said, _ = job.communicate()
    assert job.returncode == 0, said
    for words in (
        f"{cluster.address}: 2 nodes",
        "the cluster asks for a token, and takes the one that is here",
        "all 2 nodes write and read each other's files",
        "gloo, 2 ranks on 2 nodes: ",
        "runs will work",
    ):
        assert words in said, said
