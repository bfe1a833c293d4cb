"""Where arrays live: the mesh, the one table from logical axis names to mesh axes, and moving batches on and off it.

Mesh axes: `data` splits the batch, `fsdp` splits the batch and stores parameters and moments in pieces, `model` splits
the computation of a layer. One device is a mesh of one, and the same code runs.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxneuro.errors import InputError

AXES = ("data", "fsdp", "model")

#: Logical axis name (models/layers.py) to mesh axes; () is not split. Activations: only the batch.
#: A convolution kernel is split along its output channels alone: with its input channels over `fsdp` and its output
#: channels over `model`, jax 0.10.2 (its Shardy partitioner) computes wrong gradients where all three axes are split
#: (tests/training/test_sharding.py has the case).
RULES: dict[str, tuple[str, ...]] = {
    "conv_d": (),
    "conv_h": (),
    "conv_w": (),
    "in_channels": (),
    "out_channels": ("fsdp", "model"),
    "embed": ("fsdp",),
    "mlp": ("model",),
    "qkv": (),
    "heads": ("model",),
    "head_width": (),
    "position": (),
    "relative": (),
    "outputs": (),
    "unit": (),
}

_log = logging.getLogger(__name__)


def make_mesh(shape: Mapping[str, int], devices: list[Any] | None = None) -> Mesh:
    """Return a mesh with the axes `data`, `fsdp` and `model`.

    Args:
      shape: size of each axis, 1 when not given; one may be -1 and takes the devices that are left.
      devices: the devices; by default all.

    Raises:
      InputError: an unknown axis, or sizes that do not multiply to the number of devices.
    """
    devices = devices if devices is not None else jax.devices()
    if unknown := sorted(set(shape) - set(AXES)):
        raise InputError(f"mesh: found axes {unknown}; expected among {list(AXES)}")
    sizes = [int(shape.get(a, 1)) for a in AXES]
    free = [i for i, s in enumerate(sizes) if s == -1]
    known = int(np.prod([s for s in sizes if s != -1]))
    if len(free) == 1 and known > 0 and len(devices) % known == 0:
        sizes[free[0]] = len(devices) // known
    if any(s < 1 for s in sizes) or int(np.prod(sizes)) != len(devices):
        raise InputError(
            f"mesh: found {dict(shape)} for {len(devices)} devices; expected sizes that multiply to {len(devices)}, "
            "at most one of them -1"
        )
    # Auto axes: the compiler places what is not constrained. make_mesh's own default is explicit axes.
    return jax.make_mesh(tuple(sizes), AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def shardings(mesh: Mesh, boxed: Any) -> Any:
    """Return a sharding for every leaf of an abstract tree whose parameters still carry their logical axes.

    An axis that its mesh axis does not divide is not split, with one line in the log.

    Raises:
      InputError: a logical axis that `RULES` lacks.
    """

    def one(leaf: Any) -> NamedSharding:
        names = leaf.names if isinstance(leaf, nn.LogicallyPartitioned) else ()
        shape = leaf.unbox().shape if names else leaf.shape
        spec: list[tuple[str, ...]] = []
        for name, size in zip(names, shape, strict=False):
            if name not in RULES:
                raise InputError(f"logical axis: found '{name}'; expected among {sorted(RULES)}")
            axes = RULES[name]
            ways = math.prod(mesh.shape[a] for a in axes)
            if size % ways:
                _log.info("axis %s of %s is not split: %d over %d", name, shape, size, ways)
                axes = ()
            spec.append(axes)
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree.map(one, boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned))


def unbox(tree: Any) -> Any:
    """Return the tree without the logical axes that its parameters carry."""
    return nn.meta.unbox(tree)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding of a batch: its leading axis over `data` and `fsdp`."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of a value that every device holds."""
    return NamedSharding(mesh, PartitionSpec())


def check_batch_size(mesh: Mesh, batch_size: int) -> None:
    """Refuse a global batch that the mesh cannot split evenly.

    Raises:
      InputError: says which sizes work.
    """
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch_size < 1 or batch_size % ways:
        raise InputError(
            f"data.batch_size: found {batch_size} over {ways} devices (data x fsdp); expected a multiple of {ways}"
        )


def process_part(mesh: Mesh, process_index: int | None = None) -> tuple[int, int]:
    """Return (index, count): which of how many equal parts of a batch this process must read.

    It follows from the mesh, not from the count of processes: processes that split a layer share their part.

    Raises:
      InputError: the process's devices hold no whole, aligned part.
    """
    who = jax.process_index() if process_index is None else process_index
    rows = mesh.devices.reshape(-1, mesh.shape["model"])
    mine = [i for i, row in enumerate(rows) if any(d.process_index == who for d in row)]
    size = len(mine)
    if not mine or mine[0] % size or mine != list(range(mine[0], mine[0] + size)) or len(rows) % size:
        raise InputError(
            f"mesh: found {dict(mesh.shape)}, in which process {who} holds parts {mine} of {len(rows)} of a batch; "
            "expected neighbouring ones; let `model` divide the devices of a process, or be a multiple of them"
        )
    return mine[0] // size, len(rows) // size


def put(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Move this process's part of a batch to its devices; returns global arrays."""
    where, (_, count) = batch_sharding(mesh), process_part(mesh)
    return {
        k: jax.make_array_from_process_local_data(where, v, (v.shape[0] * count, *v.shape[1:]))
        for k, v in batch.items()
    }


def fetch(x: jax.Array) -> np.ndarray:
    """Return a global array on every host."""
    if x.is_fully_addressable:
        return np.asarray(x)
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(x, tiled=True))
