"""Sweeps that are killed: start one by its command, watch its journal, kill what belongs to it, judge what is left.

Linux only: the processes of a command are those of its session, as /proc has them.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
EPOCHS = 4
PATIENCE = 120.0
"""Seconds in which whatever is waited for must come; a hang shows as a failure."""

SWEEP = """\
name: chaos
recipe: chance/chance
config_dirs: [{configs}]
overrides: [model.pause={pause}]
space:
  optim.lr: loguniform(1e-3, 1e-1)
  model.dropout: choice(0.0, 0.1, 0.3)
metric: {{name: val_loss, mode: min}}
search: {{name: random, seed: 1}}
scheduler: {{name: none}}
budget: {{trials: 3}}
resources: {{cpus: 1, concurrent: 1}}
max_retries: 1000
storage: {storage}
"""

Record = dict[str, Any]


def plain_environment(home: Path, modules: Path, without: Sequence[str] = ()) -> dict[str, str]:
    """Return this process's environment without what is said to Ray, for a command with a home of its own.

    Args:
        home: its home directory.
        modules: a directory of ours that it may import from, besides the checkout.
        without: what the names of other variables that are left out begin with.
    """
    left_out = ("RAY_", "TUNE_", *without)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    places = os.pathsep.join(map(str, (modules, HERE.parents[1])))
    return environment | {"PYTHONPATH": places, "HOME": str(home), "OMP_NUM_THREADS": "1"}


class Place:
    """Where a sweep lives: its file, its storage, and a home directory without anybody's settings.

    Args:
        root: a directory for it.
        overrides: for the command.
        pause: seconds that a training step takes.
        storage: where the sweep's directory is made; None: in ``root``.
    """

    def __init__(self, root: Path, *overrides: str, pause: float = 0.02, storage: Path | None = None) -> None:
        self.root, self.overrides = root, overrides
        self.directory = (storage or root) / "chaos"
        (root / "home").mkdir(parents=True)
        text = SWEEP.format(configs=HERE / "configs", pause=pause, storage=storage or root)
        (root / "chaos.yaml").write_text(text)

    def environment(self) -> dict[str, str]:
        """What commands are given besides their arguments."""
        return plain_environment(self.root / "home", HERE, without=("RAYCONVAI_",))

    @contextmanager
    def started(self) -> Iterator[Session]:
        """Give the command; whatever happens, none of its processes outlives the block."""
        command = [sys.executable, "-m", "rayconvai.sweep", str(self.root / "chaos.yaml"), *self.overrides]
        with (self.root / "output.txt").open("ab") as output:
            process = subprocess.Popen(
                command, cwd=self.root, env=self.environment(), stdout=output, stderr=output, start_new_session=True
            )
        session = Session(self, process)
        try:
            yield session
        finally:
            session.kill_all()

    def run(self) -> int:
        """Give the command, let it come to its end and return its status."""
        with self.started() as session:
            return session.end()

    @property
    def output(self) -> str:
        """All that the commands have said."""
        return (self.root / "output.txt").read_text()

    def segments(self) -> list[Path]:
        return sorted((self.directory / "journal").glob("*.jsonl"))

    def records(self, *kinds: str) -> list[Record]:
        """What the journal has: all records, or those of some kinds; without torn lines."""
        lines = (line for segment in self.segments() for line in segment.read_bytes().splitlines(keepends=True))
        records = [json.loads(line) for line in lines if line.endswith(b"\n")]
        return [record for record in records if not kinds or record["kind"] in kinds]

    def running(self) -> list[int]:
        """The trials that have begun and not ended."""
        ended = {record["trial"] for record in self.records("end")}
        return sorted({record["trial"] for record in self.records("attempt")} - ended)

    def trial(self, number: int) -> Path:
        return self.directory / "trials" / f"t{number:04d}"


@dataclass
class Session:
    """One command and all the processes that came of it."""

    place: Place
    process: subprocess.Popen[bytes]
    before: int = field(init=False)
    """How many records there were when it began."""

    def __post_init__(self) -> None:
        self.before = len(self.place.records())

    def wait(self, condition: Callable[[], Any]) -> bool:
        """Wait until something is so; False if the command ended first."""
        until = time.monotonic() + PATIENCE
        while not condition():
            if self.process.poll() is not None:
                return False
            if time.monotonic() > until:
                raise AssertionError(f"nothing came in {PATIENCE:g} s:\n{self.place.output[-3000:]}")
            time.sleep(0.03)
        return True

    def wait_for(self, kind: str, **fields: Any) -> bool:
        """Wait until this session's journal has such a record."""
        wanted = {"kind": kind, **fields}.items()
        return self.wait(lambda: any(wanted <= record.items() for record in self.new_records()))

    def new_records(self) -> list[Record]:
        return self.place.records()[self.before :]

    def end(self) -> int:
        """Wait for the command's end and return its status."""
        self.wait(lambda: False)
        return self.process.wait()

    def processes(self, title: str = "") -> list[int]:
        """The living processes of this command whose command line has this pattern."""
        return processes_of(self.process.pid, title)

    def trials(self) -> list[int]:
        """The processes that run trials."""
        return self.processes(r"^ray::\w*Tr(ial|ainable)")

    def kill_trial(self) -> bool:
        """Kill a trial's process once there is one; False if the command ended first."""
        return self.wait(self.trials) and kill(self.trials()[:1])

    def kill_driver(self) -> None:
        """Kill the driver alone; what it has started finds that out by itself."""
        self.process.kill()
        self.process.wait()

    def kill_all(self) -> None:
        """Kill the driver, Ray and the trials, until none is left."""
        while left := self.processes():
            kill(left)
            if self.process.poll() is None:
                self.process.wait()
        self.process.wait()


