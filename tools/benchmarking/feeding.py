"""Volumes a second into host batches: our shards, MONAI's PersistentDataset, and what the bytes alone would allow.

All sides give batches [b, ...] of the same half-float volumes, in an order that is drawn, from files that are in the
page cache. What lies ready from before a round is thrown away first, and a round ends with as much lying ready, so that
what is read ahead counts for nobody.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tools.benchmarking import inputs

Run = Callable[[int], None]

#: Batches, more than any side has ready: ours 4 and what its threads are at, MONAI's two for each process.
AHEAD = 12


#: Of our shards -> folder of the dataset.
COMPRESSIONS = {"snappy": "shards", "none": "larger"}


def make(folder: Path, number: int, side: int) -> None:
    """Write the volumes as datasets of ours, one a compression, and as plain bytes one after the other (`plain`)."""
    from jaxneuro import records, splits
    from jaxneuro.manifest import Scan

    scans = [Scan(f"s{i:05d}", content_hash=str(i)) for i in range(number)]
    for compression, name in COMPRESSIONS.items():
        with records.Writer(
            folder / name, shape=(side, side, side, 1), records=number, compression=compression
        ) as writer:
            for i, scan in enumerate(scans):
                writer.add(inputs.brains(i, side), scan)
            writer.finish(splits=splits.make(scans), name="noise", description="balls of noise", synthetic=True)
    with (folder / "plain").open("wb") as plain:
        for i in range(number):
            plain.write(inputs.brains(i, side).tobytes())
    (folder / "made.json").write_text(json.dumps({"number": number, "side": side}))


class Feed:
    """Volumes on disk, read in batches.

    Args:
      folder: what `make` filled.
      batch: volumes a batch.
      threads: that read.
    """

    def __init__(self, folder: str, batch: int, threads: int) -> None:
        self.folder, self.batch, self.threads = Path(folder), batch, threads
        made = json.loads((self.folder / "made.json").read_text())
        self.number, self.shape = made["number"], (made["side"],) * 3

    def tasks(self) -> dict[str, Callable[[], Run]]:
        """Return what can be timed: n epochs, of which the first warms the caches.

        Single batches say nothing: what was read ahead takes no time.
        """
        return {"input": self._input}

    def settle(self) -> None:
        """Throw away what lies ready."""
        for _ in islice(self._endless, AHEAD):
            pass

    def batches(self) -> Iterator[Any]:
        """Iterate over batches without end."""
        raise NotImplementedError

    def _input(self) -> Run:
        self._endless = self.batches()

        def run(n: int) -> None:
            for _ in islice(self._endless, n * (self.number // self.batch)):
                pass

        return run

    def _order(self) -> Iterator[np.ndarray]:
        rng = np.random.default_rng(0)
        while True:
            numbers = rng.permutation(self.number)
            yield from numbers[: len(numbers) // self.batch * self.batch].reshape(-1, self.batch)

    def _threaded(self, read: Callable[[int, np.ndarray], None]) -> Iterator[np.ndarray]:
        """Fill batches by `read(number, place)`, a thread each; their memory is taken again and again."""
        room = [np.empty((self.batch, *self.shape, 1), np.float16) for _ in range(self.threads + 1)]

        def fill(place: int, numbers: np.ndarray) -> np.ndarray:
            for number, volume in zip(numbers, room[place], strict=True):
                read(int(number), volume)
            return room[place]

        with ThreadPoolExecutor(self.threads) as pool:
            waiting: list[Any] = []
            for i, numbers in enumerate(self._order()):
                waiting.append(pool.submit(fill, i % len(room), numbers))
                if len(waiting) == self.threads:
                    yield waiting.pop(0).result()


class Shards(Feed):
    """Our shards by `data.training_batches`, with the threads and the prefetch that a config has by default.

    Args:
      folder, batch, threads: as of every feed.
      compression: of the shards.
      kept: whether volumes are kept in memory once they are read, as `data.source=memory` does.
    """

    def __init__(self, folder: str, batch: int, threads: int, compression: str, kept: bool = False) -> None:
        super().__init__(folder, batch, threads)
        self._dataset, self._kept = self.folder / COMPRESSIONS[compression], kept

    def batches(self) -> Iterator[Any]:
        """Iterate over batches without end."""
        from jaxneuro import data, records

        with data.open_reader(records.open_dataset(self._dataset)) as reader:
            yield from data.training_batches(
                data.Kept(reader, range(self.number)) if self._kept else reader,
                range(self.number), {}, batch_size=self.batch, seed=0, threads=self.threads,
            )  # fmt: skip


class Records(Feed):
    """The bound of the format: ArrayRecord gives the bytes of a record, which are copied into the batch."""

    def batches(self) -> Iterator[Any]:
        """Iterate over batches without end."""
        from array_record.python import array_record_module

        from jaxneuro import data

        data.keep_freed_memory()
        card = json.loads((self.folder / "shards" / "card.json").read_text())
        readers, where = [], []
        for shard in card["shards"]:
            file = self.folder / "shards" / "shards" / shard["file"]
            readers.append(array_record_module.ArrayRecordReader(str(file), "readahead_buffer_size:0"))
            where += [(readers[-1], i) for i in range(shard["records"])]

        def read(number: int, volume: np.ndarray) -> None:
            reader, place = where[number]
            record = reader.read([place])[0]
            volume[...] = np.frombuffer(record, np.float16, volume.size, len(record) - volume.nbytes).reshape(
                volume.shape
            )

        yield from self._threaded(read)


class Bytes(Feed):
    """The bound of the memory: the plain bytes of a volume are read into a buffer and copied into the batch."""

    def batches(self) -> Iterator[Any]:
        """Iterate over batches without end."""
        import os
        import threading

        file = os.open(self.folder / "plain", os.O_RDONLY)
        own = threading.local()

        def read(number: int, volume: np.ndarray) -> None:
            if not hasattr(own, "buffer"):
                own.buffer = np.empty_like(volume)
            os.preadv(file, [memoryview(own.buffer).cast("B")], number * volume.nbytes)
            volume[...] = own.buffer

        try:
            yield from self._threaded(read)
        finally:
            os.close(file)


class Monai(Feed):
    """MONAI's PersistentDataset, whose cache holds each volume as a tensor, and torch's DataLoader.

    Args:
      folder, batch, threads: as of every feed; the threads are not used.
      workers: processes of the DataLoader; 0 reads in the process itself.
    """

    def __init__(self, folder: str, batch: int, threads: int, workers: int) -> None:
        super().__init__(folder, batch, threads)
        from tests.torch_reference import torch

        torch.set_num_threads(1)  # copies of one volume: threads would only wait for each other
        from monai.data import PersistentDataset
        from monai.transforms import Transform

        shape = (1, *self.shape)
        file = self.folder / "plain"

        class Load(Transform):
            """Read one volume from the plain bytes; only when the cache is filled."""

            def __call__(self, number: int) -> Any:
                size = int(np.prod(shape))
                return torch.from_numpy(np.fromfile(file, np.float16, size, offset=2 * size * number).reshape(shape))

        dataset = PersistentDataset(list(range(self.number)), Load(), cache_dir=self.folder / "monai")
        self._loader = torch.utils.data.DataLoader(
            dataset, batch_size=batch, shuffle=True, drop_last=True, num_workers=workers,
            persistent_workers=workers > 0,
        )  # fmt: skip

    def batches(self) -> Iterator[Any]:
        """Iterate over batches without end."""
        while True:
            yield from self._loader
