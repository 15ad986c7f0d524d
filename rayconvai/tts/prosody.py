"""How long, how high and how loud each sound is: predicted from the text, and learnt from speech."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from rayconvai.core import (
    EncodedRepresentation,
    LengthsType,
    MelSpectrogramType,
    NeuralModule,
    NeuralType,
    RegressionValuesType,
    SequenceToSequenceAlignmentType,
    TokenLogDurationType,
    typecheck,
)
from rayconvai.tts.transformer import TokenPredictor, TokenValues


# B batch, T frames, U tokens, D channels or mel bands
class ProsodyTargets(NeuralModule):
    """What the predictors learn: pitch and energy of each token, from those of its frames.

    Pitch is measured in standard deviations of the corpus from its mean; a token without a voiced frame has 0. Energy
    is ``log(1 + norm)`` of a frame's magnitudes in mel bands. The corpus' figures are kept with the weights.

    Source: FastPitch (arXiv 2006.06873), section 2.
    """

    input_types = {
        "pitch": NeuralType(("B", "T"), RegressionValuesType()),
        "mel": NeuralType(("B", "D", "T"), MelSpectrogramType()),
        "alignment": NeuralType(("B", "T", "T"), SequenceToSequenceAlignmentType()),
    }
    output_types = {
        "pitch": NeuralType(("B", "T"), RegressionValuesType()),
        "energy": NeuralType(("B", "T"), RegressionValuesType()),
    }

    def __init__(self) -> None:
        super().__init__()
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", torch.tensor(0.0))
        self.register_buffer("deviation", torch.tensor(1.0))

    def set_pitch(self, mean: float, deviation: float) -> None:
        """Take mean and standard deviation (Hz) of the corpus' voiced frames."""
        self.mean.fill_(mean)
        self.deviation.fill_(deviation)

    @typecheck()
    def forward(self, *, pitch: Tensor, mel: Tensor, alignment: Tensor) -> tuple[Tensor, Tensor]:
        """Return pitch and energy of each token (B, U).

        Args:
            pitch: Hz of each frame (B, T), 0 where there is no voice.
            mel: (B, D, T).
            alignment: (B, T, U).
        """
        voiced_BT = pitch > 0
        scaled_BT = ((pitch - self.mean) / self.deviation) * voiced_BT
        energy_BT = torch.log1p(torch.linalg.vector_norm(mel.float().exp(), dim=1))
        sums = torch.stack([scaled_BT, voiced_BT.to(pitch.dtype), energy_BT, torch.ones_like(pitch)], dim=1)
        with torch.autocast(pitch.device.type, enabled=False):
            pitch_BU, voiced_BU, energy_BU, frames_BU = torch.matmul(sums, alignment.float()).unbind(1)
        return pitch_BU / voiced_BU.clamp(min=1), energy_BU / frames_BU.clamp(min=1)

    def shift(self, pitch_BU: Tensor, semitones: float) -> Tensor:
        """Return the pitch of tokens higher by so many semitones."""
        factor = 2 ** (semitones / 12)
        return factor * pitch_BU + (factor - 1) * self.mean / self.deviation


class ProsodyAdaptor(NeuralModule):
    """Predicts duration, pitch and energy of each token, and adds pitch and energy to the tokens.

    In training these are the true ones.

    Args:
        d_model: channels of a token.
        channels: of the predictors.
        num_layers: of the predictors.
        kernel_size: tokens that a layer sees.
        dropout: of the predictors.
    """

    def __init__(
        self, *, d_model: int, channels: int = 256, num_layers: int = 2, kernel_size: int = 3, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.d_model = d_model

        def predictor() -> TokenPredictor:
            return TokenPredictor(
                d_model=d_model, channels=channels, num_layers=num_layers, kernel_size=kernel_size, dropout=dropout
            )

        self.duration_predictor, self.pitch_predictor, self.energy_predictor = predictor(), predictor(), predictor()
        self.pitch_embedding, self.energy_embedding = TokenValues(d_model=d_model), TokenValues(d_model=d_model)

    @cached_property
    def input_types(self) -> dict[str, NeuralType]:
        return {
            "encoded": NeuralType(("B", "T", f"D:{self.d_model}"), EncodedRepresentation()),
            "token_lengths": NeuralType(("B",), LengthsType()),
            "pitch": NeuralType(("B", "T"), RegressionValuesType()),
            "energy": NeuralType(("B", "T"), RegressionValuesType()),
        }

    @cached_property
    def output_types(self) -> dict[str, NeuralType]:
        return {
            "encoded": NeuralType(("B", "T", f"D:{self.d_model}"), EncodedRepresentation()),
            "log_durations": NeuralType(("B", "T"), TokenLogDurationType()),
            "pitch": NeuralType(("B", "T"), RegressionValuesType()),
            "energy": NeuralType(("B", "T"), RegressionValuesType()),
        }

    @typecheck()
    def forward(
        self, *, encoded: Tensor, token_lengths: Tensor, pitch: Tensor, energy: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the tokens (B, U, D) with pitch and energy in them, and what is predicted (B, U): the logarithm of 1 +
        frames, pitch, and energy."""
        log_durations = self.duration_predictor(encoded=encoded, token_lengths=token_lengths)
        own_pitch = self.pitch_predictor(encoded=encoded, token_lengths=token_lengths)
        encoded = self.pitch_embedding(encoded=encoded, values=pitch)
        own_energy = self.energy_predictor(encoded=encoded, token_lengths=token_lengths)
        return self.energy_embedding(encoded=encoded, values=energy), log_durations, own_pitch, own_energy

    def predict(
        self, encoded: Tensor, token_lengths: Tensor, targets: ProsodyTargets, semitones: float
    ) -> tuple[Tensor, Tensor]:
        """Return the tokens (B, U, D) with predicted pitch, so many semitones higher, and energy in them, and the
        logarithm of 1 + frames of each."""
        log_durations = self.duration_predictor(encoded=encoded, token_lengths=token_lengths)
        pitch = targets.shift(self.pitch_predictor(encoded=encoded, token_lengths=token_lengths), semitones)
        encoded = self.pitch_embedding(encoded=encoded, values=pitch)
        energy = self.energy_predictor(encoded=encoded, token_lengths=token_lengths)
        return self.energy_embedding(encoded=encoded, values=energy), log_durations


class LengthRegulator(NeuralModule):
    """Gives each frame the vector of the token that it belongs to."""

    input_types = {
        "encoded": NeuralType(("B", "T", "D"), EncodedRepresentation()),
        "alignment": NeuralType(("B", "T", "T"), SequenceToSequenceAlignmentType()),
    }
    output_types = {"frames": NeuralType(("B", "T", "D"), EncodedRepresentation())}

    @typecheck()
    def forward(self, *, encoded: Tensor, alignment: Tensor) -> Tensor:
        """Return (B, T, D) from tokens (B, U, D) and an alignment (B, T, U)."""
        return torch.matmul(alignment.to(encoded.dtype), encoded)


def alignment_of(durations_BU: Tensor) -> Tensor:
    """Return the alignment (B, T, U) that gives each token so many frames, one after the other."""
    ends_BU = durations_BU.cumsum(1)
    frame_T1 = torch.arange(int(ends_BU[:, -1].max()), device=durations_BU.device)[:, None]
    begun, ended = frame_T1 >= (ends_BU - durations_BU)[:, None], frame_T1 >= ends_BU[:, None]
    return (begun & ~ended).float()
