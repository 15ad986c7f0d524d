"""Matrices and curves as pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from rayconvai.core.sample import Curve, Matrix

_COLOURS = ("440154", "482878", "3e4989", "31688e", "26828e", "1f9e89", "35b779", "6ece58", "b5de2b", "fde725")
"""Viridis, at equal steps: even in lightness, and clear to the colour-blind."""
_LINES = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd")
_SIZE = (640, 160)


def picture(part: Matrix | Curve) -> Image.Image:
    """Return a picture: of a matrix, a pixel a value, the first row at the bottom; of curves, their lines."""
    return _matrix(part) if isinstance(part, Matrix) else _curves(part)


def _matrix(part: Matrix) -> Image.Image:
    values = np.atleast_2d(np.asarray(part.values, dtype=np.float32))[::-1]
    low, high = _limits(values)
    shades = np.nan_to_num((values - low) / (high - low), nan=0.0, posinf=1.0, neginf=0.0)
    image = Image.fromarray((255 * shades.clip(0, 1)).astype(np.uint8))
    image.putpalette(_palette())
    return image


def _palette() -> bytes:
    anchors = np.array([[int(colour[at : at + 2], 16) for at in (0, 2, 4)] for colour in _COLOURS])
    places = np.linspace(0, len(anchors) - 1, 256)
    channels = [np.interp(places, np.arange(len(anchors)), anchors[:, channel]) for channel in range(3)]
    return bytes(np.stack(channels, axis=1).round().astype(np.uint8).tobytes())


def _curves(part: Curve) -> Image.Image:
    image = Image.new("RGB", _SIZE, "white")
    draw = ImageDraw.Draw(image)
    lines = [np.asarray(values, dtype=np.float32) for values in part.lines.values()]
    low, high = _limits(np.concatenate(lines)) if lines else (0.0, 1.0)
    longest = max((len(values) for values in lines), default=0)
    for number, values in enumerate(lines):
        x = np.arange(len(values)) * (_SIZE[0] - 1) / max(1, longest - 1)
        y = (_SIZE[1] - 1) * (1 - (values - low) / (high - low))
        good = np.isfinite(y)
        # Where a value is missing, an unvoiced frame's pitch say, the line is broken.
        for run in np.split(np.arange(len(values)), np.flatnonzero(np.diff(good.astype(int))) + 1):
            if len(run) > 1 and good[run[0]]:
                draw.line([(float(x[at]), float(y[at])) for at in run], fill=_LINES[number % len(_LINES)], width=2)
    return image


def _limits(values: np.ndarray[Any, Any]) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    if not len(finite):
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    return low, high if high > low else low + 1
