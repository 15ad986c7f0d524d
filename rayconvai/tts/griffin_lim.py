"""A vocoder that needs no training: phases that agree with a mel spectrogram, found by going back and forth."""

from __future__ import annotations

import torch
from torch import Tensor
from torchaudio.functional import griffinlim

from rayconvai.core import NeuralModule
from rayconvai.tts.features import MelSpectrogram


# B batch, S samples, T frames, F frequency bins, D mel bands
class GriffinLim(NeuralModule):
    """Makes audio of mels by the fast Griffin-Lim algorithm.

    Args:
        preprocessor: what the mels were made with.
        iterations: times that the phases are taken from the signal that they gave.
        momentum: of these steps, below 1.

    Source: Griffin and Lim (1984); momentum of Perraudin et al. (2013).
    """

    def __init__(self, preprocessor: MelSpectrogram, *, iterations: int = 60, momentum: float = 0.99) -> None:
        super().__init__()
        self.preprocessor, self.iterations, self.momentum = preprocessor, iterations, momentum

    @torch.inference_mode()
    def convert_spectrogram_to_audio(self, spec: Tensor) -> Tensor:
        """Return the audio (B, S), ``hop_length`` samples a frame, of mels (B, D, T)."""
        front = self.preprocessor
        mel_BDT = spec.to(front.filters_DF.device).float().exp()
        # The bands overlap, so the least squares have negative parts.
        magnitude_BFT = torch.matmul(torch.linalg.pinv(front.filters_DF), mel_BDT).clamp(min=0)
        # The transform's frames lie at 0, hop, 2 hop ...; the mel's at half a hop, 1 1/2 hops ... One more frame at
        # both ends gives samples to all of them; the transform needs as many as there are hops in a window.
        more = max(1, front.n_fft // front.hop_length - mel_BDT.shape[-1])
        wide_BFT = torch.nn.functional.pad(magnitude_BFT, (1, more), mode="replicate")
        audio_BS: Tensor = griffinlim(
            wide_BFT,
            front.window,
            front.n_fft,
            front.hop_length,
            front.win_length,
            power=1.0,
            n_iter=self.iterations,
            momentum=self.momentum,
            length=None,
            rand_init=False,
        )
        first = front.hop_length // 2
        return audio_BS[:, first : first + mel_BDT.shape[-1] * front.hop_length]
