"""Batches of utterances of similar length, the same plan on every rank."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Iterator, Sequence
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


class DurationBatchSampler(Sampler[list[int]]):
    """Yields lists of ``Draw``: batches of similar duration, in random order.

    Utterances are put into buckets that hold equal seconds of speech, and into batches at random within their bucket;
    what does not fill a batch moves on to the next longer bucket. Batches and their order are new in each epoch, their
    number is not. Ranks take neighbouring batches in the same step, so that none waits long. Every utterance comes
    exactly once an epoch, and all ranks get the same number of batches: where the count does not divide, batches are
    split in two. (Only if there are too few utterances for that, the shortest are joined, beyond the bound.)

    Args:
        durations: seconds of each utterance, (N,).
        batch_seconds: most seconds of a batch, padding included: longest utterance times number of utterances. A longer
            utterance is a batch of its own.
        batch_size: instead, number of utterances.
        num_buckets: more buckets: less padding, and less random company.
        shuffle: False gives the same batches, longest first, in each epoch.
        seed: of the random order; the same on all ranks.
        rank: which share to yield.
        world_size: number of shares.

    Raises:
        ConfigError: settings that cannot be.
        DataError: fewer utterances than ranks.
    """

    def __init__(
        self,
        durations: Sequence[float] | npt.NDArray[np.floating[Any]],
        *,
        batch_seconds: float | None = None,
        batch_size: int | None = None,
        num_buckets: int = 16,
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.durations = np.asarray(durations, dtype=np.float64)
        self.shuffle, self.seed, self.rank, self.world_size = shuffle, seed, rank, world_size
        check_batching(batch_seconds, batch_size, num_buckets)
        if not 0 <= rank < world_size:
            raise ConfigError(f"rank {rank} is not in 0 to {world_size - 1}; give the rank of this process")
        if len(self.durations) < world_size:
            raise DataError(f"{len(self.durations)} utterances cannot be shared by {world_size} ranks; use fewer ranks")
        self._buckets = _buckets(self.durations, num_buckets, batch_seconds)
        self._sizes = [batch_size or _fitting(batch_seconds, self.durations[bucket[-1]]) for bucket in self._buckets]
        settings = [batch_seconds, batch_size, num_buckets, shuffle, seed, world_size]
        content = hashlib.sha256(self.durations.tobytes() + json.dumps(settings).encode())
        self._identity = content.hexdigest()
        self._count = self._count_batches()
        self.epoch, self._position, self._resume_at = 0, 0, 0

    @property
    def sampler(self) -> DurationBatchSampler:
        """Itself: Lightning calls ``set_epoch`` on a batch sampler's ``sampler``, not on the batch sampler."""
        return self

    def __len__(self) -> int:
        """Number of batches of this rank; the same on all ranks and in all epochs."""
        return self._count // self.world_size

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.begin():
            self.advance()
            yield batch

    def begin(self) -> Iterator[list[int]]:
        """Yield the batches of the epoch from the restored position on, not counting them: see ``advance``."""
        self._position, self._resume_at = self._resume_at, 0
        epoch, batches = self.epoch, self.plan(self.epoch)[self.rank :: self.world_size]
        for batch in batches[self._position :]:
            yield [Draw.of(index, epoch) for index in batch.tolist()]

    def advance(self) -> None:
        """Count a batch as used. Who draws batches ahead of their use (a loader) calls this at their use."""
        self._position += 1

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration. A position restored for another epoch is given up."""
        if epoch != self.epoch:
            self.epoch, self._position, self._resume_at = epoch, 0, 0

    def state_dict(self) -> dict[str, Any]:
        """Return ``{"epoch", "position", "length", "plan"}``: batches used of the epoch's; the same on all ranks."""
        return {"epoch": self.epoch, "position": self._position, "length": len(self), "plan": self._identity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next iteration begin where the state was taken.

        Raises:
            CheckpointError: it was taken in mid-epoch with other utterances or settings.
        """
        ended = state["position"] >= state.get("length", math.inf)  # older states do not say
        if state["plan"] != self._identity and not ended:
            raise CheckpointError(
                "cannot resume in mid-epoch: the training utterances, the batch settings, the seed or the number of "
                "ranks changed since the checkpoint; restore them, or start from an end-of-epoch checkpoint"
            )
        self.epoch = int(state["epoch"])
        self._position = self._resume_at = len(self) if ended else int(state["position"])

    def padding_ratio(self, epoch: int | None = None) -> float:
        """Return which part of all batches of an epoch (the present one) is padding, 0 to 1."""
        batches = self.plan(self.epoch if epoch is None else epoch)
        padded = sum(float(self.durations[batch].max()) * len(batch) for batch in batches)
        return 1 - float(self.durations.sum()) / padded

    def plan(self, epoch: int) -> list[Indices]:
        """Return all ranks' batches of an epoch in order: step i is ``plan[i * world_size : (i + 1) * world_size]``."""
        random = np.random.default_rng((self.seed, epoch))
        batches: list[Indices] = []
        rest = np.empty(0, dtype=np.int64)
        for bucket, size in zip(self._buckets, self._sizes, strict=True):
            if size == 1 and len(rest):  # not one by one with those that stand alone
                batches.append(rest)
                rest = rest[:0]
            pool = np.concatenate([rest, random.permutation(bucket) if self.shuffle else bucket])
            full = len(pool) // size * size
            batches.extend(np.split(pool[:full], full // size) if full else [])
            rest = pool[full:]
        if len(rest):
            batches.append(rest)
        batches = self._resize(batches)
        steps = [batches[first : first + self.world_size] for first in range(0, len(batches), self.world_size)]
        if not self.shuffle:
            return [batch for step in reversed(steps) for batch in reversed(step)]
        order = random.permutation(len(steps))
        return [steps[i][j] for i in order for j in random.permutation(self.world_size)]

    def _count_batches(self) -> int:
        """Return the number of batches of ``plan``, without making it."""
        count = rest = 0
        for bucket, size in zip(self._buckets, self._sizes, strict=True):
            if size == 1:
                count, rest = count + bool(rest), 0
            full, rest = divmod(rest + len(bucket), size)
            count += full
        count += bool(rest)
        return _divisible(count, len(self.durations), self.world_size)

    def _resize(self, batches: list[Indices]) -> list[Indices]:
        """Split batches (the largest first), or join them, until every rank gets as many."""
        while len(batches) < self._count:
            at = max(range(len(batches)), key=lambda i: len(batches[i]))
            half = len(batches[at]) // 2
            batches[at : at + 1] = [batches[at][:half], batches[at][half:]]
        while len(batches) > self._count:
            batches.sort(key=lambda batch: float(self.durations[batch].max()) * len(batch))
            batches[:2] = [np.concatenate(batches[:2])]
        return batches


def check_batching(batch_seconds: float | None, batch_size: int | None, num_buckets: int) -> None:
    """Check the settings of batches.

    Raises:
        ConfigError: settings that cannot be.
    """
    if (batch_seconds is None) == (batch_size is None):
        raise ConfigError("batch_seconds and batch_size exclude each other; give one and set the other to null")
    for name, value in (("batch_seconds", batch_seconds), ("batch_size", batch_size), ("num_buckets", num_buckets)):
        if value is not None and not value > 0:
            raise ConfigError(f"{name} is {value}; it must be more than 0")


def _fitting(batch_seconds: float | None, longest: float) -> int:
    """Return how many utterances of this length fit."""
    assert batch_seconds is not None
    count = max(1, math.floor(batch_seconds / longest))
    return count - 1 if count > 1 and count * longest > batch_seconds else count


def _buckets(durations: npt.NDArray[np.float64], num_buckets: int, batch_seconds: float | None) -> list[Indices]:
    """Cut the utterances, by duration, into parts of equal seconds. Those beyond a whole batch are kept apart."""
    order = np.argsort(durations, kind="stable")
    fits = len(order) if batch_seconds is None else int(np.searchsorted(durations[order], batch_seconds, side="right"))
    order, alone = order[:fits], order[fits:]
    seconds = np.cumsum(durations[order])
    total = seconds[-1] if len(seconds) else 0.0
    cuts = np.searchsorted(seconds, total * np.arange(1, num_buckets) / num_buckets)
    parts = [part for part in np.split(order, cuts) if len(part)]
    if len(alone):
        _log.info("%d utterances are longer than batch_seconds=%s and make batches alone", len(alone), batch_seconds)
        parts.append(alone)
    return parts


def _divisible(count: int, utterances: int, world_size: int) -> int:
    """Return the number of batches nearest ``count`` that divides by the ranks and that the utterances can make."""
    up = -(-count // world_size) * world_size
    return up if up <= utterances else count // world_size * world_size
