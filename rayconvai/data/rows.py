"""Lines of a manifest: from bytes to rows that are known to be right, or to what is wrong with them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from rayconvai.errors import DataError, nearest

KEYS = ("audio_filepath", "duration", "text", "offset", "speaker", "split")
MAX_SECONDS = 1e9
_BOM = b"\xef\xbb\xbf"
_scan = json.JSONDecoder().raw_decode


def parse_many(lines: list[bytes], path: Path, numbers: Sequence[int]) -> Sequence[dict[str, Any] | None]:
    """Parse lines as one JSON array, three times as fast as one by one; at any doubt one by one. Blank: None."""
    try:
        rows = json.loads("[" + b",".join(lines).decode() + "]")
    except (ValueError, RecursionError):
        rows = []
    if len(rows) == len(lines) and all(type(row) is dict for row in rows):
        return rows  # type: ignore[no-any-return]
    return [None if line.isspace() else parse(line, path, number) for number, line in zip(numbers, lines, strict=True)]


def parse(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        text = line.decode().strip()
        row, end = _scan(text)
    except (ValueError, RecursionError) as error:
        _refuse_line(line, path, number, error)
    if end != len(text) or type(row) is not dict:
        _refuse_line(line, path, number, None)
    return row


def _refuse_line(line: bytes, path: Path, number: int, error: Exception | None) -> NoReturn:
    where = f"{path}:{number}"
    if isinstance(error, UnicodeDecodeError):
        raise DataError(f"{where}: not UTF-8 (byte {error.start + 1}); save the manifest as UTF-8") from error
    if line.startswith(_BOM):
        raise DataError(f"{where}: begins with a byte-order mark; save the manifest as UTF-8 without it") from error
    if isinstance(error, json.JSONDecodeError):
        what = f"not valid JSON ({error.msg}, column {error.colno})"
        raise DataError(f"{where}: {what}; write one JSON object a line") from error
    raise DataError(f"{where}: not one JSON object; write one JSON object a line")


HALF = "which has half a character (a lone surrogate); correct it"


def all_good(rows: list[dict[str, Any]], require_text: bool) -> bool:
    """Return whether no row has a problem; at any doubt False. Runs over millions of rows: whole columns at a time."""
    try:
        durations = [row["duration"] for row in rows]
        audio = [row["audio_filepath"] for row in rows]
        texts = [row["text"] if require_text else row.get("text") or "" for row in rows]
    except KeyError:
        return False
    return (
        {*map(type, audio), *map(type, texts)} <= {str}
        and is_unicode("".join(audio + texts))
        and {*map(type, durations)} <= {int, float}
        and all(0 < duration <= MAX_SECONDS for duration in durations)
        and all(audio)
        and not any("offset" in row for row in rows)
    )


def problem(row: dict[str, Any], require_text: bool) -> str | None:
    """Return what is wrong with a row and the way out, or None."""
    for key in ("audio_filepath", "duration") + (("text",) if require_text else ()):
        if row.get(key) is None:
            return f"key '{key}' is missing{nearest(key, set(row) - set(KEYS)) or '; add it'}"
    for key in ("audio_filepath", "text"):
        if not isinstance(row.get(key) or "", str):
            return f"'{key}' is {row[key]!r}; it must be a string"
        if not is_unicode(row.get(key) or ""):
            return f"'{key}' is {row[key]!r}, {HALF}"
    if not row["audio_filepath"]:
        return "'audio_filepath' is empty; name a sound file"
    for key, least in (("duration", "more than 0"), ("offset", "0 or more")):
        value = row.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return f"'{key}' is {value!r}; it must be a number of seconds"
        if not 0 <= value <= MAX_SECONDS or (key == "duration" and value == 0):  # NaN fails both comparisons
            return f"'{key}' is {value}; it must be {least} seconds, and finite"
    return None


def is_unicode(text: str) -> bool:
    """Return whether a text can be written; JSON can escape halves of characters, which no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
