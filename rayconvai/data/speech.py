"""What runs on speech share, whatever is learnt: which utterances can be used, and how much of them was heard."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

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


def heard(audio_lengths_B: Tensor, sample_rate: int) -> dict[str, int | float | Tensor]:
    """Return how much a batch of utterances holds, for Model.seen."""
    return {"audio_seconds": audio_lengths_B.sum() / sample_rate, "utterances": len(audio_lengths_B)}


def usable(manifest: Manifest, checks: Checks) -> Manifest:
    """Return the utterances whose sound is there and usable.

    Raises:
        DataError: one that is not (unless ``checks.on_bad`` is skip), by manifest and line.
    """
    return check_manifest(
        manifest, on_bad=checks.on_bad, min_duration=checks.min_duration, max_duration=checks.max_duration
    )
