"""Which utterances a run on speech can use, whatever is learnt from them."""

from __future__ import annotations

from dataclasses import dataclass

from rayconvai.data.lines import OnBad
from rayconvai.data.manifest import Manifest, check_manifest


@dataclass(frozen=True, kw_only=True)
class Checks:
    """Which utterances are usable, and what becomes of the others."""

    on_bad: OnBad = "refuse"
    """``refuse`` stops before training at the first bad utterance; ``skip`` leaves them out and logs how many."""
    min_duration: float = 0.0
    """Seconds."""
    max_duration: float | None = None
    """Seconds; null sets no limit."""


STRICT = Checks()
"""Every utterance must be usable, whatever its length."""


def usable(manifest: Manifest, checks: Checks) -> Manifest:
    """Return the utterances whose sound is there and usable.

    Raises:
        DataError: one that is not (unless ``checks.on_bad`` is skip), by manifest and line.
    """
    return check_manifest(
        manifest, on_bad=checks.on_bad, min_duration=checks.min_duration, max_duration=checks.max_duration
    )
