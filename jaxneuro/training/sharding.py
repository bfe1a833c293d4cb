"""Where arrays live: the mesh, the one table from logical axis names to mesh axes, and moving batches on and off it.

Mesh axes: `data` splits the batch, `fsdp` splits the batch and stores parameters and moments in pieces, `model` splits
the computation of a layer. One device is a mesh of one, and the same code runs.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from jaxneuro.errors import InputError
from jaxneuro.models import layers

AXES = ("data", "fsdp", "model")
#: The compiler places what is not constrained. jax.make_mesh's own default is explicit axes.
_AUTO = (AxisType.Auto,) * len(AXES)

#: Logical axis name (models/layers.py) to mesh axes; () is not split. As stored: `placing` says how they are used.
#: A convolution kernel is split along its output channels alone: with its input channels over `fsdp` and its output
#: channels over `model`, jax 0.10.2 (its Shardy partitioner) computes wrong gradients where all three axes are split
#: (tests/training/test_sharding.py has the case).
RULES: dict[str, tuple[str, ...]] = {
    "batch": ("data", "fsdp"),
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


def make_mesh(shape: Mapping[str, int], devices: list[Any] | None = None) -> Mesh:
    """Return a mesh with the axes `data`, `fsdp` and `model`.

    Args:
      shape: size of each axis, 1 when not given; one may be -1 and takes the devices that are left.
      devices: the devices; by default all.

    Raises:
      InputError: an unknown axis, or sizes that do not multiply to the number of devices.
    """
    devices = devices if devices is not None else jax.devices()
    return jax.make_mesh(_sizes(shape, len(devices)), AXES, axis_types=_AUTO, devices=devices)


def imagined(shape: Mapping[str, int], count: int) -> AbstractMesh:
    """Return the mesh that `make_mesh` would make of so many devices, to reckon with where there are none."""
    return AbstractMesh(_sizes(shape, count), AXES, axis_types=_AUTO)


def _sizes(shape: Mapping[str, int], count: int) -> tuple[int, ...]:
    if unknown := sorted(set(shape) - set(AXES)):
        raise InputError(f"mesh: found axes {unknown}; expected among {list(AXES)}")
    sizes = [int(shape.get(a, 1)) for a in AXES]
    free = [i for i, s in enumerate(sizes) if s == -1]
    known = int(np.prod([s for s in sizes if s != -1]))
    if len(free) == 1 and known > 0 and count % known == 0:
        sizes[free[0]] = count // known
    if any(s < 1 for s in sizes) or int(np.prod(sizes)) != count:
        raise InputError(
            f"mesh: found {dict(shape)} for {count} devices; expected sizes that multiply to {count}, "
            "at most one of them -1"
        )
    return tuple(sizes)


def shardings(mesh: Mesh | AbstractMesh, boxed: Any) -> Any:
    """Return a sharding for every leaf of an abstract tree whose parameters still carry their logical axes.

    What is stored in pieces over `fsdp` is so along another axis, the longest that allows it, where `fsdp` does not
    divide the axis of the table. What cannot be split is not; `jaxneuro info --plan` says how much that is.

    Raises:
      InputError: a logical axis that `RULES` lacks.
    """

    def one(leaf: Any) -> NamedSharding:
        names = leaf.names if isinstance(leaf, nn.LogicallyPartitioned) else ()
        shape = leaf.unbox().shape if names else leaf.shape
        if unknown := [name for name in names if name and name not in RULES]:
            raise InputError(f"logical axis: found '{unknown[0]}'; expected among {sorted(RULES)}")
        return NamedSharding(mesh, PartitionSpec(*_split(mesh, names, shape)))

    return jax.tree.map(one, boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned))


def _split(mesh: Mesh | AbstractMesh, names: Sequence[str | None], shape: Sequence[int]) -> list[tuple[str, ...]]:
    def ways(axes: tuple[str, ...]) -> int:
        return math.prod(mesh.shape[a] for a in axes)

    spec: list[tuple[str, ...]] = []
    for name, size in zip(names, shape, strict=False):
        axes = RULES[name] if name else ()
        spec.append(next((a for a in (axes, axes[:1], axes[1:]) if size % ways(a) == 0), ()))
    wanted = {a for name in names if name for a in RULES[name]}
    if "fsdp" in wanted and not any("fsdp" in axes for axes in spec):
        free = [i for i, axes in enumerate(spec) if shape[i] % ways((*axes, "fsdp")) == 0]
        if free:
            longest = max(free, key=lambda i: shape[i] // ways(spec[i]))
            spec[longest] = (*spec[longest], "fsdp")
    return spec


def placing(mesh: Mesh | AbstractMesh) -> AbstractContextManager[None]:
    """Tell models, while they are traced, where kernels are used and what is between layers lies.

    Kernels that `fsdp` stores in pieces are gathered where they are used, for the batch is split over the same devices;
    between layers the batch is split, and over `model` what attention and feed-forward layers compute in pieces;
    convolutions are computed whole. Left to itself the partitioner of jax 0.10.2 gathered images and hidden layers over
    `fsdp` (tests/training/test_meshes.py).
    """
    if mesh.size == 1:
        return nullcontext()

    def at(x: jax.Array, spec: list[tuple[str, ...]]) -> jax.Array:
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(*spec)))

    def used(names: tuple[str | None, ...], shape: Sequence[int]) -> list[tuple[str, ...]]:
        spec: list[tuple[str, ...]] = []
        for name, size in zip(names, shape, strict=True):
            axes = RULES[name] if name and "out_channels" not in names else ()
            axes = axes if name == "batch" else tuple(a for a in axes if a != "fsdp")
            spec.append(axes if size % math.prod(mesh.shape[a] for a in axes) == 0 else ())
        return spec

    def place(x: jax.Array, names: tuple[str | None, ...]) -> jax.Array:
        if "batch" in names:
            return at(x, used(names, x.shape))

        @jax.custom_vjp
        def gathered(kernel: jax.Array) -> jax.Array:
            return at(kernel, used(names, x.shape))

        # The transpose of a constraint is the same one: gradients would be summed whole on every device. Those of a
        # convolution are the same on all devices of `model`: each keeps its piece.
        stored = _split(mesh, names, x.shape)
        if "out_channels" in names:
            stored = [tuple(a for a in axes if a != "model") for axes in stored]
        gathered.defvjp(lambda k: (gathered(k), None), lambda _, g: (at(g, stored),))
        return gathered(x)

    return layers.placing(place, mesh.shape["data"] * mesh.shape["fsdp"])


def across(mesh: Mesh | AbstractMesh) -> Callable[[Callable[..., jax.Array]], Callable[..., jax.Array]]:
    """Return what makes of a function of batches one that every device runs on its own samples.

    For what no partitioner can split: it gathers the batch for a loop over samples, and for boxes cut out of each.
    """
    if mesh.size == 1:
        return lambda function: function
    batch = PartitionSpec(RULES["batch"])

    def spread(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
        return jax.shard_map(function, mesh=mesh, in_specs=batch, out_specs=batch, check_vma=False)

    return spread


def unbox(tree: Any) -> Any:
    """Return the tree without the logical axes that its parameters carry."""
    return nn.meta.unbox(tree)


def batch_sharding(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """Return the sharding of a batch: its leading axis over `data` and `fsdp`."""
    return NamedSharding(mesh, PartitionSpec(RULES["batch"]))


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """Return the sharding of a value that every device holds."""
    return NamedSharding(mesh, PartitionSpec())


def check_batch_size(mesh: Mesh | AbstractMesh, batch_size: int) -> None:
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


def largest(mesh: Mesh, value: int) -> jax.Array:
    """Return the largest of the values that the processes call this with, without waiting for it."""
    where = NamedSharding(mesh, PartitionSpec(AXES))
    mine = [d for d in mesh.devices.flat if d.process_index == jax.process_index()]
    given = [jax.device_put(np.full(1, value, np.int32), d) for d in mine]
    return _largest(mesh)(jax.make_array_from_single_device_arrays((mesh.size,), where, given))


@functools.cache
def _largest(mesh: Mesh) -> Any:
    return jax.jit(jnp.max, out_shardings=replicated(mesh))
