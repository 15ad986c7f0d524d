"""What differs between a run and the same run once more: where they come from, and their numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rayconvai.experiment.record import read_metrics

_PACKAGES = ("torch", "torchaudio", "lightning", "torchmetrics", "numpy", "soundfile", "sentencepiece", "rayconvai")
_HARDWARE = ("processor", "gpus", "cuda")


def differences(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return what may change a run's numbers, in a line each, by its provenance and that of the same run now."""
    found = [_code(recorded, now)]
    found.append(_changed("python", {"version": recorded.get("python")}, {"version": now["python"]}))
    for name, keys in {"packages": _PACKAGES, "hardware": _HARDWARE}.items():
        there, here = recorded.get(name) or {}, now[name]
        found.append(_changed(name, *({key: part.get(key) for key in keys} for part in (there, here))))
    for name in ("training", "numerics", "environment"):
        if name in recorded:  # older runs kept less
            found.append(_changed(name, recorded[name], now[name]))
    found.extend(_data(recorded.get("data"), now.get("data")))
    if recorded.get("directory") != now["directory"]:
        found.append(f"directory: relative paths in the config began in {recorded.get('directory')}")
    return [line for line in found if line]


def _code(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    there, here = recorded.get("git"), now["git"]
    if not there and not here and "rayconvai_sha256" in recorded:
        same = recorded["rayconvai_sha256"] == now["rayconvai_sha256"]
        return "" if same else "code: rayconvai's sources are not those of the run"
    if not there or not here:
        return f"code: cannot be compared; {'here' if there else 'the run'} has no git repository"
    if there["commit"] != here["commit"]:
        return f"code: commit was {there['commit'][:12]}, is {here['commit'][:12]}"
    before, after = there.get("untracked_files", {}), here["untracked_files"]
    # A new file may be anything, the output of another run say; one that code may have used may not go or change.
    changed = [
        name for name, digest in before.items() if after.get(name, "" if name.endswith(".py") else digest) != digest
    ]
    if there["diff"] != here["diff"]:
        return "code: the uncommitted changes are not those of the run (git.diff in its provenance.json)"
    return f"code: untracked files are not those of the run: {', '.join(changed[:5])}" if changed else ""


def _changed(name: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    keys = [key for key in dict.fromkeys((*there, *here)) if there.get(key) != here.get(key)]
    parts = [f"{key} was {_say(there.get(key))}, is {_say(here.get(key))}" for key in keys]
    return f"{name}: {'; '.join(parts)}" if parts else ""


def _data(there: Mapping[str, Any] | None, here: Mapping[str, Any] | None) -> Iterator[str]:
    there, here = there or {}, here or {}
    for split in dict.fromkeys((*there, *here)):
        if there.get(split) != here.get(split):
            yield f"data: {split} was {_say(there.get(split))}, is {_say(here.get(split))}"


def _say(value: Any) -> str:
    if isinstance(value, Mapping):
        return "(" + ", ".join(f"{key} {str(part)[:12]}" for key, part in value.items()) + ")"
    return "unset" if value is None else "none" if value == [] else str(value)


def compare_numbers(recorded: Path, again: Path) -> str:
    """Say, by the metrics.jsonl of two runs, whether all that the first recorded is so in the second, to the last bit;
    if not, what differs first. Times, and what is measured in time, are left out."""
    run = recorded.parent
    found = {_place(line): line for line in read_metrics(again)}
    lines = {"epoch": 0, "step": 0, "validation": 0, "test": 0}
    for line in read_metrics(recorded):
        other = found.get(_place(line))
        where = f"{line['kind']} line of epoch {line['epoch']}, step {line['step']}"
        if other is None:
            return f"not all numbers of {run}: there is no {where}"
        for name in dict.fromkeys((*line, *other)):
            if line.get(name) != other.get(name) and not _is_measured(name):
                return (
                    f"other numbers than {run}; the first: {name} was {line.get(name)}, is {other.get(name)} ({where})"
                )
        lines[line["kind"]] += 1
    if not any(lines.values()):
        return f"{run} has recorded no numbers to compare with"
    return f"same numbers as {run} (epochs: {lines['epoch']}, recorded steps: {lines['step']})"


def _place(line: Mapping[str, Any]) -> tuple[str, int, int]:
    return line["kind"], line["epoch"], line["step"]


def _is_measured(name: str) -> bool:
    """Tell what a clock says from what the training says."""
    return name in ("time", "mfu") or name.endswith(("_step_timing", "_per_second"))
