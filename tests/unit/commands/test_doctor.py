"""The doctor's checks: what they say of machines, packages and storage that are not as they should be."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from moto.server import ThreadedMotoServer

from rayconvai.commands import check_collective, check_machine, check_packages, check_storage
from rayconvai.commands.doctor import main
from rayconvai.commands.finding import Finding, examine
from rayconvai.errors import StorageError

HUGE = 2**60
H100 = {"name": "H100", "free": 2**36, "total": 2**36, "capability": [9, 0], "bf16": True}
V100 = {"name": "V100", "free": 2**34, "total": 2**34, "capability": [7, 0], "bf16": False}
CUDA = {"torch": "2.14.1", "cuda": "13.0", "nccl": "2.29", "problem": "", "built_for": ["sm_80", "sm_90", "compute_90"]}


def said(findings: Iterable[Finding]) -> tuple[str, str]:
    """The worst level, and all that is said, with the fixes."""
    found = list(findings)
    worst = max(found, key=lambda finding: ("ok", "warning", "error").index(finding.level))
    return worst.level, "; ".join(f"{finding.text} ({finding.fix})" for finding in found)


@pytest.mark.parametrize(("free", "storage", "ray"), [
    pytest.param(300, "ok", "ok", id="room"),
    pytest.param(90, "ok", "warning", id="ray_stops_at_95_percent"),
    pytest.param(9, "warning", "warning", id="little"),
    pytest.param(0.5, "error", "error", id="full"),
])  # fmt: skip
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: float, storage: str, ray: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=2000 * 2**30, free=int(free * 2**30)))
    found = {finding.check: finding for finding in check_machine.disks(str(tmp_path / "not" / "yet"), str(tmp_path))}
    assert found["disk: ray"].level == ray
    assert found["disk: storage"].level == storage
    assert found["disk: storage"].text == f"{tmp_path}/not/yet: {free:.1f} GiB of 2000.0 GiB free"
    assert found["disk: storage"].fix == ("" if storage == "ok" else "free space, or choose another storage")
    assert "disk: storage" not in [finding.check for finding in check_machine.disks("s3://speech/runs", str(tmp_path))]


@pytest.mark.parametrize(("findings", "level", "words"), [
    pytest.param(lambda: check_machine.memory(least=HUGE), "warning", "resources.concurrent", id="memory"),
    pytest.param(lambda: check_machine.shared_memory(0, "/dev/shm", HUGE), "error", "--shm-size", id="shared_memory"),
    pytest.param(lambda: check_machine.shared_memory(HUGE), "warning", "less than Ray's object store", id="store"),
    pytest.param(lambda: check_machine.shared_memory(0, "/nowhere"), "error", "mount a tmpfs", id="no_shared_memory"),
    pytest.param(lambda: check_machine.open_files(HUGE), "warning", "ulimit", id="open_files"),
    pytest.param(lambda: check_machine.processors(HUGE), "warning", "--num-cpus", id="cpus"),
])  # fmt: skip
def test_too_little(findings: Any, level: str, words: str) -> None:
    found, text = said(findings())
    assert found == level
    assert words in text


@pytest.mark.parametrize("files", [
    pytest.param({
        "cpu.max": "150000 100000", "memory.max": "1073741824", "memory.current": "536870912",
        "memory.stat": "inactive_file 268435456\n",
    }, id="cgroup_2"),
    pytest.param({
        "cpu/cpu.cfs_quota_us": "150000", "cpu/cpu.cfs_period_us": "100000",
        "memory/memory.limit_in_bytes": "1073741824", "memory/memory.usage_in_bytes": "536870912",
        "memory/memory.stat": "total_inactive_file 268435456\n",
    }, id="cgroup_1"),
])  # fmt: skip
def test_the_limits_of_a_container(tmp_path: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert "1.5 CPUs of the machine's" in said(check_machine.processors(None, tmp_path))[1]
    assert "but Ray hands out 4 (start Ray here with --num-cpus=1)" in said(check_machine.processors(4, tmp_path))[1]
    assert "0.8 GiB of 1.0 GiB free" in said(check_machine.memory(cgroup=tmp_path))[1]


@pytest.mark.parametrize(("seen", "driver", "ray_gpus", "level", "words"), [
    pytest.param({"devices": [H100]}, "580.1", 1, "ok", "capability 9.0, 64.0 GiB of 64.0 GiB", id="good"),
    pytest.param({"devices": [H100]}, "580.1", 8, "warning", "--num-gpus=1", id="ray_has_more"),
    pytest.param({"devices": [V100]}, "580.1", 1, "error", "built for sm_80 sm_90 compute_90", id="too_old"),
    pytest.param({"devices": [V100], "built_for": ["sm_70"]}, "580.1", 1, "warning", "16-mixed", id="no_bf16"),
    pytest.param({"devices": [{**H100, "capability": [12, 0]}]}, "580.1", 1, "ok", "12.0", id="newer_than_torch"),
    pytest.param({"devices": [], "cuda": None}, "580.1", None, "error", "is built for CPUs", id="torch_for_cpus"),
    pytest.param({"devices": [], "problem": "driver too old"}, "470.1", None, "error", "driver too old", id="driver"),
    pytest.param({"devices": []}, "", None, "ok", "trainer=cpu", id="no_gpu"),
])  # fmt: skip
def test_devices(
    monkeypatch: pytest.MonkeyPatch, seen: dict[str, Any], driver: str, ray_gpus: float | None, level: str, words: str
) -> None:
    monkeypatch.setattr(check_machine, "look_at_devices", lambda: CUDA | seen)
    monkeypatch.setattr(check_machine, "_driver", lambda: driver)
    found, text = said(check_machine.devices(ray_gpus))
    assert (found, words in text) == (level, True), text


@pytest.mark.parametrize(("there", "level", "words"), [
    pytest.param({}, "ok", "extras ; ", id="as_asked"),
    pytest.param({"ray": ""}, "error", "ray is not installed", id="missing"),
    pytest.param({"ray": "2.40"}, "error", "ray 2.40 is not >=2.60", id="too_old"),
    pytest.param({"lightning": "2.6.3"}, "error", "2.6.3 was a malicious release: replace it, and change every secret"),
    pytest.param({"plotly": ""}, "ok", "; not: analysis (pip install 'rayconvai[NAME]'", id="an_extra"),
])  # fmt: skip
def test_packages(monkeypatch: pytest.MonkeyPatch, there: dict[str, str], level: str, words: str) -> None:
    installed = {"torch": "2.14.1", "lightning": "2.6.6", "ray": "2.60.0", "plotly": "6.1"} | there
    monkeypatch.setattr(check_packages, "installed", lambda name: installed.get(name, ""))
    asked = [
        "torch>=2.9",
        "lightning>=2.6,<2.7",
        "ray[tune]>=2.60",
        "plotly>=6; extra == 'analysis'",
        "x; extra == 'dev'",
    ]
    found, text = said(check_packages.check(asked, ">=3.10"))
    assert (found, words.removeprefix("extras ; ") in text) == (level, True), text


def test_what_rayconvai_asks_for_is_known() -> None:
    asked, python = check_packages.requirements()
    assert python == ">=3.10"
    assert any(line.startswith("lightning") for line in asked)
    assert any("extra == 'demo'" in line.replace('"', "'") for line in asked)


@pytest.mark.parametrize(("name", "level"), [
    pytest.param("rayconvai", "error", id="code"),
    pytest.param("torch", "error", id="torch"),
    pytest.param("wandb", "warning", id="another"),
])  # fmt: skip
def test_nodes_that_differ(name: str, level: str) -> None:
    same = {"a": {name: "1", "numpy": "2"}, "b": {name: "1", "numpy": "2"}}
    assert list(check_packages.compare(same)) == []
    found, text = said(check_packages.compare({**same, "b": {name: "3", "numpy": "2"}}))
    assert (found, f"{name} is not the same: 1 on a, 3 on b" in text) == (level, True), text


def test_storage_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    place = str(tmp_path / "file" / "runs")
    with pytest.raises(StorageError, match=f"{place} cannot be written: Not a directory"):
        check_storage.write(place, ["probe"], "0")
    assert said(check_storage.judge(place, {"a": "cannot be written", "b": ""}, {"a": [], "b": ["a"]}))[0] == "error"


def test_storage_that_is_not_shared(tmp_path: Path) -> None:
    here, there = str(tmp_path / "here"), str(tmp_path / "there")
    made = [check_storage.write(place, ["probe"], name) for place, name in ((here, "0"), (there, "1"))]
    assert check_storage.unseen(here, ["probe"], ["0", "1"]) == ["1"]
    level, text = said(check_storage.judge(here, {"a": "", "b": ""}, {"a": ["b"], "b": ["a"]}))
    assert level == "error"
    assert "is not the same place on all nodes: a does not see what b wrote" in text
    for place, name, paths in ((here, "0", made[0]), (there, "1", made[1])):
        check_storage.remove(place, ["probe"], name, paths)
    assert list(tmp_path.iterdir()) == []


def test_storage_in_a_bucket(s3: ThreadedMotoServer) -> None:
    place = "s3://speech/runs"
    check_storage.write(place, ["probe"], "0")
    assert check_storage.unseen(place, ["probe"], ["0", "1"]) == ["1"]
    check_storage.remove(place, ["probe"], "0", [])
    assert check_storage.unseen(place, ["probe"], ["0"]) == ["0"]
    with pytest.raises(StorageError, match="s3://none/runs cannot be written: The specified bucket does not exist"):
        check_storage.write("s3://none/runs", ["probe"], "0")
    with (
        keys_are_asked_for(s3),
        pytest.raises(StorageError, match="cannot be written: The AWS Access Key Id you provided"),
    ):
        check_storage.write(place, ["probe"], "0")


@contextmanager
def keys_are_asked_for(s3: ThreadedMotoServer) -> Iterator[None]:
    """Within the block, the server refuses who is not known to it, which is everybody."""

    def after(requests: bytes) -> None:
        host, port = s3.get_host_and_port()
        place, text = f"http://{host}:{port}/moto-api/reset-auth", {"Content-Type": "text/plain"}
        urllib.request.urlopen(urllib.request.Request(place, requests, text)).close()

    after(b"0")
    try:
        yield
    finally:
        after(b"inf")


def test_ranks_and_what_they_say() -> None:
    assert check_collective.ranks({"a": 2, "b": 1}) == [("a", "0"), ("a", "1"), ("b", "0")]
    assert check_collective.ranks({"a": 2, "b": 0}) == [("a", ""), ("b", "")]
    assert check_collective.ranks({"": 1}) == [("", ""), ("", "")]
    places = [("a", ""), ("b", "")]
    assert (
        "gloo, 2 ranks on 2 nodes: 1.50 GB/s"
        in said(check_collective.judge(places, [(2e9, ""), (1.5e9, "")], "a:1"))[1]
    )
    level, text = said(check_collective.judge(places, [(0, ""), (0, "Connection timed out")], "10.0.0.1:5000"))
    assert level == "error"
    assert "Connection timed out" in text
    assert "GLOO_SOCKET_IFNAME" in text


def test_a_check_that_hangs_or_breaks_is_a_finding() -> None:
    never = threading.Event()
    assert said(examine("mount", 0.05, lambda: [never.wait()]))[1].startswith("no answer within 0.05 s")  # type: ignore[list-item]
    never.set()
    assert said(examine("sum", 5, lambda: [1 / 0]))[1].startswith("could not be checked: ZeroDivisionError")  # type: ignore[list-item]


def test_missing_packages_are_said_before_they_are_needed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check_packages, "installed", lambda name: "" if name == "ray" else "99")
    assert main([]) == 1
    assert "ray is not installed" in capsys.readouterr().out


@pytest.mark.slow
def test_the_command_where_nothing_is_as_it_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    command = [
        sys.executable,
        "-m",
        "rayconvai",
        "doctor",
        "--json",
        "--address",
        "127.0.0.1:1",
        "--storage",
        "file/runs",
    ]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 1, done.stderr
    levels = {finding["check"]: (finding["level"], finding["text"]) for finding in json.loads(done.stdout)}
    assert levels["cluster"] == ("error", "no Ray cluster answers at RAY_ADDRESS=127.0.0.1:1: Connection refused")
    assert levels["storage"] == ("error", f"{tmp_path}/file/runs cannot be written: Not a directory")
    assert levels["wandb"][0] == "warning"
    assert {"python", "packages", "devices", "cpus", "memory", "shared memory", "espeak"} <= levels.keys()
    assert levels["all-reduce"][0] == "ok"
