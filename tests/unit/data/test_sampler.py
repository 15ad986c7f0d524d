from __future__ import annotations

import copy
import pickle
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayconvai.data.manifest import Manifest
from rayconvai.data.sampler import Draw, LengthBatchSampler, Ranks
from rayconvai.errors import CheckpointError, ConfigError, DataError

LENGTHS = st.lists(st.floats(0.125, 40, width=32), min_size=1, max_size=150)
BATCHING = st.one_of(
    st.builds(lambda size: {"batch_size": size}, st.integers(1, 20)),
    st.builds(lambda seconds: {"batch_length": seconds}, st.floats(0.5, 200)),
)
OPTIONS = st.fixed_dictionaries(
    {"num_buckets": st.integers(1, 40), "shuffle": st.booleans(), "seed": st.integers(0, 9)}
)


@given(LENGTHS, BATCHING, OPTIONS, st.integers(1, 5), st.integers(0, 3))
def test_every_utterance_once_and_every_rank_as_many(
    durations: list[float], batching: dict, options: dict, world_size: int, epoch: int
) -> None:
    if len(durations) < world_size:
        with pytest.raises(DataError, match="cannot be shared"):
            LengthBatchSampler(durations, **batching, **options, ranks=Ranks(count=world_size))
        return
    ranks = []
    for rank in range(world_size):
        sampler = LengthBatchSampler(durations, **batching, **options, ranks=Ranks(rank=rank, count=world_size))
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler), "the length is known before, and the same in all epochs"
        assert all(batches)
        ranks.append(batches)
    assert len({len(batches) for batches in ranks}) == 1
    drawn = sorted(index for batches in ranks for batch in batches for index in batch)
    assert drawn == list(range(len(durations)))
    alone = LengthBatchSampler(durations, **batching, **options)
    if world_size == 1 or len(alone) + 3 * world_size <= len(durations):  # else some may have to be joined
        _assert_bound(ranks, durations, batching)


def _assert_bound(ranks: list, durations: list[float], batching: dict) -> None:
    for batch in (batch for batches in ranks for batch in batches):
        assert len(batch) <= batching.get("batch_size", len(batch))
        padded = max(durations[index] for index in batch) * len(batch)
        assert len(batch) == 1 or padded <= batching.get("batch_length", padded)


def test_utterances_that_cannot_be_divided_are_joined() -> None:
    durations = [3.0, 1.0, 1.0, 9.0, 9.0]
    ranks = [list(LengthBatchSampler(durations, batch_size=1, ranks=Ranks(rank=rank, count=2))) for rank in (0, 1)]
    assert [len(batches) for batches in ranks] == [2, 2]
    assert sorted(sorted(batch) for batches in ranks for batch in batches) == [[0], [1, 2], [3], [4]]


@given(LENGTHS, BATCHING, OPTIONS, st.data())
def test_resume_at_any_position(durations: list[float], batching: dict, options: dict, data: st.DataObject) -> None:
    sampler = LengthBatchSampler(durations, **batching, **options)
    sampler.set_epoch(3)
    whole = list(sampler)
    position = data.draw(st.integers(0, len(whole)))
    before = list(islice(sampler, position))
    state = copy.deepcopy(sampler.state_dict())
    assert state["position"] == (position or len(whole))  # at 0 nothing was drawn since the epoch ended
    resumed = LengthBatchSampler(durations, **batching, **options)
    resumed.load_state_dict({**state, "position": position})
    resumed.set_epoch(3)
    assert before + list(resumed) == whole
    assert list(resumed) == whole, "only the first iteration is a rest"


def test_restored_position_is_for_its_epoch_only() -> None:
    sampler = LengthBatchSampler(np.linspace(1, 5, 50), batch_size=4)
    list(islice(sampler, 5))
    state = sampler.state_dict()
    resumed = LengthBatchSampler(np.linspace(1, 5, 50), batch_size=4)
    resumed.load_state_dict(state)
    resumed.set_epoch(1)
    assert len(list(resumed)) == len(resumed) == 13


