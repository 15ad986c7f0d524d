"""Batches of examples of similar length, the same plan on every rank and for any number of them."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler

from rayconvai.errors import CheckpointError, ConfigError, DataError

Indices = npt.NDArray[np.int64]
_log = logging.getLogger("rayconvai")


class Draw(int):
    """An index into a dataset that knows the epoch it is drawn for; so augmentation differs from epoch to epoch."""

    epoch: int = 0

    @classmethod
    def of(cls, index: int, epoch: int) -> Draw:
        draw = cls(index)
        draw.epoch = epoch
        return draw


def mixed(seed: int, index: int) -> int:
    """Return 64 bits that follow from a seed, an index and the epoch that it was drawn for; near ones are unrelated."""
    numbers = (seed, int(getattr(index, "epoch", 0)), int(index))
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest(), "little")


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Who shares the batches.

    Raises:
        ConfigError: numbers that cannot be.
    """

    rank: int = 0
    """Which share to yield."""
    count: int = 1
    most: int | None = None
    """How many ranks the plan of an epoch is made for; None: as many as there are. It stays the same when there are
    fewer, who take its batches in the same order."""
    accumulate: int = 1
    """Batches of each rank in an optimizer step."""

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.count:
            raise ConfigError(f"rank {self.rank} is not in 0 to {self.count - 1}; give the rank of this process")
        if self.planned < self.count:
            raise ConfigError(f"{self.count} ranks are more than the {self.most} that the batches are planned for")

    @property
    def planned(self) -> int:
        """The number of ranks that a plan is made for."""
        return self.count if self.most is None else self.most


@dataclass(frozen=True)
class Share:
    """What a batch is of all that one optimizer step learns from, in examples."""

    own: int
    beside: int
    """In the batches that all ranks have now."""
    step: int
    """In all batches of all ranks until the optimizer steps."""
    batches: int
    """How many batches a step has; the last of an epoch may have fewer."""

    @property
    def of_step(self) -> float:
        """What a batch's mean counts, where the mean over the batches is to be that over the examples of the step."""
        return self.own * self.batches / self.step


