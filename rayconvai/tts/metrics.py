"""How far made speech is from real speech: in its spectrum, its pitch and its durations."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchmetrics import Metric
from typing_extensions import override

from rayconvai.core.attention import length_mask

Floats = npt.NDArray[np.float64]
DECIBELS = 10 / math.log(10)


# B batch, T frames, D mel bands, K cepstral coefficients
class _Mean(Metric):
    """A sum over a count, both added up over batches and ranks."""

    higher_is_better = False
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")

    @override
    def compute(self) -> Tensor:
        return (self.total / self.count).float()


class LogMelDistance(_Mean):
    """Mean absolute difference of two log-mel spectrograms that lie frame by frame beside each other."""

    @override
    def update(self, made_BDT: Tensor, real_BDT: Tensor, lengths_B: Tensor) -> None:
        """Add a batch; ``lengths_B`` in frames."""
        distance_BT = (made_BDT.double() - real_BDT.double()).abs().mean(1)
        self.total += (distance_BT * length_mask(lengths_B, distance_BT.shape[1])).sum()
        self.count += lengths_B.sum()


class MelCepstralDistortion(_Mean):
    """Mel-cepstral distortion in dB: the root mean square difference of two smoothed log spectra on the mel scale,
    whatever their loudness, averaged over frames that lie beside each other.

    Cepstra are cosine transforms of log-mel spectra, so figures compare only with others of the same mels.

    Args:
        order: coefficients that count, from the first; the one before them is the loudness.

    Source: Kubichek, Mel-cepstral distance measure for objective speech quality assessment (1993).
    """

    def __init__(self, order: int = 24) -> None:
        super().__init__()
        self.order = order

    @override
    def update(self, made_BDT: Tensor, real_BDT: Tensor, lengths_B: Tensor) -> None:
        """Add a batch of natural logarithms of magnitudes; ``lengths_B`` in frames."""
        difference_BKT = mel_cepstra(made_BDT - real_BDT, self.order)[:, 1:]
        distortion_BT = DECIBELS * (2 * difference_BKT.square().sum(1)).sqrt()
        self.total += (distortion_BT * length_mask(lengths_B, distortion_BT.shape[1])).sum()
        self.count += lengths_B.sum()


def mel_cepstra(mel_BDT: Tensor, order: int = 24) -> Tensor:
    """Return mel cepstra (B, 1 + order, T), float64, of natural logarithms of mel magnitudes (B, D, T).

    They are those of powers, twice the magnitudes' logarithms: ``log power = c0 + 2 * sum(c[k] * cos(...))``.
    """
    bands = mel_BDT.shape[1]
    at_D = (torch.arange(bands, device=mel_BDT.device, dtype=torch.float64) + 0.5) * math.pi / bands
    k_K1 = torch.arange(order + 1, device=mel_BDT.device, dtype=torch.float64)[:, None]
    return torch.matmul((k_K1 * at_D).cos() / bands, 2 * mel_BDT.double())


def aligned_distortion(made_DT: Tensor, real_DT: Tensor, order: int = 24) -> float:
    """Return the mel-cepstral distortion in dB of two log-mel spectrograms of different lengths, along the path of
    dynamic time warping on which it is least."""
    made_TK, real_TK = (mel_cepstra(mel[None], order)[0, 1:].T.cpu() for mel in (made_DT, real_DT))
    cost = DECIBELS * math.sqrt(2) * torch.cdist(made_TK, real_TK).numpy()
    path = warp(cost)
    return float(cost[path[:, 0], path[:, 1]].mean())


def warp(cost: Floats) -> npt.NDArray[np.int64]:
    """Return the cheapest way through costs (M, N) from the first pair to the last, as pairs (P, 2): each step goes on
    in one of the two or in both."""
    rows, columns = cost.shape
    total = np.full((rows + 1, columns + 1), np.inf)
    total[0, 0] = 0.0
    for diagonal in range(rows + columns - 1):  # all pairs of a diagonal at once
        i = np.arange(max(0, diagonal - columns + 1), min(rows, diagonal + 1))
        j = diagonal - i
        before = np.minimum(np.minimum(total[i, j], total[i, j + 1]), total[i + 1, j])
        total[i + 1, j + 1] = cost[i, j] + before
    at, path = (rows, columns), [(rows - 1, columns - 1)]
    while path[-1] != (0, 0):
        i, j = at
        at = min((i - 1, j - 1), (i - 1, j), (i, j - 1), key=lambda place: total[place])
        path.append((at[0] - 1, at[1] - 1))
    return np.array(path[::-1])


class PitchError(_Mean):
    """Root mean square difference of two pitch curves in cents, where both are voiced."""

    @override
    def update(self, made_BT: Tensor, real_BT: Tensor, lengths_B: Tensor) -> None:
        """Add a batch of pitches in Hz, 0 where a frame is unvoiced; ``lengths_B`` in frames."""
        both_BT = (made_BT > 0) & (real_BT > 0) & length_mask(lengths_B, made_BT.shape[1])
        cents = 1200 * (made_BT[both_BT].double() / real_BT[both_BT].double()).log2()
        self.total += cents.square().sum()
        self.count += both_BT.sum()

    @override
    def compute(self) -> Tensor:
        return (self.total / self.count).sqrt().float()


class VoicingError(_Mean):
    """The share of frames of which one of two is voiced and the other is not."""

    @override
    def update(self, made_BT: Tensor, real_BT: Tensor, lengths_B: Tensor) -> None:
        """Add a batch of pitches in Hz, 0 where a frame is unvoiced; ``lengths_B`` in frames."""
        self.total += (((made_BT > 0) != (real_BT > 0)) & length_mask(lengths_B, made_BT.shape[1])).sum()
        self.count += lengths_B.sum()


class DurationError(_Mean):
    """Mean absolute difference of durations, in the unit in which they come."""

    @override
    def update(self, made_BU: Tensor, real_BU: Tensor, lengths_B: Tensor) -> None:
        """Add a batch of durations of tokens; ``lengths_B`` in tokens."""
        difference_BU = (made_BU.double() - real_BU.double()).abs()
        self.total += (difference_BU * length_mask(lengths_B, difference_BU.shape[1])).sum()
        self.count += lengths_B.sum()
