"""A sweep whose storage is a bucket: killed, taken up on another machine, the server gone for a while."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import boto3
import pytest
from harness import Place, Record, differences, faults, outcome
from moto.server import ThreadedMotoServer

from rayconvai.sweep.journal import iter_records

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SWEEP = ["budget.trials=2", "search.name=optuna", "scheduler={name: asha, reduction: 2}"]


class BucketPlace(Place):
    """What the bucket holds of a sweep; its working copy does not count."""

    address = "s3://speech/runs/chaos"

    def __init__(self, root: Path, *overrides: str) -> None:
        super().__init__(root, *overrides, "storage=s3://speech/runs")
        self.directory = root / "fetched"

    def fetch(self) -> None:
        """Take what the bucket has to where the harness looks."""
        for entry in boto3.resource("s3").Bucket("speech").objects.filter(Prefix="runs/chaos/"):
            path = self.directory / entry.key.removeprefix("runs/chaos/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(entry.get()["Body"].read())

    def records(self, *kinds: str) -> list[Record]:
        return [record for record in iter_records(self.address) if not kinds or record["kind"] in kinds]

    def forget(self) -> None:
        """As if the machine had gone with all that was on it."""
        shutil.rmtree(self.root / "home" / ".cache" / "rayconvai" / "buckets")

    def command(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "rayconvai", *arguments]
        done = subprocess.run(
            command, cwd=self.root, env=self.environment(), capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def test_sweep_in_a_bucket(s3: ThreadedMotoServer, tmp_path: Path) -> None:
    calm = Place(tmp_path / "calm", *SWEEP)
    assert calm.run() == 0, calm.output
    place = BucketPlace(tmp_path / "place", *SWEEP)
    with place.started() as session:
        assert session.wait_for("result", trial=0, epoch=2)
        session.kill_all()
    place.forget()
    with place.started() as session:
        assert session.wait_for("result", trial=1, epoch=1)
        port = s3.get_host_and_port()[1]
        s3.stop()
        again = ThreadedMotoServer(ip_address="127.0.0.1", port=port)
        again.start()
        try:
            assert session.end() == 0, place.output
            place.fetch()
            assert faults(place, 2) == []
            assert differences(place, outcome(calm)) == []
            assert "checkpoints" not in {part.name for part in place.directory.glob("*")}
            place.forget()
            assert "2 of 2 ended" in place.command("status", place.address)
            assert f"artefact: {place.address}/best" in place.command("promote", place.address, "--top", "1")
            assert "4 of 4 epochs have the recorded metrics" in place.command("replay", place.address)
        finally:
            again.stop()


def test_bucket_that_is_not_there(s3: ThreadedMotoServer, tmp_path: Path) -> None:
    place = Place(tmp_path, *SWEEP, "storage=s3://nowhere/runs")
    assert place.run() == 2
    assert place.output == (
        "error: command line: 'storage=s3://nowhere/runs': s3://nowhere/runs/chaos cannot be written: The specified "
        "bucket does not exist\n"
    )