def processes_of(session: int, title: str = "") -> list[int]:
    """The living processes of a session whose command line has this pattern."""
    paths = [path for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [int(path.name) for path in paths if _session_of(path) == session and re.search(title, _title(path))]


def kill(processes: list[int], number: int = signal.SIGKILL) -> bool:
    for process in processes:
        try:
            os.kill(process, number)
        except ProcessLookupError:
            continue
    return bool(processes)


def _session_of(process: Path) -> int | None:
    try:
        state, _, _, session = (process / "stat").read_text().rpartition(")")[2].split()[:4]
    except OSError:
        return None
    return None if state == "Z" else int(session)


def _title(process: Path) -> str:
    try:
        return (process / "cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def newest_checkpoint(place: Place) -> Path | None:
    """The checkpoint that a trial which has not ended would go on from."""
    found = [path for number in place.running() for path in (place.trial(number) / "checkpoints").glob("*.ckpt")]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def flip(place: Place, chance: random.Random) -> str:
    """Change a few bytes of the newest checkpoint."""
    path = newest_checkpoint(place)
    if path is None:
        return "no checkpoint"
    content = bytearray(path.read_bytes())
    for _ in range(8):
        content[chance.randrange(len(content))] ^= 0xFF
    path.write_bytes(content)
    return f"{path.parent.parent.name}/{path.name}"


def truncate(place: Place, chance: random.Random) -> str:
    """Cut the newest checkpoint off."""
    path = newest_checkpoint(place)
    if path is None:
        return "no checkpoint"
    os.truncate(path, chance.randrange(path.stat().st_size))
    return f"{path.parent.parent.name}/{path.name}"


def tear(place: Place, chance: random.Random) -> str:
    """Leave the journal's last line as a driver does that was killed while it wrote it."""
    segments = place.segments()
    if not segments:
        return "no journal"
    content = segments[-1].read_bytes()
    last = content.splitlines(keepends=True)[-1] if content else b"\n"
    if content.endswith(b"\n") and _had_no_consequence(place, json.loads(last)) and chance.random() < 0.5:
        os.truncate(segments[-1], len(content) - chance.randrange(1, len(last)))
        return f"half of {json.loads(last)['kind']}"
    if not content.endswith(b"\n"):
        return "torn already"
    half = b'{"kind": "result", "time": 1, "trial": 0, "attempt": 1, "epoch": 1, "metrics": {"val_loss": 0.1}}\n'
    with segments[-1].open("ab") as file:
        file.write(half[: chance.randrange(1, len(half))])
    return "half of another result"


def _had_no_consequence(place: Place, record: Mapping[str, Any]) -> bool:
    """Tell whether the driver can have been killed in the middle of this record.

    What depends on a record happens when it is on the disk: a checkpoint of the epoch, a directory of the trial.
    """
    if record["kind"] == "result":
        return not list((place.trial(record["trial"]) / "checkpoints").glob(f"*epoch={record['epoch'] - 1}-*.ckpt"))
    return record["kind"] in ("attempt", "lost", "end", "close")


def forget_tune(place: Place, chance: random.Random) -> str:
    """Delete Ray Tune's own state."""
    shutil.rmtree(place.directory / ".tune", ignore_errors=True)
    return ""


@contextmanager
def small_disk(place: Path, megabytes: int = 8) -> Iterator[Path | None]:
    """Make a file system that is soon full, in memory; None for who may not."""
    place.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True).returncode:
        yield None
        return
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk: Path) -> Path:
    """Take all the space that a file system has left; return the file that holds it."""
    ballast = disk / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return ballast


