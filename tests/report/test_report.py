"""The report as a file: what it says, of which sweeps, and that nothing of what it shows can do anything."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import pytest
from written import EPOCHS, HOSTILE, Written, hostile, write_sweep

from rayconvai.analysis.report import main, write_report
from rayconvai.errors import RayconvaiError

OUTSIDE = re.compile(r"^(?!#|data:)", re.IGNORECASE)


class Page(HTMLParser):
    """A report's elements and its text, by section."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.said: dict[str, str] = {}
        self._section, self._raw = "", False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._raw = tag in ("script", "style")
        if tag == "section":
            self._section = dict(attrs).get("id") or self._section  # a sample is a section in its section

    def handle_endtag(self, tag: str) -> None:
        self._raw = False

    def handle_data(self, data: str) -> None:
        if not self._raw:
            self.said[self._section] = " ".join(f"{self.said.get(self._section, '')} {data}".split())


def report(sweep: Written | Path) -> Page:
    directory = sweep.directory if isinstance(sweep, Written) else sweep
    return Page(Path(write_report(directory)).read_text(encoding="utf-8"))


def test_the_story_of_a_sweep(large: Path) -> None:
    page = report(large)
    said = page.said
    assert "written finished" in said["summary"]
    assert "has the lowest val_wer on dev" in said["summary"]
    assert "Measured once on test: test_wer 0.1234" in said["summary"]
    assert "200 of 200" in said["summary"]
    assert "uniform(0.8, 0.99) where optim is muon" in said["asked"]
    assert "trained with one seed" in said["sure"]
    assert "12 infeasible : out of memory" in said["failures"]
    assert "USD" in said["cost"]
    assert "saved" in said["cost"]
    assert "0123456789ab on main, with uncommitted changes in 1 file" in said["provenance"]
    assert "secret" not in said["provenance"]  # a diff is not for everybody
    assert f"python -m rayconvai.sweep sweeps/asr.yaml budget.epochs={2 * EPOCHS}" in said["next"]
    assert sum(tag == "tr" and "data-trial" in attributes for tag, attributes in page.tags) == 200


def test_it_is_small_and_needs_no_network(large: Path) -> None:
    page = report(large)
    assert (large / "report.html").stat().st_size < 10e6
    links = [value for _, attributes in page.tags for key, value in attributes.items() if key in ("src", "href")]
    assert [link for link in links if link and OUTSIDE.match(link)] == []
    assert sum(tag == "script" and not attributes for tag, attributes in page.tags) == 2  # plotly, and the page's own


def nothing_begun(directory: Path) -> Written:
    return Written(directory)


def no_value_yet(directory: Path) -> Written:
    sweep = Written(directory)
    for number in range(2):
        sweep.trial(number, {"optim.lr": 1e-3}, [])
    return sweep


def all_failed(directory: Path) -> Written:
    sweep = Written(directory)
    for number in range(3):
        sweep.trial(number, {"optim.lr": 1e-3}, [], "failed", "ValueError: no data")
    sweep.close("failed")
    return sweep


def one_trial(directory: Path) -> Written:
    return write_sweep(directory, 1)


