"""A report that goes with its sweep, as its server gives it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from served import Served
from written import write_sweep

from rayconvai.analysis import serve
from rayconvai.errors import ConfigError, SweepError


def test_only_what_has_changed_is_sent(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    status, page = served.get("/")
    assert (status, "the best of 3 trials" in page, 'data-live="' in page) == (200, True, True)
    first = served.changes()["sections"]
    have = {section["id"]: section["version"] for section in first}
    assert {"summary", "trials", "next"} <= set(have)
    reads: list[str] = []
    read = serve.Sweep
    monkeypatch.setattr(serve, "Sweep", lambda place: reads.append(place) or read(place))
    assert served.changes(**have)["sections"] == []
    assert reads == []  # the journal has not grown
    served.sweep.trial(3, {"optim.lr": 1e-3}, [0.01], "finished")
    changed = {section["id"]: section["html"] for section in served.changes(**have)["sections"]}
    assert len(reads) == 1
    assert "t0003, the best of 4 trials" in changed["summary"]
    assert not {"asked", "failures"} & set(changed)


def test_a_journal_that_is_damaged_meanwhile_is_told(served: Served) -> None:
    with (served.sweep.directory / "journal" / "0000.jsonl").open("a") as file:
        file.write("nonsense\n")
    answer = served.changes()
    assert "not JSON; the journal is damaged" in answer["error"]
    assert answer["sections"]  # as it was


@pytest.mark.parametrize(
    ("host", "path", "status"),
    [
        pytest.param("127.0.0.1:80", "/", 200, id="address"),
        pytest.param("evil.example", "/", 403, id="name_led_here"),
        pytest.param("localhost", "/../../etc/passwd", 404, id="file"),
    ],
)
def test_it_gives_itself_and_only_to_this_machine(served: Served, host: str, path: str, status: int) -> None:
    assert served.get(path, host)[0] == status


def test_no_sweep_and_no_port(served: Served, tmp_path: Path) -> None:
    with pytest.raises(SweepError, match="holds no sweep"):
        serve.serve(str(tmp_path), "127.0.0.1", 0)
    with pytest.raises(ConfigError, match=r"cannot listen at 127.0.0.1:\d+: .*--port 0"):
        serve.serve(str(served.sweep.directory), *served.server.address)


def test_ctrl_c_ends_it(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "written", 1)
    command = [sys.executable, "-m", "rayconvai", "report", str(sweep.directory), "--serve", "--port", "0"]
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert "http://127.0.0.1:" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate()
    assert (process.returncode, out, errors) == (0, "", "")
