"""Manifests: JSON lines, one utterance a line, as NeMo's users have them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import numpy.typing as npt
from typing_extensions import Self

from rayconvai.data.lines import JsonLines, OnBad, Row, keep_good
from rayconvai.data.rows import all_good, problem
from rayconvai.data.soundcheck import remembered, scan, sound_problem
from rayconvai.errors import DataError

DECODE_HOURS = 10.0
"""``check_manifest`` decodes all of a corpus up to this size, and a sample of a larger one."""
_SAMPLE = 1000


@dataclass(frozen=True, slots=True)
class Utterance:
    """One row of a manifest."""

    audio_filepath: Path
    """Where the sound is; relative paths are already joined to the manifest's directory."""
    duration: float
    """Seconds."""
    text: str
    """Empty where the row has none and ``require_text`` is false."""
    offset: float = 0.0
    """Seconds into the sound file."""
    speaker: str | None = None
    line: int = 0
    """1-based line in the manifest."""


class Manifest(JsonLines[Utterance]):
    """A read-only sequence of utterances over a JSON-lines file; see ``Manifest.open``."""

    columns: ClassVar[Mapping[str, str]] = {**JsonLines.columns, "durations": "f"}
    noun = "utterances"

    @classmethod
    def open(cls, path: str | Path, split: str | None = None, *, require_text: bool = True) -> Self:
        """Read a manifest, checking every row that is kept.

        A row has ``audio_filepath`` (relative ones are relative to the manifest), ``duration`` in seconds and ``text``;
        it may have ``offset`` (seconds), ``speaker`` and ``split``. Other keys are ignored.

        Args:
            path: the JSON-lines file.
            split: keep the rows whose ``split`` is this; None keeps all.
            require_text: rows must have ``text``. Give False for sounds without words, such as noises.

        Raises:
            DataError: no such file, a line that is not such a row (named with its number), or no rows.
        """
        path = Path(path).expanduser().absolute()
        return cls(path, cls._scan(path, split, require_text=require_text))

    @property
    def durations(self) -> npt.NDArray[np.float32]:
        """Seconds of each utterance, (N,), read-only."""
        return self._columns["durations"]

    @property
    def hours(self) -> float:
        """Hours of speech in all rows."""
        return float(self.durations.sum(dtype=np.float64)) / 3600

    def has_offset(self, index: int) -> bool:
        """Return whether a row says where in its sound file it begins (``offset``), be it 0."""
        return self.row(index).get("offset") is not None

    def texts(self) -> Iterator[str]:
        """Iterate over the text of each row."""
        return (row.get("text") or "" for _, row in self._rows())

    def fingerprint(self) -> dict[str, Any]:
        """Return ``{"sha256", "utterances", "hours"}``.

        The digest is over what training sees of each row (path as written, duration, offset, text, speaker), in order.
        Moving the corpus, or adding keys that are not read, does not change it.
        """
        return {"sha256": self.digest(), "utterances": len(self), "hours": round(self.hours, 4)}

    def portable_rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows as they would be read from any directory."""
        for index, row in enumerate(self):
            kept = {"audio_filepath": str(row.audio_filepath), "duration": row.duration, "text": row.text}
            kept |= {"speaker": row.speaker} if row.speaker is not None else {}
            yield kept | ({"offset": row.offset} if self.has_offset(index) else {})

    def _seen(self, row: Row) -> Sequence[Any]:
        seen = (row["audio_filepath"], row["duration"], row.get("offset"), row.get("text") or "")
        return (*seen, row.get("speaker"))

    @classmethod
    def _check(cls, rows: list[Row], path: Path, lines: Sequence[int], **options: Any) -> Mapping[str, Sequence[Any]]:
        require_text: bool = options["require_text"]
        if not all_good(rows, require_text):
            for row, line in zip(rows, lines, strict=True):
                if found := problem(row, require_text):
                    raise DataError(f"{path}:{line}: {found}")
        return {"durations": [row["duration"] for row in rows]}

    def _example(self, row: Row, line: int) -> Utterance:
        return Utterance(
            audio_filepath=self.path.parent / os.path.expanduser(row["audio_filepath"]),
            duration=float(row["duration"]),
            text=row.get("text") or "",
            offset=float(row.get("offset") or 0.0),
            speaker=None if row.get("speaker") is None else str(row["speaker"]),
            line=line,
        )

    def __repr__(self) -> str:
        return f"Manifest({str(self.path)!r}, {len(self)} utterances, {self.hours:.2f} h)"


class SoundManifest(Manifest):
    """A manifest whose rows need no ``text``."""

    @classmethod
    def open(cls, path: str | Path, split: str | None = None, *, require_text: bool = False) -> Self:
        return super().open(path, split, require_text=require_text)


class Speller(Protocol):
    """What a tokenizer must be able to say of a text."""

    def unknown(self, text: str) -> set[str]:
        """Return the characters of ``text`` that cannot be written."""
        ...


def check_manifest(
    manifest: Manifest,
    *,
    tokenizer: Speller | None = None,
    on_bad: OnBad = "refuse",
    min_duration: float = 0.0,
    max_duration: float | None = None,
    decode: Literal["auto", "all", "none"] = "auto",
) -> Manifest:
    """Check every utterance before training: declared length, text, and that its sound is there and is as declared.

    The sound file's header is always read. Silence, NaN and damage behind a good header are found only by decoding:
    ``auto`` decodes everything up to ``DECODE_HOURS`` of speech (hundreds of times faster than real time, with a
    progress bar), and 1000 utterances spread evenly over a larger corpus; there, ``read_utterance`` names the line when
    training comes to it. What was found is kept in the cache until the manifest or a sound file changes.

    Args:
        manifest: of any size; its rows are not held.
        tokenizer: texts must have no characters that it cannot write; None leaves texts unchecked.
        on_bad: "refuse" raises at any bad utterance; "skip" leaves them out and logs how many.
        min_duration: seconds; shorter utterances are bad.
        max_duration: seconds; longer utterances are bad. None: no limit.
        decode: "auto", "all" or "none".

    Returns:
        The manifest, or one of the good utterances.

    Raises:
        DataError: the first bad line and how many more there are, or, with "skip", no good one is left.
    """
    problems = _length_problems(manifest, min_duration, max_duration)
    for found in (text_problems(manifest, tokenizer), _sound_problems(manifest, decode)):
        problems = {**found, **problems}
    return keep_good(manifest, problems, on_bad)


def _length_problems(manifest: Manifest, least: float, most: float | None) -> dict[int, str]:
    durations = manifest.durations
    limit = np.inf if most is None else most
    bad = np.flatnonzero((durations < np.float32(least)) | (durations > np.float32(limit)))
    fix = "remove the line or change data.checks.min_duration, max_duration"
    return {int(i): f"lasts {durations[i]:.2f} s, not between {least:g} and {limit:g} s; {fix}" for i in bad}


def text_problems(manifest: Manifest, tokenizer: Speller | None) -> dict[int, str]:
    """Return what is wrong with the texts, by index: characters that the tokenizer cannot write, or none at all."""
    problems: dict[int, str] = {}
    if tokenizer is None:
        return problems
    for index, text in enumerate(manifest.texts()):
        if unknown := tokenizer.unknown(text):
            listed = ", ".join(repr(character) for character in sorted(unknown))
            problems[index] = f"text has characters that the tokenizer cannot write: {listed}; correct the text"
        elif not text.strip():
            problems[index] = "text is empty; write what is said or remove the line"
    return problems


def _sound_problems(manifest: Manifest, decode: Literal["auto", "all", "none"]) -> dict[int, str]:
    every = {"all": 1, "none": 0}.get(decode, 1 if manifest.hours <= DECODE_HOURS else -(-len(manifest) // _SAMPLE))
    place = sounds_digest(manifest, str(every))

    def problem(index: int) -> str | None:
        row, has_offset = manifest[index], manifest.has_offset(index)
        offset = row.offset if has_offset else None
        return sound_problem(row.audio_filepath, row.duration, offset, decode=every > 0 and index % every == 0)

    return remembered(place, lambda: scan(len(manifest), problem, "checking sound files"))


def sounds_digest(manifest: Manifest, settings: str) -> str:
    """Return a hash of a manifest, its place, its sound files' sizes and times, and of settings: what is found out with
    these about the sounds stays true until it changes."""
    places = hashlib.sha256(f"{manifest.fingerprint()['sha256']} {manifest.path.parent} {settings}".encode())
    for row in manifest:
        try:
            stat = os.stat(row.audio_filepath)
            places.update(b"%d %d " % (stat.st_size, stat.st_mtime_ns))
        except (OSError, ValueError):
            places.update(b"missing ")
    return places.hexdigest()
