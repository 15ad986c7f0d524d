"""Mel spectrograms that speech can be made from again."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from rayconvai.core import AudioSignal, LengthsType, MelSpectrogramType, NeuralModule, NeuralType, typecheck
from rayconvai.core.attention import length_mask
from rayconvai.data.audio import mel_filters
from rayconvai.errors import require_positive

FLOOR = 1e-5
"""The least magnitude of a mel band: below it is silence."""
SILENCE = math.log(FLOOR)
"""A mel value where there is no sound; what stands in padded frames."""


# B batch, S samples, T frames, F frequency bins, D mel bands
class MelSpectrogram(NeuralModule):
    """Natural logarithm of the magnitudes in mel bands, as HiFi-GAN and FastPitch were published with.

    Frame ``t`` is centred on the middle of the ``hop_length`` samples from ``t * hop_length`` on, so that a vocoder
    makes of each frame the samples that it stands for. Both ends of an utterance are mirrored; what stands in the
    padding of ``audio`` has no influence, so an utterance gives the same frames alone and in a batch. Gradients go
    through: it is part of a loss too.

    Args:
        sample_rate: Hz of the audio that comes in.
        n_fft: points of the Fourier transform, at least ``win_length``.
        win_length: samples of the (Hann) window.
        hop_length: samples from one frame to the next; ``n_fft - hop_length`` must be even.
        num_mels: number of bands.
        fmin: Hz where the lowest band begins.
        fmax: Hz where the highest ends; null is half the sample rate.

    Raises:
        ValueError: sizes that do not fit together.

    Source: HiFi-GAN (arXiv 2010.05646), section 3; mel scale and area norm of Slaney (1998).
    """

    def __init__(
        self,
        *,
        sample_rate: int = 22_050,
        n_fft: int = 1024,
        win_length: int = 1024,
        hop_length: int = 256,
        num_mels: int = 80,
        fmin: float = 0.0,
        fmax: float | None = 8000.0,
    ) -> None:
        super().__init__()
        require_positive(sample_rate=sample_rate, num_mels=num_mels)
        if not 0 < hop_length <= win_length <= n_fft or (n_fft - hop_length) % 2:
            raise ValueError(
                f"hop_length ({hop_length}) <= win_length ({win_length}) <= n_fft ({n_fft}), with an even "
                "n_fft - hop_length, does not hold"
            )
        top = sample_rate / 2 if fmax is None else fmax
        if not 0 <= fmin < top <= sample_rate / 2:
            raise ValueError(f"fmin ({fmin:g}) < fmax ({top:g}) <= sample_rate / 2 ({sample_rate / 2:g}) does not hold")
        self.sample_rate, self.n_fft, self.win_length, self.hop_length = sample_rate, n_fft, win_length, hop_length
        self.num_mels, self.fmin, self.fmax = num_mels, fmin, top
        filters_FD = mel_filters(n_fft, num_mels, sample_rate, fmin, top)
        self.window: Tensor
        self.filters_DF: Tensor
        self.register_buffer("window", torch.hann_window(win_length), persistent=False)
        self.register_buffer("filters_DF", filters_FD.T.contiguous(), persistent=False)

    def with_fmax(self, fmax: float | None) -> MelSpectrogram:
        """Return one that differs in its highest frequency alone."""
        return MelSpectrogram(**{**self.sizes, "fmax": fmax})

    @property
    def sizes(self) -> dict[str, Any]:
        """The arguments that it was made with; those of an acoustic model and of its vocoder must be the same."""
        names = ("sample_rate", "n_fft", "win_length", "hop_length", "num_mels", "fmin", "fmax")
        return {name: getattr(self, name) for name in names}

    @cached_property
    def input_types(self) -> dict[str, NeuralType]:
        return {
            "audio": NeuralType(("B", "T"), AudioSignal(freq=self.sample_rate)),
            "audio_lengths": NeuralType(("B",), LengthsType()),
        }

    @cached_property
    def output_types(self) -> dict[str, NeuralType]:
        return {
            "mel": NeuralType(("B", f"D:{self.num_mels}", "T"), MelSpectrogramType()),
            "lengths": NeuralType(("B",), LengthsType()),
        }

    @typecheck()
    def forward(self, *, audio: Tensor, audio_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return mels (B, D, T), float32 whatever the autocast, and their lengths (B,): one for each whole hop."""
        lengths_B = torch.div(audio_lengths, self.hop_length, rounding_mode="floor")
        with torch.autocast(audio.device.type, enabled=False):
            magnitude_BFT = self.magnitudes(audio.float(), audio_lengths)
            mel_BDT = torch.matmul(self.filters_DF, magnitude_BFT).clamp(min=FLOOR).log()
        within_BT = length_mask(lengths_B, mel_BDT.shape[-1])
        return mel_BDT.masked_fill(~within_BT[:, None], SILENCE), lengths_B

    def magnitudes(self, audio_BS: Tensor, lengths_B: Tensor) -> Tensor:
        """Return the magnitudes (B, F, T) of the Fourier transforms that the bands are made of."""
        margin = (self.n_fft - self.hop_length) // 2
        at_S = torch.arange(-margin, audio_BS.shape[1] + margin, device=audio_BS.device).abs()
        last_B1 = (lengths_B - 1)[:, None]
        mirrored_BS = torch.where(at_S > last_B1, 2 * last_B1 - at_S, at_S).clamp(min=0)
        padded_BS = audio_BS.gather(1, mirrored_BS)
        spectrum_BFT = torch.stft(
            padded_BS,
            self.n_fft,
            hop_length=self.hop_length,
            win_length=self.win_length,
            window=self.window,
            center=False,
            return_complex=True,
        )
        # The square root has no gradient at 0.
        return (spectrum_BFT.real.square() + spectrum_BFT.imag.square() + 1e-9).sqrt()
