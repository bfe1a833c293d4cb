"""Masked pre-training: blocks of each volume are hidden and the network rebuilds them.

Sources: SimMIM (Xie et al. 2022) and MAE (He et al. 2022), in 3D as in Chen et al. 2023.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxneuro.errors import InputError
from jaxneuro.objectives.base import Batch, Objective
from jaxneuro.patches import Triple, patchify, unpatchify

KINDS = ("simmim", "mae")
BACKGROUNDS = ("keep", "skip")
DISTANCES: dict[str, Callable[[jax.Array], jax.Array]] = {"l1": jnp.abs, "l2": jnp.square}
#: A patch or block holds brain when at least this share of its voxels is not 0.
BRAIN = 0.05


def build(
    *,
    kind: str,
    grid: Triple,
    patch: Triple,
    ratio: float = 0.9,
    mask_size: int | Sequence[int] = 0,
    background: str = "keep",
    loss: str | None = None,
    normalise_patches: bool = False,
) -> Objective:
    """Return masked pre-training of a network that takes masks.

    Metrics: loss, the mean distance over hidden voxels of the batch; baseline, the same loss where the prediction is
    the mean of the visible voxels of each volume. `evaluate` gives both for each volume [b, 2], NaN where nothing is
    counted. `pictures` shows the volume, what the network saw of it, and what it made of that.

    Args:
      kind: "simmim": the network takes `mask` [b, *grid], 1 where hidden, and gives volumes. "mae": it takes `keep`
        [b, k], numbers of the visible patches, and gives patches [b, n, voxels] as `patchify` cuts them.
      grid: patches along each axis; the last of each axis may reach beyond the volume.
      patch: voxels of a patch along each axis.
      ratio: share of blocks to hide.
      mask_size: voxels of a block along each axis, or one number for all; 0 is one patch.
      background: "skip" makes blocks that hold brain the first to be visible, as long as one stays hidden, and counts
        hidden patches that hold brain alone. It knows the background by voxels that are exactly 0.
      loss: distance of voxels, "l1" or "l2" (squared); by default l1 for SimMIM and l2 for MAE, as published.
      normalise_patches: rebuild each patch less its mean, over its deviation. The baseline then predicts 0.

    Raises:
      InputError: a keyword that cannot be; blocks that do not fit the patches or the grid, naming those that do; a
        ratio that hides all or nothing, naming one that works.
    """
    for key, value, known in (("kind", kind, KINDS), ("background", background, BACKGROUNDS)):
        if value not in known:
            raise InputError(f"objective.{key}: found {value!r}; expected one of {', '.join(known)}")
    distance = DISTANCES.get(loss or {"simmim": "l1", "mae": "l2"}[kind])
    if distance is None:
        raise InputError(f"objective.loss: found {loss!r}; expected one of {', '.join(DISTANCES)}")
    if normalise_patches and math.prod(patch) == 1:
        raise InputError("objective.normalise_patches: found it for patches of one voxel; expected False for them")
    blocks = block_grid(grid, patch, mask_size)
    hidden = hidden_blocks(kind, math.prod(blocks), ratio)
    if not 0 < hidden < math.prod(blocks):
        raise InputError(_degenerate(kind, grid, patch, blocks, ratio, hidden))
    visible_patches = math.prod(grid) // math.prod(blocks) * (math.prod(blocks) - hidden)

    def draw(x: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return which patches are hidden and which count in the loss, both [b, *grid]."""
        if any(-(-n // p) != g for n, g, p in zip(x.shape[1:4], grid, patch, strict=True)):
            raise InputError(
                f"objective: found volumes of {x.shape[1:4]} voxels; expected some that {tuple(grid)} patches of "
                f"{tuple(patch)} cover"
            )
        if background == "keep":
            mask = draw_masks(key, len(x), grid, blocks, hidden)
            return mask, mask
        inside = jnp.any(x != 0, axis=-1, keepdims=True).astype(jnp.float32)
        share = cut(inside, grid, patch).mean(axis=-1).reshape(-1, *grid)
        mask = draw_masks(key, len(x), grid, blocks, hidden, share)
        return mask, mask * (share >= BRAIN)

    def inputs(mask: jax.Array) -> dict[str, jax.Array]:
        if kind == "simmim":
            return {"mask": mask}
        # Sorting is stable: the visible patches come first, in their order.
        return {"keep": jnp.argsort(mask.reshape(len(mask), -1), axis=1)[:, :visible_patches]}

    def volumes(outputs: jax.Array) -> jax.Array:
        return (outputs if kind == "simmim" else unpatchify(outputs, patch, grid)).astype(jnp.float32)

    def unit(x: jax.Array) -> tuple[jax.Array | float, jax.Array | float]:
        """Return the zero point and the unit of what is predicted, of each voxel."""
        return patch_statistics(x, grid, patch) if normalise_patches else (0.0, 1.0)

    def compare(
        outputs: jax.Array, x: jax.Array, mask: jax.Array, counted: jax.Array, axes: Sequence[int]
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return loss, baseline and the number of counted voxels, over the axes given and those of volumes."""
        zero, one = unit(x)
        target, axes = (x - zero) / one, (*axes, 1, 2, 3, 4)
        counts, seen = over_voxels(counted, patch, x), 1 - over_voxels(mask, patch, x)
        constant = (x * seen).sum((1, 2, 3, 4), keepdims=True) / seen.sum((1, 2, 3, 4), keepdims=True) / x.shape[-1]
        prediction = 0.0 if normalise_patches else constant
        value, baseline = (pooled(distance(target - p), counts, axes) for p in (volumes(outputs), prediction))
        return value, baseline, counts.sum(axes)

    def training_loss(
        apply: Callable[..., Any], params: Any, batch_stats: Any, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[dict[str, jax.Array], Any]]:
        x, (mask_key, dropout) = batch["volume"], jax.random.split(key)
        mask, counted = draw(x, mask_key)
        variables = {"params": params, "batch_stats": batch_stats}
        (outputs, _), updated = apply(
            variables, x, train=True, mutable=["batch_stats"], rngs={"dropout": dropout}, **inputs(mask)
        )
        value, baseline, _ = compare(outputs, x, mask, counted, (0,))
        return value, ({"loss": value, "baseline": baseline}, updated.get("batch_stats", {}))

    def evaluate(apply: Callable[..., Any], variables: Any, batch: Batch, key: jax.Array) -> jax.Array:
        x = batch["volume"]
        mask, counted = draw(x, key)
        outputs, _ = apply(variables, x, train=False, **inputs(mask))
        value, baseline, total = compare(outputs, x, mask, counted, ())
        return jnp.where(total[:, None] > 0, jnp.stack([value, baseline], axis=1), jnp.nan)

    def pictures(apply: Callable[..., Any], variables: Any, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
        x = batch["volume"]
        mask, counted = draw(x, key)
        outputs, _ = apply(variables, x, train=False, **inputs(mask))
        zero, one = unit(x)
        # What the loss does not count, the network never learned to rebuild.
        rebuilt = jnp.where(over_voxels(counted, patch, x) > 0, volumes(outputs) * one + zero, x)
        return {"volume": x, "masked": x * (1 - over_voxels(mask, patch, x)), "rebuilt": rebuilt}

    return Objective(training_loss, evaluate, _score, metric="loss", mode="min", pictures=pictures)


def block_grid(grid: Triple, patch: Triple, mask_size: int | Sequence[int]) -> Triple:
    """Return how many blocks of `mask_size` voxels lie along each axis of a grid of patches; 0 voxels is one patch.

    Raises:
      InputError: a block is no whole number of patches, or blocks do not divide the grid; names sizes that work.
    """
    sizes = (mask_size,) * 3 if isinstance(mask_size, int) else tuple(mask_size)
    if len(sizes) == 3:
        sizes = tuple(s or p for s, p in zip(sizes, patch, strict=True))
        if all(s in fitting for s, fitting in zip(sizes, _fitting(grid, patch), strict=True)):
            return tuple(g * p // s for g, p, s in zip(grid, patch, sizes, strict=True))  # type: ignore[return-value]
    volume = tuple(g * p for g, p in zip(grid, patch, strict=True))
    raise InputError(
        f"objective.mask_size: found {mask_size!r}; expected multiples of the patch {tuple(patch)} that divide the "
        f"volume {volume}: {_named(_fitting(grid, patch))}"
    )


def hidden_blocks(kind: str, blocks: int, ratio: float) -> int:
    """Return how many of so many blocks are hidden, rounded as published: SimMIM's are hidden ones, MAE's kept ones."""
    if not 0 < ratio < 1:
        raise InputError(f"objective.ratio: found {ratio!r}; expected a share above 0 and below 1, such as 0.6")
    return math.ceil(blocks * ratio) if kind == "simmim" else blocks - int(blocks * (1 - ratio))


def draw_masks(
    key: jax.Array, batch: int, grid: Triple, blocks: Triple, hidden: int, share: jax.Array | None = None
) -> jax.Array:
    """Draw for each sample which patches are hidden [batch, *grid] float32: whole blocks, 1 where hidden.

    Args:
      key: of the draw.
      batch: how many samples.
      grid, blocks: patches and blocks along each axis.
      hidden: how many blocks to hide.
      share: [batch, *grid] share of each patch that is brain. With it, blocks that hold brain are made visible before
        those that do not, but for one.
    """
    count = math.prod(blocks)
    late = jax.random.uniform(key, (batch, count))  # the last ones are hidden
    if share is not None:
        split = [n for g, n in zip(grid, blocks, strict=True) for n in (n, g // n)]
        brain = share.reshape(batch, *split).mean((2, 4, 6)).reshape(batch, count) >= BRAIN
        # With few blocks hidden all brain would be visible, and nothing be left to rebuild.
        last = jax.nn.one_hot(jnp.argmax(jnp.where(brain, late, -1.0), axis=1), count)
        late = late + ~brain + 2 * last
    mask = jnp.argsort(jnp.argsort(late, axis=1), axis=1) >= count - hidden
    return _enlarge(mask.astype(jnp.float32).reshape(batch, *blocks), grid)


def pooled(distances: jax.Array, counted: jax.Array, axes: Sequence[int]) -> jax.Array:
    """Return the mean over the counted voxels along `axes` of distances [b, d, h, w, c]; `counted` [b, d, h, w, 1].

    As SimMIM has it: sum / (voxels + 1e-5) / channels. The small number guards against no voxels.
    """
    return jnp.sum(distances * counted, axes) / (counted.sum(axes) + 1e-5) / distances.shape[-1]


def over_voxels(mask: jax.Array, patch: Triple, x: jax.Array) -> jax.Array:
    """Return a mask of patches [b, *grid] as one of the voxels of x [b, d, h, w, c]: [b, d, h, w, 1]."""
    d, h, w = x.shape[1:4]
    whole = _enlarge(mask, [g * p for g, p in zip(mask.shape[1:], patch, strict=True)])
    return whole[:, :d, :h, :w, None]


def cut(x: jax.Array, grid: Triple, patch: Triple) -> jax.Array:
    """Cut volumes into patches [b, n, voxels], with zeros where the last patches reach beyond the volume."""
    more = [(0, g * p - n) for g, p, n in zip(grid, patch, x.shape[1:4], strict=True)]
    return patchify(jnp.pad(x, [(0, 0), *more, (0, 0)]), patch)


def patch_statistics(x: jax.Array, grid: Triple, patch: Triple) -> tuple[jax.Array, jax.Array]:
    """Return for each voxel of x [b, d, h, w, c] the mean of its patch, and sqrt(variance + 1e-6), unbiased."""
    patches = cut(x, grid, patch)
    mean = patches.mean(axis=-1, keepdims=True)
    deviation = jnp.sqrt(patches.var(axis=-1, keepdims=True, ddof=1) + 1e-6)
    d, h, w = x.shape[1:4]
    spread = (unpatchify(jnp.broadcast_to(s, patches.shape), patch, grid) for s in (mean, deviation))
    mean, deviation = (s[:, :d, :h, :w] for s in spread)
    return mean, deviation


def _enlarge(mask: jax.Array, size: Sequence[int]) -> jax.Array:
    """Repeat a mask [b, d, h, w] along its axes to a size that is a multiple of its own."""
    for axis, n in enumerate(size, start=1):
        mask = jnp.repeat(mask, n // mask.shape[axis], axis)
    return mask


def _fitting(grid: Triple, patch: Triple) -> list[list[int]]:
    """Return for each axis the sizes of a block, in voxels, that cut neither the grid nor a patch."""
    return [[n * p for n in range(1, g + 1) if g % n == 0] for g, p in zip(grid, patch, strict=True)]


def _named(sizes: list[list[int]]) -> str:
    """Name sizes of blocks: those that every axis has, or else those of each axis."""
    common = sorted(set.intersection(*map(set, sizes)))
    if common:
        return ", ".join(map(str, common))
    return "; ".join(f"{', '.join(map(str, s))} along axis {axis}" for axis, s in enumerate(sizes))


def _degenerate(kind: str, grid: Triple, patch: Triple, blocks: Triple, ratio: float, hidden: int) -> str:
    """Say that all or none of the blocks are hidden, and what would do."""

    def works(count: int, share: float) -> bool:
        return 0 < hidden_blocks(kind, count, share) < count

    count = math.prod(blocks)
    shares = [i / 100 for i in range(1, 100) if works(count, i / 100)]
    cubes = set.intersection(*map(set, _fitting(grid, patch)))
    volume = tuple(g * p for g, p in zip(grid, patch, strict=True))
    sizes = [str(s) for s in sorted(cubes) if works(math.prod(n // s for n in volume), ratio)]
    hints = [f"a ratio from {shares[0]} to {shares[-1]}"] if shares else []
    hints += [f"mask_size {' or '.join(sizes)}"] if sizes else []
    size = tuple(n // b for n, b in zip(volume, blocks, strict=True))
    return (
        f"objective.ratio: found {ratio}, which hides {hidden} of {count} blocks of {size} voxels; expected at least "
        f"one hidden and one visible; try {', or '.join(hints) or 'smaller blocks or patches'}"
    )


def _score(values: np.ndarray, labels: dict[str, np.ndarray]) -> dict[str, float]:
    # A volume of which nothing is counted has no baseline either; a network that fails has a baseline and no loss.
    values = values[~np.isnan(values[:, 1])]
    if not len(values):
        return {"loss": float("nan"), "baseline": float("nan"), "explained": float("nan")}
    loss, baseline = (float(v) for v in values.mean(axis=0, dtype=np.float64))
    return {"loss": loss, "baseline": baseline, "explained": 1 - loss / baseline if baseline > 0 else float("nan")}
