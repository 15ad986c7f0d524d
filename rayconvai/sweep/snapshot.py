"""A sweep's state as a file beside its journal, so that a reader need not go through all segments: a cache.

A line of JSON that says what the snapshot covers, then the state as JSON. What does not fit (another format, segments
that are not those it was made from, damage) is left aside, and the segments are read.
"""

from __future__ import annotations

import base64
import json
import sys
import zlib
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from rayconvai import __version__
from rayconvai.sweep.state import Cost, Exploit, SweepState, TrialRecord, WarmPoint
from rayconvai.sweep.store import Segment

_FORMAT = [
    1, __version__, sys.byteorder, *(item.name for kind in (SweepState, TrialRecord, Cost) for item in fields(kind)),
]  # fmt: skip


def take(state: SweepState, segments: Sequence[Segment]) -> bytes:
    """Write down a state that was made from these segments."""
    kept = {name: value for name, value in vars(state).items() if name not in ("trials", "live")}
    kept["warm"] = [asdict(point) for point in state.warm]
    kept["spent"] = asdict(state.spent)
    body = json.dumps({**kept, "trials": [_pack(trial) for trial in state.trials.values()]}).encode()
    covers = [[segment.name, segment.size] for segment in segments]
    head = {"format": _FORMAT, "crc32": zlib.crc32(body), "covers": covers}
    return json.dumps(head).encode() + b"\n" + body


def restore(data: bytes | None, segments: Sequence[Segment]) -> tuple[SweepState, int]:
    """Return the state, and how many of the segments it covers: an empty state and 0 where it cannot be used."""
    head, _, body = (data or b"").partition(b"\n")
    try:
        known = json.loads(head)
        covers = [Segment(*cover) for cover in known["covers"]]
        fits = known["format"] == _FORMAT and known["crc32"] == zlib.crc32(body)
    except (ValueError, KeyError, TypeError):
        return SweepState(), 0
    if not fits or list(segments[: len(covers)]) != covers:
        return SweepState(), 0
    kept = json.loads(body)
    state = SweepState(**{**kept, "trials": {}, "counts": Counter(kept["counts"])})
    state.warm = [WarmPoint(**point) for point in kept["warm"]]
    state.spent = Cost(**kept["spent"])
    for packed in kept["trials"]:
        trial = _unpack(packed)
        state.trials[trial.number] = trial
        if trial.ended is None:
            state.live[trial.number] = trial
    return state, len(covers)


def _pack(trial: TrialRecord) -> dict[str, Any]:
    return {
        **vars(trial),
        "exploits": [asdict(exploit) for exploit in trial.exploits],
        "spent": asdict(trial.spent),
        "epochs": _text(trial.epochs),
        "values": {name: _text(column) for name, column in trial.values.items()},
    }


def _unpack(packed: dict[str, Any]) -> TrialRecord:
    trial = TrialRecord(**packed)
    trial.exploits = [Exploit(**exploit) for exploit in packed["exploits"]]
    trial.spent = Cost(**packed["spent"])
    trial.epochs = array("I", base64.b64decode(packed["epochs"]))
    trial.values = {name: array("d", base64.b64decode(text)) for name, text in packed["values"].items()}
    trial.lowest = {name: (value, epoch) for name, (value, epoch) in packed["lowest"].items()}
    trial.highest = {name: (value, epoch) for name, (value, epoch) in packed["highest"].items()}
    return trial


def _text(numbers: array[Any]) -> str:
    return base64.b64encode(numbers.tobytes()).decode()