def faults(place: Place, trials: int, epochs: int = EPOCHS) -> list[str]:
    """Say what a sweep that has ended lost, doubled or left undone."""
    wrong = []
    numbers = [record["trial"] for record in place.records("point")]
    if sorted(numbers) != list(range(trials)):
        wrong.append(f"{trials} trials were asked for, the journal has {sorted(numbers)}")
    results: dict[int, list[int]] = {number: [] for number in numbers}
    ends: dict[int, str] = {}
    for record in place.records("attempt", "result", "end"):
        number = record["trial"]
        if number in ends:
            wrong.append(f"t{number:04d} had ended ({ends[number]}), then came {record['kind']}")
        if record["kind"] == "result":
            results[number].append(record["epoch"])
        if record["kind"] == "end":
            ends[number] = record["status"]
    for number, seen in results.items():
        if sorted(seen) != list(range(1, len(seen) + 1)):
            wrong.append(f"t{number:04d} has epochs {seen} in the journal")
        if ends.get(number) not in ("finished", "stopped"):
            wrong.append(f"t{number:04d} ended as {ends.get(number)}")
        if ends.get(number) == "finished" and len(seen) != epochs:
            wrong.append(f"t{number:04d} is finished with {len(seen)} of {epochs} epochs")
        wrong += _faults_of_metrics(place, number, len(seen))
    if not (place.directory / "best" / "card.json").is_file():
        wrong.append("there is no artefact")
    return wrong


def _faults_of_metrics(place: Place, number: int, epochs: int) -> list[str]:
    lines = [json.loads(line) for line in (place.trial(number) / "metrics.jsonl").read_text().splitlines()]
    written = Counter(line["epoch"] for line in lines if line["kind"] == "epoch")
    steps = [line["step"] for line in lines if line["kind"] == "step"]
    wrong = []
    if written != Counter(range(1, epochs + 1)):
        wrong.append(f"t{number:04d} has epochs {sorted(written.elements())} in metrics.jsonl, {epochs} in the journal")
    if steps != list(range(len(steps))):
        wrong.append(f"t{number:04d} has steps {steps} in metrics.jsonl")
    return wrong


def outcome(place: Place) -> dict[str, Any]:
    """What must not depend on kills: points, metrics and ends; of the runs' own records, the steps too."""
    found: dict[str, Any] = {}
    for record in place.records("point", "result", "exploit", "end"):
        name = f"t{record['trial']:04d}"
        if record["kind"] == "result":
            found[f"{name} epoch {record['epoch']}"] = record["metrics"]
        elif record["kind"] == "end":
            found[f"{name} end"] = record["status"]
        else:
            found[f"{name} {record['kind']} {record.get('epoch', '')}"] = record["overrides"]
    for number in {record["trial"] for record in place.records("point")}:
        for line in (place.trial(number) / "metrics.jsonl").read_text().splitlines():
            row = json.loads(line)
            kept = {key: value for key, value in row.items() if key != "time"}
            found[f"t{number:04d} {row['kind']} line at step {row['step']}"] = kept
    return found


def differences(place: Place, reference: Mapping[str, Any]) -> list[str]:
    """Say where a sweep came out otherwise than the one that was never killed."""
    found = outcome(place)
    keys = sorted(found.keys() | reference.keys())
    return [
        f"{key}: {found.get(key)}, not {reference.get(key)}" for key in keys if found.get(key) != reference.get(key)
    ]


Kill = Callable[[Session, random.Random], str | None]
"""Ends a session, or a trial's process within it, and may damage what is left; says what else there is to say.
None: the command had ended before."""


def _trial(session: Session, chance: random.Random) -> str | None:
    return "" if session.kill_trial() else None


def _everything(session: Session, chance: random.Random) -> str:
    session.kill_all()
    return ""


def _driver(session: Session, chance: random.Random) -> str:
    session.kill_driver()
    return ""


def _then(damage: Callable[[Place, random.Random], str]) -> Kill:
    def kill_and_damage(session: Session, chance: random.Random) -> str:
        session.kill_all()
        return damage(session.place, chance)

    return kill_and_damage


def _signal(number: int, *, everyone: bool) -> Kill:
    def tell(session: Session, chance: random.Random) -> str:
        kill(session.processes() if everyone else [session.process.pid], number)
        session.end()
        return ""

    return tell


def _full_disk(session: Session, chance: random.Random) -> str:
    ballast = fill(session.place.directory.parent)
    session.end()
    ballast.unlink()
    return session.place.output.splitlines()[-1][:80]


def _part(title: str) -> Kill:
    def kill_part(session: Session, chance: random.Random) -> str | None:
        if not session.wait(lambda: session.processes(title)):
            return None
        kill(session.processes(title))
        session.end()
        return ""

    return kill_part


KILLS: dict[str, Kill] = {
    "trial": _trial,
    "driver": _driver,
    "ray": _everything,
    "raylet": _part(r"/raylet/raylet "),
    "gcs": _part(r"/gcs/gcs_server "),
    "ctrl-c": _signal(signal.SIGINT, everyone=True),  # as a terminal does
    "terminate": _signal(signal.SIGTERM, everyone=False),
    "terminate all": _signal(signal.SIGTERM, everyone=True),  # as Slurm does
    "flipped bytes": _then(flip),
    "truncated": _then(truncate),
    "torn journal": _then(tear),
    "tune's state": _then(forget_tune),
    "full disk": _full_disk,
}
