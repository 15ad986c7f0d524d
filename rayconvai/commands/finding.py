"""What a check of the doctor's finds: how bad it is, what it is, where, and the fix."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from rayconvai.errors import RayconvaiError

T = TypeVar("T")
Level = Literal["ok", "warning", "error"]
"""ok: as it should be. warning: runs work, but less well or less safely. error: something will not work."""


@dataclass(frozen=True)
class Finding:
    """A line of the doctor's report."""

    check: str
    level: Level
    text: str
    fix: str = ""
    """What to do; empty where there is nothing to do."""
    where: str = ""
    """The node; empty for this machine, or for all together."""


def ok(check: str, text: str) -> Finding:
    """What is as it should be."""
    return Finding(check, "ok", text)


def warning(check: str, text: str, fix: str) -> Finding:
    """What runs can live with."""
    return Finding(check, "warning", text, fix)


def error(check: str, text: str, fix: str) -> Finding:
    """What will not work."""
    return Finding(check, "error", text, fix)


def on_thread(function: Callable[..., T], *arguments: Any) -> Future[T]:
    """Call a function on a thread that nobody has to wait for, not even the end of the process."""
    future: Future[T] = Future()

    def call() -> None:
        try:
            future.set_result(function(*arguments))
        except BaseException as problem:  # noqa: BLE001 (whoever asks for the result is given it)
            future.set_exception(problem)

    threading.Thread(target=call, daemon=True).start()
    return future


def examine(check: str, seconds: float, function: Callable[..., Iterable[Finding]], *arguments: Any) -> list[Finding]:
    """Return what a check finds; that it took too long, or could not be made, is a finding too."""
    try:
        return on_thread(lambda: list(function(*arguments))).result(seconds)
    except Late:
        return [error(check, f"no answer within {seconds:g} s", "see what keeps it: a mount, a bucket or a server")]
    except RayconvaiError as problem:
        return [error(check, str(problem), "")]
    except Exception as problem:  # noqa: BLE001 (a check that breaks must not hide the others)
        said = " ".join(str(problem).split())[:200]
        return [error(check, f"could not be checked: {type(problem).__name__}: {said}", "")]


def at(where: str, findings: Iterable[Finding]) -> list[Finding]:
    """Return findings with the node that they are of."""
    return [replace(finding, where=where) for finding in findings]