class LengthBatchSampler(Sampler[list[int]]):
    """Yields lists of ``Draw``: batches of similar length, in random order.

    Lengths are seconds of speech, tokens of text, or whatever examples are measured in. Examples are put into buckets
    of equal total length, and into steps at random within their bucket: so many examples as make a batch for each rank.
    What does not fill a step moves on to the next longer bucket. A step is divided evenly among the ranks, so that n
    ranks learn from the same examples at each step as one rank would with n times the ``batch_size``. Steps and their
    order are new in each epoch, their number is not.

    Every example comes exactly once an epoch, and all ranks get the same number of batches; steps of fewer examples
    than ranks take some from others. (Only if there are too few for that are steps joined, beyond the bound.)

    A plan that is made for more ranks than there are (``Ranks.most``) is the same for any number of them: they take its
    batches in order, as many at a time as they are. A position in it is a number of batches of all ranks, so a run goes
    on in mid-epoch with more or fewer ranks, and each example still comes once; but if the ranks do not divide the
    batches that are left, the last few, less than one for each rank, are left out of that epoch.

    Args:
        lengths: of each example, (N,), in ``unit``.
        batch_length: most of a batch, padding included: longest example times number of examples. A longer example is
            a batch of its own.
        batch_size: instead, number of examples.
        num_buckets: more buckets: less padding, and less random company.
        unit: what lengths are measured in; the config's key for ``batch_length`` is ``batch_UNIT``.
        shuffle: False gives the same batches, longest first, in each epoch.
        seed: of the random order; the same on all ranks.
        ranks: who shares the batches.

    Raises:
        ConfigError: settings that cannot be.
        DataError: fewer examples than ranks.
    """

    def __init__(
        self,
        lengths: Sequence[float] | npt.NDArray[Any],
        *,
        batch_length: float | None = None,
        batch_size: int | None = None,
        num_buckets: int = 16,
        unit: str = "seconds",
        shuffle: bool = True,
        seed: int = 0,
        ranks: Ranks = Ranks(),  # frozen
    ) -> None:
        self.lengths = np.asarray(lengths, dtype=np.float64)
        self.shuffle, self.seed, self.ranks = shuffle, seed, ranks
        check_batching(batch_length, batch_size, num_buckets, unit)
        planned = ranks.planned
        if len(self.lengths) < planned:
            raise DataError(f"{len(self.lengths)} examples cannot be shared by {planned} ranks; use fewer ranks")
        self._buckets = _buckets(self.lengths, num_buckets, batch_length, unit)
        sizes = [batch_size or _fitting(batch_length, self.lengths[bucket[-1]]) for bucket in self._buckets]
        self._sizes = [size * planned for size in sizes]
        settings = [batch_length, batch_size, num_buckets, shuffle, seed, planned]
        content = hashlib.sha256(self.lengths.tobytes() + json.dumps(settings).encode())
        self._identity = content.hexdigest()
        self._total = self._count_steps() * planned
        self.epoch, self._used, self._resume_at = 0, 0, 0
        self._dealt: list[list[int]] = []
        self.moved = False
        """The state that was loaded is one of another number of ranks."""

    @property
    def sampler(self) -> LengthBatchSampler:
        """Itself: Lightning calls ``set_epoch`` on a batch sampler's ``sampler``, not on the batch sampler."""
        return self

    def __len__(self) -> int:
        """Number of batches of this rank; the same on all ranks and in all epochs."""
        return self._total // self.ranks.count

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.begin():
            self.advance()
            yield batch

    def begin(self) -> Iterator[list[int]]:
        """Yield the batches of the epoch from the restored position on, not counting them: see ``advance``."""
        self._used, self._resume_at = self._resume_at, 0
        epoch, batches, count = self.epoch, self.plan(self.epoch), self.ranks.count
        together = [batches[first : first + count] for first in range(self._used, self._end, count)]
        self._dealt = [[len(batch) for batch in group] for group in together]
        for group in together:
            yield [Draw.of(index, epoch) for index in group[self.ranks.rank].tolist()]

    def advance(self) -> None:
        """Count a batch as used. Who draws batches ahead of their use (a loader) calls this at their use."""
        self._used += self.ranks.count

    @property
    def position(self) -> int:
        """How many of its ``len(self)`` batches this rank has behind it, counted back from the end of the epoch."""
        return len(self) - (self._end - self._used) // self.ranks.count

    @property
    def share(self) -> Share:
        """What the batch that was used last is of its step."""
        ranks, first = self.ranks, len(self) - len(self._dealt)
        at = self.position - 1
        begin = at - at % ranks.accumulate
        step = self._dealt[max(begin - first, 0) : begin - first + ranks.accumulate]
        now = self._dealt[at - first]
        return Share(now[ranks.rank], sum(now), sum(map(sum, step)), ranks.count * ranks.accumulate)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration. A position restored for another epoch is given up."""
        if epoch != self.epoch:
            self.epoch, self._used, self._resume_at = epoch, 0, 0

    def state_dict(self) -> dict[str, Any]:
        """Return how many batches of the epoch's plan all ranks have used; the same on all ranks."""
        place = {"epoch": self.epoch, "position": self._used, "length": self._end}
        return {**place, "ranks": self.ranks.count, "plan": self._identity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next iteration begin where the state was taken, by as many ranks or by others.

        Raises:
            CheckpointError: it was taken in mid-epoch with other examples or settings.
        """
        ended = state["position"] >= state.get("length", math.inf)  # older states do not say
        if state["plan"] != self._identity and not ended:
            raise CheckpointError(
                "cannot resume in mid-epoch: the training data, the batch settings, the seed or the number of "
                "ranks (the largest, where it may vary) changed since the checkpoint; restore them, or start from an "
                "end-of-epoch checkpoint"
            )
        self.epoch, self.moved = int(state["epoch"]), state.get("ranks", self.ranks.count) != self.ranks.count
        self._used = self._resume_at = self._total if ended else int(state["position"])

    @property
    def _end(self) -> int:
        """How many batches of the plan will have been used at the end of the epoch."""
        return self._total - (self._total - self._used) % self.ranks.count

    def padding_ratio(self, epoch: int | None = None) -> float:
        """Return which part of all batches of an epoch (the present one) is padding, 0 to 1."""
        batches = self.plan(self.epoch if epoch is None else epoch)
        padded = sum(float(self.lengths[batch].max()) * len(batch) for batch in batches)
        return 1 - float(self.lengths.sum()) / padded

    def plan(self, epoch: int) -> list[Indices]:
        """Return all batches of an epoch in order, those of a step beside each other."""
        random, planned = np.random.default_rng((self.seed, epoch)), self.ranks.planned
        steps: list[Indices] = []
        rest = np.empty(0, dtype=np.int64)
        for bucket, size, before in zip(self._buckets, self._sizes, [0, *self._sizes[:-1]], strict=True):
            if size == planned < before and len(rest):  # not one by one with those that stand alone
                steps.append(rest)
                rest = rest[:0]
            pool = np.concatenate([rest, random.permutation(bucket) if self.shuffle else bucket])
            full = len(pool) // size * size
            steps.extend(np.split(pool[:full], full // size) if full else [])
            rest = pool[full:]
        if len(rest):
            steps.append(rest)
        self._fill(steps)
        order = random.permutation(len(steps)) if self.shuffle else range(len(steps))[::-1]
        return [batch for i in order for batch in np.array_split(steps[i], planned)]

    def _count_steps(self) -> int:
        """Return the number of steps of ``plan``, without making it."""
        planned = self.ranks.planned
        count = rest = 0
        for bucket, size, before in zip(self._buckets, self._sizes, [0, *self._sizes[:-1]], strict=True):
            if size == planned < before:
                count, rest = count + bool(rest), 0
            full, rest = divmod(rest + len(bucket), size)
            count += full
        return min(count + bool(rest), len(self.lengths) // planned)

    def _fill(self, steps: list[Indices]) -> None:
        """Let every step have an example for each rank."""
        planned = self.ranks.planned
        while len(steps) * planned > self._total:
            steps.sort(key=lambda step: float(self.lengths[step].max()) * len(step))
            joined = np.concatenate(steps[:2])
            steps[:2] = [joined[np.argsort(self.lengths[joined], kind="stable")]]  # the short ones make the pairs
        for at in [i for i, step in enumerate(steps) if len(step) < planned]:
            while len(steps[at]) < planned:
                giver = max(range(len(steps)), key=lambda i: len(steps[i]))
                steps[at], steps[giver] = np.append(steps[at], steps[giver][-1]), steps[giver][:-1]


def check_batching(batch_length: float | None, batch_size: int | None, num_buckets: int, unit: str = "seconds") -> None:
    """Check the settings of batches.

    Raises:
        ConfigError: settings that cannot be.
    """
    key = f"batch_{unit}"
    if (batch_length is None) == (batch_size is None):
        raise ConfigError(f"{key} and batch_size exclude each other; give one and set the other to null")
    for name, value in ((key, batch_length), ("batch_size", batch_size), ("num_buckets", num_buckets)):
        if value is not None and not value > 0:
            raise ConfigError(f"{name} is {value}; it must be more than 0")


def _fitting(batch_length: float | None, longest: float) -> int:
    """Return how many examples of this length fit."""
    assert batch_length is not None
    count = max(1, math.floor(batch_length / longest))
    return count - 1 if count > 1 and count * longest > batch_length else count


def _buckets(lengths: npt.NDArray[np.float64], num_buckets: int, most: float | None, unit: str) -> list[Indices]:
    """Cut the examples, by length, into parts of equal total length. Those beyond a whole batch are kept apart."""
    order = np.argsort(lengths, kind="stable")
    fits = len(order) if most is None else int(np.searchsorted(lengths[order], most, side="right"))
    order, alone = order[:fits], order[fits:]
    sums = np.cumsum(lengths[order])
    total = sums[-1] if len(sums) else 0.0
    cuts = np.searchsorted(sums, total * np.arange(1, num_buckets) / num_buckets)
    parts = [part for part in np.split(order, cuts) if len(part)]
    if len(alone):
        _log.info("%d examples are longer than batch_%s=%s and make batches alone", len(alone), unit, most)
        parts.append(alone)
    return parts