@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": 5},
        {"seed": 1},
        {"num_buckets": 3},
        {"ranks": Ranks(count=2)},
        {"lengths": np.linspace(1, 6, 50)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_plan_is_refused(change: dict) -> None:
    options = {"lengths": np.linspace(1, 5, 50), "batch_size": 4}
    state = LengthBatchSampler(**options).state_dict()
    with pytest.raises(CheckpointError, match="cannot resume in mid-epoch"):
        LengthBatchSampler(**{**options, **change}).load_state_dict(state)


def test_state_is_the_same_on_all_ranks() -> None:
    ranks = [
        LengthBatchSampler(np.linspace(1, 5, 50), batch_size=4, ranks=Ranks(rank=rank, count=2)) for rank in (0, 1)
    ]
    for sampler in ranks:
        list(islice(sampler, 3))
    assert ranks[0].state_dict() == ranks[1].state_dict()


def test_epochs_differ_and_seeds_repeat() -> None:
    def order(seed: int, epoch: int) -> list:
        sampler = LengthBatchSampler(np.linspace(1, 5, 200), batch_length=30, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)
    assert {draw.epoch for batch in order(0, 7) for draw in batch} == {7}
    assert pickle.loads(pickle.dumps(Draw.of(4, 7))).epoch == 7


def test_unshuffled_is_longest_first() -> None:
    durations = np.random.default_rng(0).uniform(1, 9, 100)
    sampler = LengthBatchSampler(durations, batch_size=8, shuffle=False)
    longest = [max(durations[index] for index in batch) for batch in sampler]
    assert longest == sorted(longest, reverse=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({}, "batch_seconds and batch_size exclude each other; give one", id="neither"),
        pytest.param({"batch_size": 2, "batch_length": 3}, "set the other to null", id="both"),
        pytest.param({"batch_size": 0}, "batch_size is 0", id="zero"),
        pytest.param({"batch_length": float("nan")}, "batch_seconds is nan", id="nan"),
        pytest.param({"batch_size": 2, "num_buckets": 0}, "num_buckets is 0", id="no_buckets"),
    ],
)
def test_settings_that_cannot_be(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LengthBatchSampler([1.0, 2.0, 3.0], **options)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [({"rank": 2, "count": 2}, "rank 2 is not in 0 to 1"), ({"count": 3, "most": 2}, "3 ranks are more than the 2")],
    ids=["rank", "most"],
)
def test_ranks_that_cannot_be(numbers: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Ranks(**numbers)


@pytest.mark.parametrize("size", [5, 7])
def test_ranks_learn_from_what_one_would_with_a_larger_batch(size: int) -> None:
    durations = np.random.default_rng(0).uniform(1, 9, 101)
    alone = list(LengthBatchSampler(durations, batch_size=3 * size))
    ranks = [LengthBatchSampler(durations, batch_size=size, ranks=Ranks(rank=rank, count=3)) for rank in range(3)]
    assert [sorted(i for batch in step for i in batch) for step in zip(*ranks, strict=True)] == list(map(sorted, alone))


MOVES = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 6)), min_size=1, max_size=4)


@given(LENGTHS.filter(lambda d: len(d) >= 4), BATCHING, OPTIONS, MOVES)
def test_ranks_may_come_and_go_in_mid_epoch(
    durations: list[float], batching: dict, options: dict, moves: list[tuple[int, int]]
) -> None:
    """Moves: how many ranks there are, and how many steps they take."""

    def ranks(count: int) -> list[LengthBatchSampler]:
        places = [Ranks(rank=rank, count=count, most=4) for rank in range(count)]
        return [LengthBatchSampler(durations, **batching, **options, ranks=place) for place in places]

    planned = [batch.tolist() for batch in ranks(1)[0].plan(0)]
    state, drawn = ranks(1)[0].state_dict(), []
    for count, steps in [*moves, (moves[-1][0], None)]:
        samplers = ranks(count)
        for sampler in samplers:
            sampler.load_state_dict(state)
        behind = samplers[0].position
        taken = list(islice(zip(*samplers, strict=True), steps))
        assert samplers[0].position == behind + len(taken) <= len(samplers[0])
        drawn += [batch for step in taken for batch in step]
        state = samplers[0].state_dict()
    assert samplers[0].position == len(samplers[0])
    assert drawn == planned[: len(drawn)]
    assert len(planned) - len(drawn) < max(count for count, _ in moves)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_shares_of_a_step_make_the_mean_of_its_utterances(accumulate: int) -> None:
    durations = np.random.default_rng(0).uniform(1, 9, 101)
    places = [Ranks(rank=rank, count=2, accumulate=accumulate) for rank in (0, 1)]
    ranks = [LengthBatchSampler(durations, batch_size=4, ranks=place) for place in places]
    steps: list[list] = []
    for number, batches in enumerate(zip(*ranks, strict=True)):
        steps += [[]] if number % accumulate == 0 else []
        for sampler, batch in zip(ranks, batches, strict=True):
            share = sampler.share
            assert (share.own, share.beside) == (len(batch), sum(map(len, batches)))
            steps[-1].append((share.of_step / share.batches, np.mean(durations[batch]), durations[batch]))
    for step in steps:
        mean = np.concatenate([values for *_, values in step]).mean()
        assert sum(weight * part for weight, part, _ in step) == pytest.approx(mean)


@pytest.mark.parametrize("name", ["digits_connected", "so762"])
def test_padding_of_real_speech(name: str, shared_data: Path) -> None:
    durations = Manifest.open(shared_data / name / "manifest.jsonl", "train").durations
    for batching in ({"batch_size": 16}, {"batch_length": 64.0}):
        assert LengthBatchSampler(durations, **batching).padding_ratio() < 0.08
    assert LengthBatchSampler(durations, batch_size=16, num_buckets=1).padding_ratio() > 0.3
