"""How volumes come to the devices: read as the run goes, kept in memory here or there, or not read at all."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from jaxneuro import data, terminal
from jaxneuro.errors import InputError
from jaxneuro.training import hosts, sharding
from jaxneuro.training.experiment import Experiment

Put = Callable[[dict[str, np.ndarray]], dict[str, jax.Array]]
#: Of a device's memory, or of a machine's, so much may hold volumes; weights and activations want the rest.
_SHARE = 0.5
_ROWS = 64


def build(parts: Experiment, reader: data.Volumes, mesh: Mesh, reading: dict[str, int]) -> tuple[data.Batches, Put]:
    """Return the training batches of a run, and what puts one on the devices.

    Args:
      parts: the run; its `data.source` chooses among `SOURCES`.
      reader: reads the volumes.
      mesh: the devices.
      reading: batch size, threads, process (`loop.how_to_read`).

    Raises:
      InputError: no such source, or one that these data or devices do not allow.
    """
    source = parts.config.data.source
    check(source)
    put = SOURCES[source](parts, reader, mesh, reading)
    if source == "memory":
        reader = data.Kept(reader, parts.folds["train"])
    read = source in ("shards", "memory")
    batches = data.training_batches(
        reader, parts.folds["train"], parts.labels, seed=parts.config.seed, volumes=read, **reading
    )
    return batches, put


def check(source: str) -> None:
    """Refuse a source that there is not.

    Raises:
      InputError: it is none of `SOURCES`.
    """
    if source not in SOURCES:
        raise InputError(f"data.source: found '{source}'; expected one of {', '.join(SOURCES)}")


def _shards(parts: Experiment, reader: data.Volumes, mesh: Mesh, reading: dict[str, int]) -> Put:
    return lambda batch: sharding.put(mesh, {k: v for k, v in batch.items() if k != "index"})


def _memory(parts: Experiment, reader: data.Volumes, mesh: Mesh, reading: dict[str, int]) -> Put:
    """Read as from shards, each volume once: every process keeps in its memory what it has read."""
    _refuse_drawn(parts, "memory")
    size = len(parts.folds["train"]) * int(np.prod(reader.shape)) * reader.dtype.itemsize
    processes = hosts.on_this_machine()
    available = _available() // processes
    if available and size > _SHARE * available:
        of_several = f" for each of {processes} processes" if processes > 1 else ""
        raise InputError(
            f"data.source: found 'memory' with {size / 2**30:.1f} GiB of volumes and {available / 2**30:.1f} GiB "
            f"available{of_several}; expected at most {_SHARE:.0%} of it; take --config.data.source=shards"
        )
    return _shards(parts, reader, mesh, reading)


def _available() -> int:
    """Return the bytes of memory that are free or can be freed, of the machine or the job, 0 where nobody says."""
    found = []
    with suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")]
    with suppress(OSError, ValueError, IndexError):  # what Slurm and Kubernetes allow
        own = Path("/proc/self/cgroup").read_text().split("::")[1].strip()
        folder = Path("/sys/fs/cgroup") / own.lstrip("/")
        found.append(int((folder / "memory.max").read_text()) - int((folder / "memory.current").read_text()))
    return min(found, default=0)


def _refuse_drawn(parts: Experiment, source: str) -> None:
    if parts.dataset.card.get("kind") == "video":
        raise InputError(
            f"data.source: found '{source}' with {parts.dataset.path}, whose clips are drawn anew in every epoch; "
            "expected 'shards'; or prepare with --store clips"
        )


def _device(parts: Experiment, reader: data.Volumes, mesh: Mesh, reading: dict[str, int]) -> Put:
    """Read the training fold once; every device keeps its share, and a batch is picked from all of them."""
    _refuse_drawn(parts, "device")
    numbers = np.asarray(parts.folds["train"], np.int64)
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    each = -(-len(numbers) // ways)
    _check_memory(parts, mesh, each * int(np.prod(reader.shape)) * reader.dtype.itemsize)
    padded = np.resize(numbers, each * ways)
    index, count = sharding.process_part(mesh)
    mine = padded[index * len(padded) // count :][: len(padded) // count]
    volumes = np.empty((len(mine), *reader.shape), reader.dtype)
    how = {k: reading[k] for k in ("threads", "prefetch")}
    with terminal.progress("reading volumes to the devices", len(mine)) as report:
        for i, batch in enumerate(data.evaluation_batches(reader, mine.tolist(), {}, batch_size=_ROWS, **how)):
            rows = volumes[i * _ROWS : (i + 1) * _ROWS]
            rows[:] = batch["volume"][: len(rows)]
            report(i * _ROWS + len(rows))
    kept = sharding.put(mesh, {"volume": volumes})["volume"]
    slots = np.zeros(len(parts.dataset.scans), np.int32)
    slots[numbers] = np.arange(len(numbers))
    here = sharding.batch_sharding(mesh)
    pick = jax.jit(lambda kept, slots: kept[slots], in_shardings=(here, here), out_shardings=here)

    def put(batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        placed = sharding.put(mesh, {**{k: v for k, v in batch.items() if k != "index"}, "slot": slots[batch["index"]]})
        return {"volume": pick(kept, placed.pop("slot")), **placed}

    return put


def _check_memory(parts: Experiment, mesh: Mesh, size: int) -> None:
    # Known of accelerators alone.
    limit = (mesh.local_devices[0].memory_stats() or {}).get("bytes_limit")
    if limit and size > _SHARE * limit:
        raise InputError(
            f"data.source: found 'device' with {size / 2**30:.1f} GiB of volumes a device of {limit / 2**30:.1f} GiB; "
            f"expected at most {_SHARE:.0%} of it; take more devices, or --config.data.source=shards"
        )


def _synthetic(parts: Experiment, reader: data.Volumes, mesh: Mesh, reading: dict[str, int]) -> Put:
    """Keep one batch of noise: what is left of a step's time is computing."""
    terminal.say("warning: data.source is synthetic: the network sees noise; for timing alone")
    _, count = sharding.process_part(mesh)
    rng = np.random.default_rng(0)
    noise = rng.uniform(0, 1, (reading["batch_size"] // count, *reader.shape))
    if reader.dtype == np.uint8:
        noise = noise * 255
    kept = sharding.put(mesh, {"volume": noise.astype(reader.dtype)})
    return lambda batch: {**kept, **sharding.put(mesh, {k: v for k, v in batch.items() if k != "index"})}


SOURCES: dict[str, Callable[[Experiment, data.Volumes, Mesh, dict[str, int]], Put]] = {
    "shards": _shards,
    "memory": _memory,
    "device": _device,
    "synthetic": _synthetic,
}
