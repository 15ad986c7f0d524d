"""Alignments that are learnt: the prior, the likeliest path, the sum over all paths."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import betabinom
from torch import Tensor

from rayconvai.tts.alignment import (
    AlignmentEncoder,
    BinarizationLoss,
    ForwardSumLoss,
    beta_binomial_prior,
    monotonic_alignment,
    monotonicity,
    sharpness,
)
from rayconvai.tts.prosody import ProsodyTargets, alignment_of


def best_path(scores_TU: np.ndarray) -> np.ndarray:
    """The plain dynamic programme, cell by cell."""
    frames, tokens = scores_TU.shape
    best = np.full((frames, tokens), -np.inf)
    best[0, 0] = scores_TU[0, 0]
    for t in range(1, frames):
        for u in range(tokens):
            best[t, u] = scores_TU[t, u] + max(best[t - 1, u], best[t - 1, u - 1] if u else -np.inf)
    path, u = np.zeros((frames, tokens)), tokens - 1
    for t in range(frames - 1, -1, -1):
        path[t, u] = 1
        if t and u and best[t - 1, u - 1] > best[t - 1, u]:
            u -= 1
    return path


def batch(*sizes: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    lengths, tokens = (torch.tensor(column) for column in zip(*sizes, strict=True))
    scores = torch.randn(len(sizes), int(lengths.max()), int(tokens.max()), generator=torch.Generator().manual_seed(3))
    return scores.log_softmax(-1), lengths, tokens


def test_the_likeliest_alignment_is_that_of_the_plain_dynamic_programme() -> None:
    scores, lengths, tokens = batch((9, 4), (12, 12), (5, 1), (20, 7), (1, 1))
    found = monotonic_alignment(scores, lengths, tokens)
    for row, (length, count) in enumerate(zip(lengths.tolist(), tokens.tolist(), strict=True)):
        assert np.array_equal(found[row, :length, :count].numpy(), best_path(scores[row, :length, :count].numpy()))
        assert found[row].sum() == length
    assert (found.sum(1)[:, 0] >= 1).all()


def test_the_prior_is_beta_binomial() -> None:
    lengths, tokens = torch.tensor([30, 11]), torch.tensor([7, 4])
    prior = beta_binomial_prior(lengths, tokens, 30, 7)
    for row, (length, count) in enumerate(zip(lengths.tolist(), tokens.tolist(), strict=True)):
        expected = [betabinom(count - 1, t + 1, length - t).logpmf(np.arange(count)) for t in range(length)]
        np.testing.assert_allclose(prior[row, :length, :count].numpy(), np.array(expected), atol=1e-5)
    assert prior[1, 11:].abs().sum() == prior[1, :, 4:].abs().sum() == 0


def test_losses_are_means_over_utterances_whatever_the_padding() -> None:
    scores, lengths, tokens = batch((9, 4), (20, 7))
    hard = monotonic_alignment(scores, lengths, tokens)
    together = (
        ForwardSumLoss()(scores=scores, lengths=lengths, token_lengths=tokens),
        BinarizationLoss()(alignment=hard, log_soft=scores, lengths=lengths),
    )
    alone = []
    for row, (length, count) in enumerate(zip(lengths.tolist(), tokens.tolist(), strict=True)):
        one, sizes = slice(row, row + 1), {"lengths": lengths[row : row + 1]}
        own, own_hard = scores[one, :length, :count], hard[one, :length, :count]
        # All ways through the text, with frames of no token between: CTC by another door.
        with_blank = torch.cat([torch.full((1, length, 1), -1.0), own], -1).log_softmax(-1)
        expected = torch.nn.CTCLoss(reduction="sum")(
            with_blank[0], torch.arange(1, count + 1), torch.tensor(length), torch.tensor(count)
        )
        found = ForwardSumLoss()(scores=own, token_lengths=tokens[one], **sizes)
        torch.testing.assert_close(found, expected / count)
        alone.append((found, BinarizationLoss()(alignment=own_hard, log_soft=own, **sizes)))
    for whole, parts in zip(together, zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(whole, torch.stack(parts).mean())


def test_an_utterance_is_aligned_alone_as_in_a_batch_and_padding_gets_nothing() -> None:
    torch.manual_seed(0)
    aligner = AlignmentEncoder(num_mels=8, embedding_dim=6)
    mel, embedded = torch.randn(2, 8, 20), torch.randn(2, 7, 6)
    lengths, tokens = torch.tensor([20, 9]), torch.tensor([7, 4])
    _, together = aligner(mel=mel, lengths=lengths, embedded=embedded, token_lengths=tokens)
    _, alone = aligner(mel=mel[1:, :, :9], lengths=lengths[1:], embedded=embedded[1:, :4], token_lengths=tokens[1:])
    torch.testing.assert_close(together[1, :9, :4], alone[0], atol=1e-5, rtol=0)
    assert together[1, :, 4:].exp().max() == 0
    loss = -together[1, :9].logsumexp(-1).sum() + together[0].mean()
    loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in aligner.parameters() if parameter.grad is not None)


def test_sharp_and_monotonic_alignments_measure_1() -> None:
    durations = torch.tensor([[2, 0, 3], [1, 1, 1]])
    hard = alignment_of(durations)
    assert hard.shape == (2, 5, 3)
    assert torch.equal(hard.sum(1), durations.float())
    lengths, log_hard = torch.tensor([5, 3]), torch.where(hard > 0, 0.0, -1e4)
    assert sharpness(log_hard, hard, lengths).tolist() == [1, 1]
    assert monotonicity(log_hard, lengths).tolist() == [pytest.approx(3 / 4), 1]  # the first skips a token
    flat = torch.full_like(hard, 1 / 3).log()
    torch.testing.assert_close(sharpness(flat, hard, lengths), torch.tensor([1 / 3, 1 / 3]))


def test_prosody_of_a_token_is_the_mean_of_its_voiced_frames() -> None:
    targets = ProsodyTargets()
    targets.set_pitch(200.0, 50.0)
    alignment = alignment_of(torch.tensor([[2, 3, 1]]))
    pitch = torch.tensor([[300.0, 200.0, 0.0, 100.0, 150.0, 0.0]])
    mel = torch.log(torch.tensor([3.0, 3, 1, 1, 1, 2])).expand(1, 4, 6)
    token_pitch, energy = targets(pitch=pitch, mel=mel, alignment=alignment)
    torch.testing.assert_close(token_pitch, torch.tensor([[1.0, -1.5, 0.0]]))
    torch.testing.assert_close(energy, torch.log1p(torch.tensor([[6.0, 2.0, 4.0]])))
    octave_up = targets.shift(token_pitch, 12.0) * 50 + 200
    torch.testing.assert_close(octave_up, 2 * (token_pitch * 50 + 200))
