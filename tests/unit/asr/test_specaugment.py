"""SpecAugment."""

from __future__ import annotations

import pytest
import torch

from rayconvai.asr.specaugment import SpecAugment

LENGTHS = torch.tensor([200, 50])


def masked(**options: float) -> torch.Tensor:
    """Return where features were masked, (B, T, D)."""
    return SpecAugment(**options)(features=torch.ones(2, 200, 80), lengths=LENGTHS) == 0  # type: ignore[arg-type]


def test_masks_are_bands_and_spans_within_the_length() -> None:
    torch.manual_seed(0)
    for _ in range(50):
        bands = masked(freq_masks=1, freq_width=10, time_masks=0)
        assert (bands == bands[:, :1]).all()
        assert bands[:, 0].sum(-1).max() <= 10
        spans = masked(freq_masks=0, time_masks=1, time_width=0.1)
        assert (spans == spans[..., :1]).all()
        assert (spans[..., 0].sum(-1) <= LENGTHS * 0.1).all()
        assert not spans[1, 50:].any()
        assert (spans[..., 0].int().diff(dim=1) == 1).sum() <= 2  # one span each


def test_every_place_and_width_occurs() -> None:
    torch.manual_seed(0)
    bands = torch.cat([masked(freq_masks=1, freq_width=3, time_masks=0)[:, 0] for _ in range(600)])
    assert set(bands.sum(-1).tolist()) == {0, 1, 2, 3}
    assert bands.any(0).all()


def test_training_only_and_seeded() -> None:
    features = torch.ones(2, 200, 80)
    module = SpecAugment()
    assert torch.equal(module.eval()(features=features, lengths=LENGTHS), features)
    module.train()
    results = []
    for _ in range(2):
        torch.manual_seed(7)
        results.append(module(features=features, lengths=LENGTHS))
    assert torch.equal(*results)
    assert features.min() == 1  # not in place


def test_impossible_widths_are_refused() -> None:
    with pytest.raises(ValueError, match="time_width"):
        SpecAugment(time_width=1.5)
