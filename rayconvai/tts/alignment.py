"""Which sound of a text each frame of speech belongs to, learnt without being told."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor, nn

from rayconvai.core import (
    EmbeddedTextType,
    LengthsType,
    LogprobsType,
    Loss,
    LossType,
    MelSpectrogramType,
    NeuralModule,
    NeuralType,
    SequenceToSequenceAlignmentType,
    TokenDurationType,
    typecheck,
)
from rayconvai.core.attention import length_mask
from rayconvai.errors import require_positive

NEVER = -1e4
"""Score of a token beyond a text's end: its probability is exactly 0."""


# B batch, T frames, U tokens, D mel bands, E channels of a token
class AlignmentEncoder(NeuralModule):
    """Compares each frame with each token: the nearer they are, the likelier the frame belongs to the token.

    Args:
        num_mels: bands of a frame.
        embedding_dim: channels of a token.
        attention_dim: channels in which they are compared.
        temperature: of the squared distances; small, so that training begins with the prior alone.

    Source: One TTS Alignment To Rule Them All (arXiv 2108.10447), section 3.
    """

    def __init__(
        self, *, num_mels: int, embedding_dim: int, attention_dim: int = 80, temperature: float = 5e-4
    ) -> None:
        super().__init__()
        require_positive(attention_dim=attention_dim, temperature=temperature)
        self.num_mels, self.embedding_dim, self.temperature = num_mels, embedding_dim, temperature
        self.keys = nn.Sequential(
            nn.Conv1d(embedding_dim, 2 * embedding_dim, 3, padding=1),
            nn.ReLU(),
            nn.Conv1d(2 * embedding_dim, attention_dim, 1),
        )
        self.queries = nn.Sequential(
            nn.Conv1d(num_mels, 2 * num_mels, 3, padding=1),
            nn.ReLU(),
            nn.Conv1d(2 * num_mels, num_mels, 1),
            nn.ReLU(),
            nn.Conv1d(num_mels, attention_dim, 1),
        )

    @cached_property
    def input_types(self) -> dict[str, NeuralType]:
        return {
            "mel": NeuralType(("B", f"D:{self.num_mels}", "T"), MelSpectrogramType()),
            "lengths": NeuralType(("B",), LengthsType()),
            "embedded": NeuralType(("B", "T", f"D:{self.embedding_dim}"), EmbeddedTextType()),
            "token_lengths": NeuralType(("B",), LengthsType()),
        }

    @cached_property
    def output_types(self) -> dict[str, NeuralType]:
        return {
            "scores": NeuralType(("B", "T", "T"), LogprobsType()),
            "log_soft": NeuralType(("B", "T", "T"), LogprobsType()),
        }

    @typecheck()
    def forward(
        self, *, mel: Tensor, lengths: Tensor, embedded: Tensor, token_lengths: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the scores of each frame's tokens (B, T, U), with the prior that speech goes on evenly, and the
        logarithms of the probabilities that they mean; float32 whatever the autocast."""
        # Alone an utterance has zeros beyond its ends, where the convolutions see them.
        inside_B1T = length_mask(lengths, mel.shape[2])[:, None]
        inside_B1U = length_mask(token_lengths, embedded.shape[1])[:, None]
        queries_BAT = self.queries(mel * inside_B1T).float()
        keys_BAU = self.keys(embedded.transpose(1, 2) * inside_B1U).float()
        with torch.autocast(mel.device.type, enabled=False):
            cross_BTU = torch.matmul(queries_BAT.transpose(1, 2), keys_BAU)
            distance_BTU = queries_BAT.square().sum(1)[:, :, None] + keys_BAU.square().sum(1)[:, None] - 2 * cross_BTU
            scores_BTU = torch.log_softmax((-self.temperature * distance_BTU).masked_fill(~inside_B1U, NEVER), -1)
            prior_BTU = beta_binomial_prior(lengths, token_lengths, mel.shape[2], embedded.shape[1])
            scores_BTU = scores_BTU + prior_BTU
            return scores_BTU, torch.log_softmax(scores_BTU.masked_fill(~inside_B1U, NEVER), -1)


def beta_binomial_prior(lengths_B: Tensor, token_lengths_B: Tensor, frames: int, tokens: int) -> Tensor:
    """Return the logarithm (B, frames, tokens) of how likely a frame belongs to a token, if nothing is known but that
    both go from left to right: a beta-binomial distribution of the token for each frame. Padding gets 0.

    Source: arXiv 2108.10447, section 3.2 (with its factor omega at 1, where all is factorials).
    """
    device = lengths_B.device
    frame_1T1 = torch.arange(frames, device=device)[None, :, None]
    token_11U = torch.arange(tokens, device=device)[None, None]
    last_B11, last_token_B11 = (lengths_B - 1)[:, None, None], (token_lengths_B - 1)[:, None, None]
    steps = torch.arange(frames + tokens + 2, device=device, dtype=torch.float64)
    log_factorial = steps.clamp(min=1).log().cumsum(0)
    before, after = frame_1T1, (last_B11 - frame_1T1).clamp(min=0)
    said, rest = token_11U, (last_token_B11 - token_11U).clamp(min=0)

    def fact(number: Tensor) -> Tensor:
        return log_factorial[number.clamp(max=frames + tokens + 1)]

    choose = fact(last_token_B11) - fact(said) - fact(rest)
    beta = fact(said + before) + fact(rest + after) - fact(last_token_B11 + last_B11 + 1)
    norm = fact(before) + fact(after) - fact(last_B11 + 1)
    inside = length_mask(lengths_B, frames)[:, :, None] & length_mask(token_lengths_B, tokens)[:, None]
    return (choose + beta - norm).float().masked_fill(~inside, 0.0)


@torch.no_grad()
def monotonic_alignment(scores_BTU: Tensor, lengths_B: Tensor, token_lengths_B: Tensor) -> Tensor:
    """Return the likeliest alignment (B, T, U), ones and zeros, that goes from the first token to the last, each with
    at least one frame and none skipped; all zeros in the padding.

    One step a frame, over all utterances and tokens at once. An utterance must have as many frames as tokens.

    Source: Glow-TTS (arXiv 2005.11129), section 3.3.
    """
    batch, frames, tokens = scores_BTU.shape
    never = torch.finfo(torch.float32).min / 2
    scores_TBU = scores_BTU.float().transpose(0, 1)
    best_BU = scores_BTU.new_full((batch, tokens), never, dtype=torch.float32)
    best_BU[:, 0] = scores_TBU[0, :, 0]
    moved_TBU = torch.zeros(scores_TBU.shape, dtype=torch.bool, device=scores_BTU.device)
    for frame in range(1, frames):
        from_BU = nn.functional.pad(best_BU[:, :-1], (1, 0), value=never)
        torch.gt(from_BU, best_BU, out=moved_TBU[frame])
        best_BU = torch.maximum(from_BU, best_BU) + scores_TBU[frame]
    token_B = token_lengths_B - 1
    path_TB = torch.empty((frames, batch), dtype=torch.int64, device=scores_BTU.device)
    for frame in range(frames - 1, -1, -1):
        path_TB[frame] = token_B
        moved_B = moved_TBU[frame].gather(1, token_B[:, None])[:, 0] & (frame < lengths_B)
        token_B = token_B - moved_B.long()
    inside_BT1 = length_mask(lengths_B, frames)[:, :, None].to(scores_BTU.dtype)
    return torch.zeros_like(scores_BTU).scatter_(2, path_TB.T[:, :, None], inside_BT1)


class HardAlignment(NeuralModule):
    """The likeliest alignment that goes from left to right, and how many frames it gives each token."""

    input_types = {
        "log_soft": NeuralType(("B", "T", "T"), LogprobsType()),
        "lengths": NeuralType(("B",), LengthsType()),
        "token_lengths": NeuralType(("B",), LengthsType()),
    }
    output_types = {
        "alignment": NeuralType(("B", "T", "T"), SequenceToSequenceAlignmentType()),
        "durations": NeuralType(("B", "T"), TokenDurationType()),
    }

    @typecheck()
    def forward(self, *, log_soft: Tensor, lengths: Tensor, token_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return the alignment (B, T, U) and the durations (B, U) in frames."""
        alignment_BTU = monotonic_alignment(log_soft, lengths, token_lengths)
        return alignment_BTU, alignment_BTU.sum(1)


class ForwardSumLoss(Loss):
    """How unlikely it is that the frames go through the text from left to right, all ways summed: CTC in which each
    token is a class of its own. The mean over a batch of each utterance's, a token.

    Args:
        blank_score: of a frame that belongs to no token, beside the tokens' scores.

    Source: arXiv 2108.10447, section 3.1.
    """

    input_types = {
        "scores": NeuralType(("B", "T", "T"), LogprobsType()),
        "lengths": NeuralType(("B",), LengthsType()),
        "token_lengths": NeuralType(("B",), LengthsType()),
    }
    output_types = {"loss": NeuralType((), LossType())}

    def __init__(self, *, blank_score: float = -1.0) -> None:
        super().__init__()
        self.blank_score = blank_score

    @typecheck()
    def forward(self, *, scores: Tensor, lengths: Tensor, token_lengths: Tensor) -> Tensor:
        """Return the loss, a scalar."""
        batch, _, tokens = scores.shape
        beyond_B1U = ~length_mask(token_lengths, tokens)[:, None]
        with_blank = nn.functional.pad(scores.float().masked_fill(beyond_B1U, NEVER), (1, 0), value=self.blank_score)
        order_BU = torch.arange(1, tokens + 1, device=scores.device).expand(batch, -1)
        loss_B = nn.functional.ctc_loss(
            torch.log_softmax(with_blank, -1).transpose(0, 1), order_BU, lengths, token_lengths, reduction="none"
        )
        return (loss_B / token_lengths).mean()


class BinarizationLoss(Loss):
    """How far the soft alignment is from the hard one: the mean over a batch of each utterance's, a frame.

    Source: arXiv 2108.10447, section 3.3.
    """

    input_types = {
        "alignment": NeuralType(("B", "T", "T"), SequenceToSequenceAlignmentType()),
        "log_soft": NeuralType(("B", "T", "T"), LogprobsType()),
        "lengths": NeuralType(("B",), LengthsType()),
    }
    output_types = {"loss": NeuralType((), LossType())}

    @typecheck()
    def forward(self, *, alignment: Tensor, log_soft: Tensor, lengths: Tensor) -> Tensor:
        """Return the loss, a scalar."""
        return (-(alignment * log_soft.clamp(min=NEVER)).sum((1, 2)) / lengths).mean()


def sharpness(log_soft_BTU: Tensor, alignment_BTU: Tensor, lengths_B: Tensor) -> Tensor:
    """Return for each utterance (B,) the probability that the soft alignment gives the hard one, mean over frames: 1 is
    an alignment of ones and zeros that goes from left to right."""
    return (log_soft_BTU.exp() * alignment_BTU).sum((1, 2)) / lengths_B


def monotonicity(log_soft_BTU: Tensor, lengths_B: Tensor) -> Tensor:
    """Return for each utterance (B,) the share of steps from frame to frame in which the likeliest token is the same or
    the next one."""
    step_BT = log_soft_BTU.argmax(-1).diff(dim=1)
    inside_BT = length_mask(lengths_B - 1, step_BT.shape[1])
    return (((step_BT == 0) | (step_BT == 1)) & inside_BT).sum(1) / (lengths_B - 1).clamp(min=1)
