"""Occlusion: a patch slid over a volume, and how much less of the output is left without what it hides.

Source: Zeiler and Fergus 2014. A voxel's value is the mean, over the patches that cover it, of output minus output
without the patch, as in Captum's `Occlusion`; MONAI's `OcclusionSensitivity` gives the mean of the outputs themselves.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxneuro import augment
from jaxneuro.errors import InputError
from jaxneuro.training import sharding

Triple = tuple[int, int, int]
#: Weights, volumes as the network sees them [b, d, h, w, c], which class (a number), to one output each [b].
Output = Callable[[Any, jax.Array, jax.Array], jax.Array]
_AXES = ("depth", "height", "width")
#: Batches that are under way while the first of them is waited for.
_AHEAD = 2


class Grid(NamedTuple):
    """Where a patch is laid: at every combination of its starts along the three axes.

    Attributes:
      size: of the volume, in voxels.
      patch: of the patch, in voxels.
      starts: along each axis, the first voxel of each position, rising.
    """

    size: Triple
    patch: Triple
    starts: tuple[np.ndarray, np.ndarray, np.ndarray]

    @property
    def shape(self) -> Triple:
        """How many positions lie along each axis."""
        i, j, k = (len(s) for s in self.starts)
        return i, j, k

    def corners(self) -> np.ndarray:
        """Return the first voxel of each position [i, j, k, 3]."""
        return np.stack(np.meshgrid(*self.starts, indexing="ij"), axis=-1).astype(np.int32)

    def covers(self) -> list[np.ndarray]:
        """Return, for each axis, which positions cover which voxels: [positions, voxels] float64, 0 or 1."""
        axes = zip(self.size, self.patch, self.starts, strict=True)
        return [((np.arange(n) >= s[:, None]) & (np.arange(n) < s[:, None] + p)).astype(np.float64) for n, p, s in axes]


class Differences(NamedTuple):
    """What hiding does to the output for one volume.

    Attributes:
      output: with nothing hidden.
      values: output minus output without the patch [i, j, k], for each position of the grid; NaN where not measured.
      passes: volumes that went through the network.
    """

    output: float
    values: np.ndarray
    passes: int


def grid(size: Triple, patch: Triple, stride: Triple) -> Grid:
    """Return the positions of a patch: every `stride` voxels from 0 on, and a last one that ends with the volume.

    So every patch is whole and every voxel covered. (MONAI does the same; Captum cuts the last patch off instead,
    which differs where the stride does not divide size minus patch.)

    Args:
      size: of the volume, (depth, height, width) in voxels.
      patch, stride: along the same axes.

    Raises:
      InputError: a patch larger than the volume, or a stride that is larger than the patch, which leaves voxels out.
    """
    starts = []
    for axis, n, p, s in zip(_AXES, size, patch, stride, strict=True):
        if not 1 <= p <= n:
            raise InputError(f"--patch: found {p} voxels along {axis}; expected 1 to {n}, the volume's {axis}")
        if not 1 <= s <= p:
            raise InputError(
                f"--stride: found {s} voxels along {axis} for a patch of {p}; expected 1 to {p}, or voxels between "
                "patches would be left out; take a larger --patch"
            )
        starts.append(np.unique([*range(0, n - p + 1, s), n - p]))
    return Grid(size, patch, (starts[0], starts[1], starts[2]))


def coarse_positions(where: Grid, coarse: int) -> list[np.ndarray]:
    """Return, along each axis, the numbers of every so-manieth position and of the last.

    Raises:
      InputError: they leave voxels out.
    """
    found = []
    for axis, length, starts in zip(_AXES, where.patch, where.starts, strict=True):
        chosen = np.unique([*range(0, len(starts), coarse), len(starts) - 1])
        if np.diff(starts[chosen]).max(initial=0) > length:
            raise InputError(
                f"--coarse: found {coarse}, which leaves out voxels along {axis} between patches of {length}; expected "
                f"at most {length // int(np.diff(starts).max())}, patch over stride"
            )
        found.append(chosen)
    return found


def spread(where: Grid, values: np.ndarray) -> np.ndarray:
    """Return for each voxel the mean of the values of the positions that cover it.

    Args:
      where: the positions.
      values: [i, j, k] of them; NaN takes no part.

    Returns:
      [d, h, w] float32, NaN where only such positions cover a voxel.
    """
    known = np.isfinite(values)
    covers = where.covers()
    total = _over(covers, np.where(known, values, 0.0))
    count = _over(covers, known.astype(np.float64))
    return np.divide(total, count, out=np.full(where.size, np.nan), where=count > 0.5).astype(np.float32)


def background(raw: jax.Array, how: str) -> jax.Array:
    """Return what a voxel of 0 of a volume raw [d, h, w, c] becomes when it is normalised: [c] float32.

    That is 0 where the statistics are those of the brain, which is also the mean of the brain.
    """
    if how == "volume":  # the one kind whose background depends on the volume
        x = raw.astype(jnp.float32)
        return jnp.full(raw.shape[-1], -x.mean() / (x.std() + 1e-8))
    return augment.normalise(jnp.zeros((1, 1, 1, 1, raw.shape[-1])), how)[0, 0, 0, 0]


def program(output: Output, mesh: Mesh, patch: Triple) -> Callable[..., jax.Array]:
    """Return `outputs(weights, volume[d, h, w, c], value[c], corners[b, 3], which) -> [b]`, compiled and sharded.

    A copy of the volume is made for each corner on the device that evaluates it, and the patch that begins there has
    the value in all channels. A corner outside of the volume hides nothing. The number of corners is a multiple of the
    devices'.
    """

    def outputs(weights: Any, volume: jax.Array, value: jax.Array, corners: jax.Array, which: jax.Array) -> jax.Array:
        inside = []
        for axis, length in enumerate(patch):
            place, start = jnp.arange(volume.shape[axis]), corners[:, axis, None]
            inside.append((place >= start) & (place < start + length))
        d, h, w = inside
        hidden = d[:, :, None, None] & h[:, None, :, None] & w[:, None, None, :]
        with sharding.placing(mesh):
            return output(weights, jnp.where(hidden[..., None], value, volume), which)

    whole, batch = sharding.replicated(mesh), sharding.batch_sharding(mesh)
    return jax.jit(outputs, in_shardings=(None, whole, whole, batch, whole), out_shardings=batch)


def differences(
    outputs: Callable[..., jax.Array],
    weights: Any,
    volume: jax.Array,
    value: jax.Array,
    where: Grid,
    *,
    mesh: Mesh,
    batch_size: int,
    which: int = 0,
    coarse: int = 1,
    quantile: float = 0.9,
    report: Callable[[int], None] = lambda passes: None,
) -> Differences:
    """Return what hiding each patch of a grid takes from the output for one volume.

    Patches that change nothing, such as those on background that has the value already, are 0 without being tried.

    Args:
      outputs: made by `program`, for the grid's patch.
      weights: of the network.
      volume: [d, h, w, c], as the network sees it: statistics of the volume do not move when a part of it is hidden.
      value: [c], what hidden voxels have.
      where: the positions.
      mesh: the devices.
      batch_size: copies at once, a multiple of the devices.
      which: the class.
      coarse: 1 tries every position. Else every so-manieth along each axis is tried first, and of the others only those
        that touch a voxel whose value is among the largest. There the map is that of all positions, elsewhere that of
        the coarse ones.
      quantile: of the absolute values of voxels that a patch changes; those above it are the largest.
      report: called with the passes done so far.

    Raises:
      InputError: the coarse positions leave voxels out.
    """
    changes = _changing(where, volume, value)
    first = np.ix_(*coarse_positions(where, coarse))
    now = np.zeros(where.shape, bool)
    now[first] = True
    corners, values = where.corners(), np.where(changes, np.nan, 0.0)
    nothing = np.array([where.size], np.int32)
    done = 0

    def told(n: int) -> None:
        report(done + n)

    def run(some: np.ndarray) -> np.ndarray:
        return _batched(lambda c: outputs(weights, volume, value, c, np.int32(which)), some, mesh, batch_size, told)

    now &= changes
    found = run(np.concatenate([nothing, corners[now]]))
    output, done = float(found[0]), len(found)
    values[now] = output - found[1:]
    if coarse > 1:
        covers = where.covers()
        tried = np.zeros(where.shape, bool)
        tried[first] = True
        size = np.abs(spread(where, np.where(tried, values, np.nan)))
        touched = _over(covers, changes.astype(np.float64)) > 0.5
        least = np.quantile(size[touched], quantile) if touched.any() else math.inf
        # More voxels than asked for may share the largest value: then those, rather than none.
        large = touched & ((size > least) if (size > least).any() else (size >= least)) & (size > 0)
        near = _over([c.T for c in covers], large.astype(np.float64)) > 0.5
        now = near & np.isnan(values)
        if now.any():
            found = run(corners[now])
            values[now] = output - found
            done += len(found)
        # Elsewhere the coarse positions say what there is, without those known to be 0 between them.
        values[~tried & ~near] = np.nan
    return Differences(output, values, done)


def _over(covers: list[np.ndarray], values: np.ndarray) -> np.ndarray:
    """Return the sums [a, b, c] of values [i, j, k] by matrices [i, a], [j, b], [k, c]."""
    for matrix in covers:
        values = np.tensordot(values, matrix, axes=(0, 0))  # the axis that was first is last now
    return values


def _changing(where: Grid, volume: jax.Array, value: jax.Array) -> np.ndarray:
    """Return which patches hide a voxel that has another value [i, j, k]."""
    other = np.asarray((volume != value).any(-1), np.float64)
    return _over([c.T for c in where.covers()], other) > 0.5


def own_part(mesh: Mesh, batch: np.ndarray) -> np.ndarray:
    """Return which part of a batch [b, ...], that all processes have, this one puts on its devices."""
    part, count = sharding.process_part(mesh)
    rows = len(batch) // count
    return batch[part * rows : (part + 1) * rows]


def _batched(
    call: Callable[[jax.Array], jax.Array],
    corners: np.ndarray,
    mesh: Mesh,
    batch_size: int,
    told: Callable[[int], None],
) -> np.ndarray:
    """Return the outputs [n] for corners [n, 3]; devices work on the next batches while one is fetched."""
    padded = np.resize(corners, (-(-len(corners) // batch_size) * batch_size, 3))
    waiting: deque[jax.Array] = deque()
    found: list[np.ndarray] = []

    def fetch() -> None:
        found.append(sharding.fetch(waiting.popleft()))
        told(min(len(found) * batch_size, len(corners)))

    for i in range(0, len(padded), batch_size):
        batch = own_part(mesh, padded[i : i + batch_size])
        waiting.append(call(sharding.put(mesh, {"corners": batch})["corners"]))
        if len(waiting) > _AHEAD:
            fetch()
    while waiting:
        fetch()
    return np.concatenate(found)[: len(corners)]
