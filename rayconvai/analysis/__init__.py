"""What a sweep has come to: frames, plots and samples, read from its directory or bucket. Needs no cluster."""

from rayconvai.analysis.load import Sweep

__all__ = ["Sweep"]
