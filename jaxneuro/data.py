"""Shards to host batches: shuffled, sliced by process, read by threads, with a position that can be saved.

A batch is a dict of arrays, leading axis = this process's part of the global batch:
`volume` [b, d, h, w, c] as stored (half precision), `index` [b] int64 (the record, -1 for padding), `valid` [b] bool,
and the target columns given.

Shuffling and batching are done on record numbers, over all processes alike; only then does a process read its part of
each global batch. So the position in the data is one number, the count of global batches, whatever the process count.
What is drawn on the host (a clip of a video) is drawn by seed, epoch and record: neither the process count nor a stop
changes it.
Threads, not processes: on two cores 80^3 volumes came at 1,350 a second with threads, and at 482 with worker processes.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, Protocol

import grain
import numpy as np

from jaxneuro.errors import InputError
from jaxneuro.records import Dataset, Reader

Batch = dict[str, np.ndarray]


class Volumes(Protocol):
    """What reads the volumes, or clips, of a dataset: `Reader`, or one that decodes video files."""

    shape: tuple[int, int, int, int]
    dtype: np.dtype

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> np.ndarray:
        """Return record `index`, the same at every call."""

    def draw(self, index: int, key: tuple[int, ...]) -> np.ndarray:
        """Return record `index` for training, of which a part may be drawn by `key`."""

    def __enter__(self) -> Volumes: ...

    def __exit__(self, *error: object) -> None: ...


def open_reader(dataset: Dataset) -> Volumes:
    """Return what reads the volumes of a dataset: from its shards, or decoded from the video files that it names.

    Raises:
      CorruptDataError: a shard or file is missing or not what was written (files are checked as they are read).
    """
    keep_freed_memory()
    if dataset.card.get("kind") != "video":
        return Reader(dataset)
    from jaxneuro.video.files import VideoReader  # needs PyAV, which is an extra

    return VideoReader(dataset)


#: Of mallopt(3): freed memory at the end of the heap is given back from so much on, and what is larger mapped alone.
_MALLOPT = {-1: 256 << 20, -3: 32 << 20}


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for what comes next; elsewhere nothing changes.

    Records come and go by the megabyte. By default their pages are given back each time, and fresh ones come zeroed,
    one fault each: a thread read 80^3 volumes at 352 a second, and at 897 with their memory kept (a virtual machine,
    where faults are dear).
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            for option, value in _MALLOPT.items():
                ctypes.CDLL(None).mallopt(option, value)


class Kept:
    """Volumes that are read once and then kept in memory, as they are stored; safe to share between threads.

    Memory is taken as volumes come. Errors are the reader's.

    Args:
      reader: of volumes that are the same at every draw.
      numbers: of the records that will be asked for.
    """

    def __init__(self, reader: Volumes, numbers: Sequence[int]) -> None:
        self.shape, self.dtype = reader.shape, reader.dtype
        self._reader = reader
        self._place = {int(number): place for place, number in enumerate(numbers)}
        self._volumes = np.empty((len(numbers), *reader.shape), reader.dtype)
        self._known = np.zeros(len(numbers), bool)

    def __len__(self) -> int:
        return len(self._reader)

    def __getitem__(self, index: int) -> np.ndarray:
        place = self._place[index]
        # Two threads that read one volume write the same.
        if not self._known[place]:
            self._volumes[place] = self._reader[index]
            self._known[place] = True
        return self._volumes[place]

    def draw(self, index: int, key: tuple[int, ...]) -> np.ndarray:
        """Return record `index`."""
        return self[index]

    def __enter__(self) -> Kept:
        return self

    def __exit__(self, *error: object) -> None:
        """Leave the reader to who opened it."""


class Batches(Iterator[Batch]):
    """Iterate over batches; `get_state` and `set_state` save and restore the position."""

    def __init__(self, dataset: grain.MapDataset, *, threads: int, prefetch: int) -> None:
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch)
        self._iterator = iter(dataset.to_iter_dataset(options))

    def __next__(self) -> Batch:
        return next(self._iterator)

    def get_state(self) -> dict[str, Any]:
        """Return the position as plain values for JSON."""
        return self._iterator.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        """Go to a position that `get_state` returned."""
        self._iterator.set_state(state)


def training_batches(
    reader: Volumes,
    indices: Sequence[int],
    targets: Mapping[str, np.ndarray],
    *,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 4,
    prefetch: int = 4,
    volumes: bool = True,
) -> Batches:
    """Return endless training batches: each epoch in a new order, its remainder dropped.

    Args:
      reader: the volumes.
      indices: records of the training fold.
      targets: name to values [number of records], indexed by record.
      batch_size: of the global batch, over all processes.
      seed: of the order, and of what the reader draws.
      process_index, process_count: which part of each global batch to read.
      threads: reading threads.
      prefetch: batches read ahead.
      volumes: whether to read them; without, a batch is the record numbers and targets.

    Raises:
      InputError: fewer records than one batch, or a batch that the processes cannot share evenly.
    """
    if len(indices) < batch_size:
        raise InputError(
            f"data.batch_size: found {batch_size} with {len(indices)} training scans; expected at most that many; "
            "set --config.data.batch_size lower"
        )
    part = _part(batch_size, process_index, process_count)
    load = _Loader(reader if volumes else None, targets, part)
    order = _Order(indices, batch_size, seed)
    places = grain.MapDataset.range(order.steps).repeat()
    return Batches(places.map_with_index(lambda i, _: load.drawn(*order[i], seed)), threads=threads, prefetch=prefetch)


def evaluation_batches(
    reader: Volumes,
    indices: Sequence[int],
    targets: Mapping[str, np.ndarray],
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 4,
    prefetch: int = 4,
) -> Batches:
    """Return every record once, in order; the last batch is padded with `valid` False and volumes of zeros.

    Every process gets the same number of batches, so none waits for another at the end. Arguments and errors as in
    `training_batches`.
    """
    steps = -(-len(indices) // batch_size)
    padded = np.full(steps * batch_size, -1, np.int64)
    padded[: len(indices)] = indices
    numbers = grain.MapDataset.source(padded.reshape(steps, batch_size))
    load = _Loader(reader, targets, _part(batch_size, process_index, process_count))
    return Batches(numbers.map(load), threads=threads, prefetch=prefetch)


def _part(batch_size: int, process_index: int, process_count: int) -> slice:
    if batch_size % process_count:
        raise InputError(
            f"data.batch_size: found {batch_size} for {process_count} processes; expected a multiple of {process_count}"
        )
    size = batch_size // process_count
    return slice(process_index * size, (process_index + 1) * size)


class _Order:
    """The record numbers of each global batch of a training: every epoch in an order of its own.

    Ours, for grain draws a record at a time, which took as long as copying the volumes of a set that is kept in memory.
    """

    def __init__(self, indices: Sequence[int], batch_size: int, seed: int) -> None:
        self._indices, self._size, self._seed = np.asarray(indices, np.int64), batch_size, seed
        self.steps = len(indices) // batch_size
        # A reader's threads are in two epochs, or draw the order of a short one again.
        self._of = lru_cache(maxsize=2)(self._drawn)

    def __getitem__(self, position: int) -> tuple[np.ndarray, int]:
        """Return the numbers of the batch at a position, and its epoch."""
        epoch, step = divmod(position, self.steps)
        return self._of(epoch)[step * self._size : (step + 1) * self._size], epoch

    def _drawn(self, epoch: int) -> np.ndarray:
        # Sorted by raw bits of a counter: the same with every NumPy, which its shuffle need not be.
        key = np.array([self._seed % 2**64, epoch], np.uint64)
        order = self._indices[np.argsort(np.random.Philox(key=key).random_raw(len(self._indices)), kind="stable")]
        order.setflags(write=False)  # a batch's numbers are a part of it
        return order


class _Loader:
    """Read one process's part of a batch of record numbers."""

    def __init__(self, reader: Volumes | None, targets: Mapping[str, np.ndarray], part: slice) -> None:
        self.reader, self.targets, self.part = reader, dict(targets), part

    def drawn(self, numbers: np.ndarray, epoch: int, seed: int) -> Batch:
        """Return the batch of these numbers: seed, epoch and record decide what is drawn."""
        return self._batch(numbers, lambda reader, number: reader.draw(number, (seed, epoch, number)))

    def __call__(self, numbers: np.ndarray) -> Batch:
        return self._batch(numbers, lambda reader, number: reader[number])

    def _batch(self, numbers: np.ndarray, read: Callable[[Volumes, int], np.ndarray]) -> Batch:
        numbers = np.asarray(numbers)[self.part]
        valid = numbers >= 0
        columns = {}
        if self.reader is not None:
            columns["volume"] = np.empty((len(numbers), *self.reader.shape), self.reader.dtype)
            columns["volume"][~valid] = 0
            for place in np.flatnonzero(valid):
                columns["volume"][place] = read(self.reader, int(numbers[place]))
        for name, values in self.targets.items():
            column = values[numbers]
            column[~valid] = 0
            columns[name] = column
        return {"index": numbers, "valid": valid, **columns}
