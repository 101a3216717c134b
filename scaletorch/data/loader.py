"""Batches of a source: the same global batches on any mesh."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from scaletorch.data.options import check_least
from scaletorch.data.order import key_of, shuffled
from scaletorch.data.source import Augmented, Sample, Source
from scaletorch.data.workers import leave_to_parent

__all__ = ["Batch", "Loader"]

Batch = dict[str, torch.Tensor]
"""Tensors on the host by name, samples along the first dim."""

_Key = tuple[int, int]
_STATE_VERSION = 1


class Loader:
    """Reads a source in batches, in an order that seed and epoch decide.

    Iterating gives the rest of the present epoch; the next iteration gives
    the next epoch. The order depends on neither the number of ranks nor of
    workers, so that global batch `k` is the same in every run.

    Parameters
    ----------
    source : Source or Augmented
    batch_size : int
        Samples in a global batch.
    shuffle : bool
        Whether every epoch has an order of its own.
    seed : int
        Of the orders and of augmentation.
    workers : int
        Processes that read ahead; 0 reads in this one.
    prefetch : int
        Batches that each worker reads ahead.
    drop_last : bool
        Whether to leave out an epoch's last batch when it is not full.
    pin_memory : bool
        Whether tensors are made in page-locked memory, from which copies
        to an accelerator run beside the computation.

    Raises
    ------
    ValueError
        For a size that is not positive, or a source without a full batch.

    Attributes
    ----------
    epoch : int
        The epoch that the next batch is of.
    position : int
        Samples of the epoch that were given out.
    """

    def __init__(self,
                 source: Source | Augmented,
                 *,
                 batch_size: int,
                 shuffle: bool = True,
                 seed: int = 0,
                 workers: int = 0,
                 prefetch: int = 2,
                 drop_last: bool = True,
                 pin_memory: bool = False) -> None:
        check_least(0, workers=workers)
        check_least(1, batch_size=batch_size, prefetch=prefetch)
        self.source = source
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.drop_last = drop_last
        self.epoch = 0
        self.position = 0
        self._turn = 0
        self._length = len(source)
        self._workers = workers
        self._prefetch = prefetch
        self._pin_memory = pin_memory
        if self.len_batches == 0:
            raise ValueError(
                f"there are {self._length} samples, which make no batch of "
                f"{batch_size}; give it more data, a smaller batch_size or "
                "drop_last: false")

    @property
    def len_batches(self) -> int:
        """Batches in a whole epoch."""
        return self._count(self._length)

    def _count(self, samples: int) -> int:
        full, rest = divmod(samples, self.batch_size)
        return full + (bool(rest) and not self.drop_last)

    def __iter__(self) -> Iterator[Batch]:
        return self.rows(0, 1)

    def rows(self, index: int, count: int, width: int = 1) -> Iterator[Batch]:
        """The rest of the epoch, of every batch some of `count` equal parts.

        Only these rows are read. The position is that of whole batches, so
        that a state can be loaded by a run with other parts.

        Parameters
        ----------
        index, count : int
        width : int
            How many parts, from the one of number `index`.

        Raises
        ------
        ValueError
            When a batch can't be divided so.
        """
        last = index + width - 1
        if not 0 <= index <= last < count:
            raise ValueError(f"there is no part {last} of {count}")
        self._turn += 1
        starts = self._starts()
        batches = DataLoader(
            _Rows(self.source, self.seed),
            # Made batch by batch: an epoch's keys would fill the memory.
            batch_sampler=self._keys(self.epoch, starts,
                                     (index, count, width)),
            num_workers=self._workers,
            prefetch_factor=self._prefetch if self._workers else None,
            pin_memory=self._pin_memory,
            collate_fn=_collated,
            worker_init_fn=leave_to_parent,
            # Its seed for workers would else move torch's own generator,
            # and with it what the model draws.
            generator=torch.Generator().manual_seed(self.seed))
        return self._counted(self._turn, starts, batches)

    def _counted(self, turn: int, starts: Sequence[int],
                 batches: Iterable[Batch]) -> Iterator[Batch]:
        for start, batch in zip(starts, batches, strict=True):
            self._check_turn(turn)
            # Before it is given out: who saves in the loop's body has
            # used the batch.
            self.position = min(start + self.batch_size, self._length)
            yield batch
        self._check_turn(turn)
        self.epoch, self.position = self.epoch + 1, 0

    def _check_turn(self, turn: int) -> None:
        if self._turn != turn:
            raise RuntimeError(
                "the loader's state was loaded, or it was iterated a second "
                "time, while an iteration was under way; start a new one")

    def _starts(self) -> range:
        """Where the batches that are left in the epoch start."""
        if self._count(self._length - self.position) == 0:
            # The last batch was given out, but the loop did not come back.
            self.epoch, self.position = self.epoch + 1, 0
        number = self._count(self._length - self.position)
        return range(self.position, self.position + number * self.batch_size,
                     self.batch_size)

    def _keys(self, epoch: int, starts: Sequence[int],
              part: tuple[int, int, int]) -> Iterator[list[_Key]]:
        """Epoch and sample of every row that is wanted, by batch."""
        index, count, width = part
        for start in starts:
            size = min(self.batch_size, self._length - start)
            if size % count:
                raise ValueError(
                    f"a batch of {size} rows can't be divided among {count} "
                    "ranks: choose a batch_size that divides" +
                    ("" if self.drop_last else ", and drop_last=True"))
            share = size // count
            places = start + index * share + np.arange(width * share)
            if self.shuffle:
                places = shuffled(places,
                                  length=self._length,
                                  seed=self.seed,
                                  epoch=epoch)
            yield [(epoch, int(p)) for p in places]

    def example(self) -> Batch:
        """Tensors on meta with the shapes of a full global batch.

        To plan with: ``auto_parallelize(example_inputs=...)``.
        """
        return {
            n:
            torch.empty((self.batch_size, *t.shape),
                        dtype=t.dtype,
                        device="meta")
            for n, t in _sample(self.source, self.seed, (0, 0)).items()
        }

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands, as plain numbers."""
        return {
            "version": _STATE_VERSION,
            "epoch": self.epoch,
            "position": self.position,
            "length": self._length,
            "seed": self.seed,
            "shuffle": self.shuffle
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another loader stood, after its last batch.

        The batch size may be another one.

        Raises
        ------
        ValueError
            When the other loader's source or order were not this one's.
        """
        own = self.state_dict()
        if set(state) != set(own):
            raise ValueError("this is no loader's state: it has the keys "
                             f"{sorted(state)}, not {sorted(own)}")
        for name in ("version", "length", "seed", "shuffle"):
            if state[name] != own[name]:
                raise ValueError(
                    f"the loader was saved with {name} {state[name]}, but "
                    f"has {own[name]}: its position means other samples; "
                    "build the loader as before, or start without its state")
        self._turn += 1
        self.epoch = int(state["epoch"])
        self.position = int(state["position"])


def _sample(source: Source | Augmented, seed: int, key: _Key) -> Sample:
    epoch, index = key
    if isinstance(source, Augmented):
        return source.augmented(index, key_of(seed, epoch, index))
    return source[index]


class _Rows(Dataset[Sample]):
    """What workers of torch's DataLoader read."""

    def __init__(self, source: Source | Augmented, seed: int) -> None:
        self._source = source
        self._seed = seed

    def __getitem__(self, key: _Key) -> Sample:
        return _sample(self._source, self._seed, key)


def _collated(samples: Sequence[Sample]) -> Batch:
    """Samples of the same names and shapes as one batch."""
    first = samples[0]
    for number, sample in enumerate(samples):
        found = {n: tuple(t.shape) for n, t in sample.items()}
        wanted = {n: tuple(t.shape) for n, t in first.items()}
        if found != wanted:
            raise ValueError(
                f"samples of one batch differ: the first has {wanted}, "
                f"number {number} has {found}; a source gives all of them "
                "the same shapes (crop, pad or pack)")
    return {n: torch.stack([s[n] for s in samples]) for n in first}
