"""CTC: decoder, loss, greedy decoding, and what fits."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from rayconvai.asr.ctc import CTCDecoder, CTCLoss, FrameRate, frames_needed
from rayconvai.asr.decoding.greedy import GreedyCTCDecoder

BLANK = 3


def collapse(path: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(label for label, _ in itertools.groupby(path) if label != BLANK)


def brute_force(log_probs: Tensor, tokens: list[int]) -> Tensor:
    """Return -log of the summed probability of every path that collapses to ``tokens``."""
    frames, classes = log_probs.shape
    scores = [
        sum(log_probs[frame, label] for frame, label in enumerate(path))
        for path in itertools.product(range(classes), repeat=frames)
        if collapse(path) == tuple(tokens)
    ]
    return -torch.logsumexp(torch.stack(scores), 0)  # type: ignore[arg-type]


def test_loss_is_the_mean_over_all_paths() -> None:
    torch.manual_seed(0)
    log_probs = torch.randn(3, 6, BLANK + 1).log_softmax(-1)
    tokens, lengths = [[0, 1], [2, 2, 0], [1]], [6, 5, 2]
    expected = [brute_force(log_probs[i, : lengths[i]], tokens[i]) for i in range(3)]
    loss = CTCLoss(blank_id=BLANK)(
        log_probs=log_probs,
        lengths=torch.tensor(lengths),
        tokens=torch.tensor([[0, 1, 0], [2, 2, 0], [1, 0, 0]]),
        token_lengths=torch.tensor([2, 3, 1]),
    )
    torch.testing.assert_close(loss, torch.stack(expected).mean())


@pytest.mark.parametrize(
    ("tokens", "needed"),
    [
        pytest.param([], 0, id="empty"),
        pytest.param([1, 2, 3], 3, id="different"),
        pytest.param([1, 1, 2, 2, 2], 8, id="repeats_need_blanks"),
    ],
)
def test_the_loss_is_infinite_below_frames_needed(tokens: list[int], needed: int) -> None:
    assert frames_needed(tokens) == needed
    for frames in (needed - 1, needed):
        if frames < 1:
            continue
        loss = CTCLoss(blank_id=4)(
            log_probs=torch.full((1, frames, 5), 0.2).log(),
            lengths=torch.tensor([frames]),
            tokens=torch.tensor([tokens], dtype=torch.int64),
            token_lengths=torch.tensor([len(tokens)]),
        )
        assert torch.isfinite(loss) == (frames >= needed)


def test_decoder_gives_log_probabilities_in_float32() -> None:
    decoder = CTCDecoder(in_features=8, num_classes=5)
    assert decoder.blank_id == 4
    with torch.autocast("cpu", torch.bfloat16):
        log_probs = decoder(encoded=torch.randn(2, 7, 8))
    assert log_probs.dtype == torch.float32
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(2, 7))


@pytest.mark.parametrize(
    ("path", "tokens"),
    [
        pytest.param([3, 3, 3], [], id="blanks"),
        pytest.param([0, 0, 0], [0], id="repeat_is_one"),
        pytest.param([0, 3, 0], [0, 0], id="blank_parts_repeats"),
        pytest.param([0, 0, 1, 1, 3, 1, 2], [0, 1, 1, 2], id="mixed"),
        pytest.param([3, 2, 2, 3], [2], id="blank_ends"),
    ],
)
def test_greedy(path: list[int], tokens: list[int]) -> None:
    log_probs = torch.nn.functional.one_hot(torch.tensor([path, path]), BLANK + 1).float()
    assert tuple(tokens) == collapse(tuple(path))
    assert GreedyCTCDecoder(BLANK)(log_probs, torch.tensor([len(path), 1])) == [tokens, list(collapse(path[:1]))]


@pytest.mark.parametrize(("samples", "frames"), [(0, 1), (159, 1), (160, 1), (479, 1), (640, 2), (16_000, 26)])
def test_frame_rate(samples: int, frames: int) -> None:
    rate = FrameRate(16_000, 160, 4)
    assert rate.frames(samples) == frames
    assert rate.fits(samples, list(range(frames)))
    assert not rate.fits(samples, [1] * (frames + 1))