def repeats(directory: Path) -> Written:
    sweep = Written(directory, {"repeats": 3})
    for number in range(6):
        value = 0.2 + 0.1 * (number // 3) + 0.01 * (number % 3)
        sweep.trial(number, {"optim.lr": 10.0 ** (-3 - number // 3)}, [0.9, value], "finished")
    sweep.close()
    return sweep


def cut(directory: Path) -> Written:
    sweep = write_sweep(directory, 3)
    with (directory / "journal" / "0000.jsonl").open("a") as file:
        file.write('{"kind": "clo')
    return sweep


@pytest.mark.parametrize(
    ("make", "section", "told"),
    [
        pytest.param(nothing_begun, "summary", "No trial has begun yet.", id="nothing_begun"),
        pytest.param(nothing_begun, "trials", "No trial has begun.", id="nothing_begun_table"),
        pytest.param(no_value_yet, "summary", "None of its 2 trials has a val_wer yet.", id="no_value_yet"),
        pytest.param(all_failed, "summary", "None of its 3 trials reached a value of val_wer", id="all_failed"),
        pytest.param(all_failed, "failures", "3 failed : ValueError: no data", id="all_failed_why"),
        pytest.param(all_failed, "next", "python -m rayconvai replay", id="all_failed_next"),
        pytest.param(one_trial, "sure", "Only one point has a value", id="one_trial"),
        pytest.param(repeats, "summary", "0.2100 on average over 3 seeds, 0.1852 to 0.2348 with", id="repeats"),
        pytest.param(repeats, "sure", "overlaps with those of 0 other points.", id="repeats_apart"),
        pytest.param(cut, "summary", "the best of 3 trials", id="torn_journal"),
    ],
)
def test_every_kind_of_sweep_has_a_report(
    make: Callable[[Path], Written], section: str, told: str, tmp_path: Path
) -> None:
    page = report(make(tmp_path / "written"))
    assert told in page.said[section]
    assert page.said["next"] != "What to do next"


class _Closed(BaseHTTPRequestHandler):
    """A bucket that lets nobody in."""

    def do_GET(self) -> None:
        self.send_response(403)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Closed) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        settings = {"ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}", "ACCESS_KEY_ID": "a"}
        for name, value in {**settings, "SECRET_ACCESS_KEY": "b", "DEFAULT_REGION": "us-east-1"}.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        yield
        server.shutdown()


def damaged(directory: Path) -> str:
    write_sweep(directory, 2)
    journal = directory / "journal" / "0000.jsonl"
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join([*lines[:3], lines[3][:20], *lines[4:]]) + "\n")
    return str(directory)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(str, "holds no sweep: there is no journal in", id="no_sweep"),
        pytest.param(damaged, r"journal/0000\.jsonl:4: not JSON; the journal is damaged", id="damaged"),
        pytest.param(lambda _: "s3://closed/runs/x", "s3://closed/runs/x cannot be read: .*Forbidden", id="no_access"),
    ],
)
@pytest.mark.usefixtures("closed")
def test_what_is_no_sweep_is_one_line(make: Callable[[Path], str], message: str, tmp_path: Path) -> None:
    with pytest.raises(RayconvaiError, match=message) as caught:
        main([make(tmp_path / "written")])
    assert "\n" not in str(caught.value)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "written", 1)
    with pytest.raises(RayconvaiError, match=r"cannot be written to .*nowhere/x\.html: .*choose a file: -o FILE"):
        main([str(sweep.directory), "-o", str(tmp_path / "nowhere" / "x.html")])


@pytest.mark.usefixtures("s3")
def test_a_sweep_in_a_bucket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAYCONVAI_CACHE", str(tmp_path / "cache"))
    sweep = write_sweep(tmp_path / "written", 2)
    bucket = boto3.client("s3")
    lines = (sweep.directory / "journal" / "0000.jsonl").read_bytes()
    last = lines.count(b"\n") - 1
    bucket.put_object(Bucket="speech", Key=f"runs/written/journal/{0:010d}-{last:010d}.jsonl", Body=lines)
    for file in [*sweep.directory.rglob("*.json"), *sweep.directory.rglob("*.yaml")]:
        key = f"runs/written/{file.relative_to(sweep.directory)}"
        bucket.put_object(Bucket="speech", Key=key, Body=file.read_bytes())
    assert main(["s3://speech/runs/written"]) == 0
    assert capsys.readouterr().out == "report: s3://speech/runs/written/report.html\n"
    text = bucket.get_object(Bucket="speech", Key="runs/written/report.html")["Body"].read().decode()
    assert "the best of 2 trials" in Page(text).said["summary"]
    assert main(["s3://speech/runs/written", "-o", str(tmp_path / "here.html")]) == 0
    assert (tmp_path / "here.html").stat().st_size > 1e6


def test_what_data_says_is_text(tmp_path: Path) -> None:
    page = report(hostile(tmp_path / "written"))
    assert [attributes for tag, attributes in page.tags if tag == "img" and attributes.get("src") == "x"] == []
    assert [attributes for _, attributes in page.tags if "onerror" in attributes] == []
    assert sum(tag == "script" and not attributes for tag, attributes in page.tags) == 2
    for section in ("summary", "asked", "failures", "trials", "samples"):
        assert HOSTILE in page.said[section], section
