"""Samples to read, hear and see: HTML that holds all it shows. Each part is shown by what it is, whatever the model."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import soundfile

from rayconvai.core.sample import Curve, Marked, Matrix, Part, Sample, Sound, Text
from rayconvai.experiment.pictures import picture
from rayconvai.experiment.samples import load_sound

_LONGEST = 60.0
"""Seconds of a sound that are put into a page."""
_RANGE_DB = 80.0
_STYLE = """<style>
.rv-sample{border:1px solid rgba(128,136,144,.35);border-radius:8px;padding:.6em .8em;margin:.6em 0;
font:14px/1.5 system-ui,sans-serif;overflow-x:auto}
.rv-sample header{display:flex;justify-content:space-between;gap:1em;color:#808890;font-size:12px}
.rv-sample table{border-collapse:collapse;margin:.3em 0}.rv-sample td{padding:0 .35em;border:0;text-align:left}
.rv-sample td:first-child,.rv-sample .rv-name{color:#808890;font-size:12px;padding-right:1em;white-space:nowrap}
.rv-sample .rv-sub{background:rgba(230,159,0,.3)}.rv-sample .rv-ins{background:rgba(213,94,0,.3)}
.rv-sample .rv-del{background:rgba(47,126,216,.3)}.rv-sample .rv-wrong{background:rgba(193,39,45,.3)}
.rv-sample .rv-label{background:rgba(15,157,118,.25)}.rv-sample [class^=rv-]{border-radius:3px}
.rv-sample sup{font-size:10px;margin-left:.3em;color:#808890}.rv-sample img{max-width:100%;height:110px;min-width:320px;
image-rendering:auto}.rv-sample figure{margin:.3em 0}.rv-sample audio{height:32px}
</style>"""
_MEANS = {"sub": "substituted", "ins": "inserted", "del": "left out"}


class Samples(list[Sample]):
    """Samples that a notebook shows as they can be read and heard."""

    def _repr_html_(self) -> str:
        return to_html(self)


def to_html(samples: Sequence[Sample]) -> str:
    """Return samples as HTML: marked texts, players, spectrograms and pictures, nothing of which is elsewhere.

    A sound whose file is gone is named instead.
    """
    if not samples:
        why = (
            "the run's config has samples=false, the model shows none (Model.keep_samples), or the run is an older one"
        )
        return f"<p>No samples were kept: {why}.</p>"
    return _STYLE + "".join(map(_sample, samples))


def spectrogram(signal: np.ndarray[Any, Any], sample_rate: int) -> Matrix:
    """Return the power of a signal (S,) by frequency and time, in dB below its peak, of windows of 25 ms."""
    window = max(16, round(0.025 * sample_rate))
    hop = max(1, window * 2 // 5, len(signal) // 1200)
    padded = np.pad(np.asarray(signal, dtype=np.float32), (0, max(0, window - len(signal))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
    power = np.abs(np.fft.rfft(frames * np.hanning(window), axis=1)).T ** 2
    level = 10 * np.log10(power / max(float(power.max()), 1e-12) + 1e-12)
    return Matrix(level.clip(-_RANGE_DB, 0), f"0 to {sample_rate / 2000:g} kHz", f"{len(signal) / sample_rate:.2f} s")


def _sample(sample: Sample) -> str:
    score = "" if sample.score is None else f"score {sample.score:.3f}"
    texts = {name: part for name, part in sample.parts.items() if isinstance(part, (Text, Marked))}
    rows = "".join(_texts(texts))
    table = f"<table>{rows}</table>" if rows else ""
    others = "".join(_part(name, part) for name, part in sample.parts.items() if name not in texts)
    head = f"<header><span>{escape(sample.where)}</span><span>{score}</span></header>"
    return f"<section class='rv-sample'>{head}{table}{others}</section>"


def _texts(texts: dict[str, Text | Marked]) -> Sequence[str]:
    """Return a table's rows: texts that are aligned stand piece below piece, any other is one cell."""
    counts = [len(part.pieces) for part in texts.values() if isinstance(part, Marked)]
    width = max(counts, default=1)
    aligned = len(counts) > 1 and len(set(counts)) == 1
    rows = []
    for name, part in texts.items():
        if isinstance(part, Text):
            cells = f"<td colspan='{width}'>{escape(part.text)}</td>"
        elif aligned:
            cells = "".join(f"<td>{_piece(text, mark)}</td>" for text, mark in part.pieces)
        else:
            pieces = " ".join(_piece(text, mark) for text, mark in part.pieces)
            cells = f"<td colspan='{width}'>{pieces}</td>"
        rows.append(f"<tr><td>{escape(name)}</td>{cells}</tr>")
    return rows


def _piece(text: str, mark: str) -> str:
    shown = escape(text) or "&nbsp;&middot;&nbsp;"
    if not mark:
        return f"<span>{escape(text)}</span>"
    if mark in _MEANS:
        return f"<span class='rv-{mark}' title='{_MEANS[mark]}'>{shown}</span>"
    kind = "wrong" if mark.startswith("!") else "label"
    return f"<span class='rv-{kind}'>{shown}<sup>{escape(mark.lstrip('!'))}</sup></span>"


def _part(name: str, part: Part) -> str:
    if isinstance(part, Sound):
        return _sound(name, part)
    assert isinstance(part, (Matrix, Curve))
    axes = " by ".join(axis for axis in (getattr(part, "rows", ""), part.columns) if axis)
    lines = ", ".join(part.lines) if isinstance(part, Curve) else ""
    about = "; ".join(text for text in (axes, lines, getattr(part, "unit", "")) if text)
    return _image(name, part, about)


def _sound(name: str, sound: Sound) -> str:
    clip = load_sound(sound)
    if clip is None or not len(clip[0]):
        gone = escape(sound.path or "the signal")
        return f"<div><span class='rv-name'>{escape(name)}</span>{gone} cannot be read from here</div>"
    signal, rate = clip[0][: int(_LONGEST * clip[1])], clip[1]
    file = io.BytesIO()
    soundfile.write(file, signal.clip(-1, 1), rate, format="FLAC")
    data = base64.b64encode(file.getvalue()).decode()
    player = f"<audio controls preload='none' src='data:audio/flac;base64,{data}'></audio>"
    image = spectrogram(signal, rate)
    return f"<div><span class='rv-name'>{escape(name)}</span>{player}</div>" + _image(
        "spectrogram", image, f"{image.rows}, {image.columns}"
    )


def _image(name: str, part: Matrix | Curve, about: str) -> str:
    file = io.BytesIO()
    picture(part).save(file, "PNG", optimize=True)
    data = base64.b64encode(file.getvalue()).decode()
    label = f"<figcaption class='rv-name'>{escape(name)}{f' ({escape(about)})' if about else ''}</figcaption>"
    return f"<figure>{label}<img alt='{escape(name)}' src='data:image/png;base64,{data}'></figure>"
