"""DenseNets computed anew only around a hidden patch: the stem and the first dense block, where most of the work is.

What a patch hides is seen by few outputs of a convolution; the others are those of the whole volume, which are computed
once a volume. With each layer the region grows, so from the first transition on everything is computed again.
(Nakandala et al. 2019 reuse layers of 2D networks so; the layers here are the network's own.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from operator import getitem
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh

from jaxneuro.evaluation.maps.hiding import Output, Triple
from jaxneuro.models import convolution, densenet, layers
from jaxneuro.training import sharding

#: The stem: a convolution of 7^3 by 2, padded by 3, and a pool of 3^3 by 2, padded by 1: output j of an axis sees
#: the voxels from 4j - 5 to 4j + 5.
_STEP, _REACH = 4, 5


def fits(model: nn.Module | None) -> bool:
    """Tell whether `program` is for a network."""
    return isinstance(model, densenet.DenseNet)


def program(model: nn.Module, output: Output, mesh: Mesh, patch: Triple) -> Callable[..., jax.Array]:
    """Return what `hiding.program` does, of a network that `fits`; equal to it but for rounding.

    Args:
      model: the network.
      output: that calls it, once.
      mesh: the devices.
      patch: as in `hiding.program`.
    """
    assert isinstance(model, densenet.DenseNet)
    growth = model.growth_rate
    layer = densenet.DenseLayer(growth, model.bottleneck, 0.0, model.dtype)
    whole, batch = sharding.replicated(mesh), sharding.batch_sharding(mesh)

    @partial(jax.jit, in_shardings=(None, whole), out_shardings=whole)
    def unhidden(weights: Any, volume: jax.Array) -> jax.Array:
        return model.apply(weights, volume[None], train=False)[1]["denseblock1"][0]

    def changed(corners: jax.Array, weights: Any, maps: jax.Array, volume: jax.Array, value: jax.Array) -> jax.Array:
        """Return the maps of the first block [b, d, h, w, c] of copies, of each of which a patch is hidden."""
        size = maps.shape[:3]
        # The first output of the stem that sees the patch, and how many along each axis can at most.
        first = -((_REACH - corners) // _STEP)
        most = [min(n, (p + 2 * _REACH - 1) // _STEP + 1) for n, p in zip(size, patch, strict=True)]
        at = _inside(first, most, size)
        crops = _crops(volume, value, corners, patch, at, most, size)
        known = jnp.broadcast_to(maps, (len(corners), *maps.shape))
        known = _write(known, _stem(model, weights, crops, at, volume.shape), at, 0)
        for i in range(model.block_sizes[0]):
            first, most = first - 1, [m + 2 for m in most]
            # The layer pads with zeros, as it does at the volume's edge: elsewhere its outermost outputs are wrong.
            sides = [min(m + 2, n) for m, n in zip(most, size, strict=True)]
            at, channels = _inside(first - 1, sides, size), model.stem_features + i * growth
            its = _of(weights, "denseblock1", f"denselayer{i + 1}")
            new: Any = layer.apply(its, _read(known, at, sides, 0, channels), None, False)
            right = _between(at, sides, first, most)
            known = _write(known, jnp.where(right, new, _read(known, at, sides, channels, growth)), at, channels)
        return known

    def outputs(
        weights: Any, maps: jax.Array, volume: jax.Array, value: jax.Array, corners: jax.Array, which: jax.Array
    ) -> jax.Array:
        known = sharding.across(mesh)(partial(changed, weights=weights, maps=maps, volume=volume, value=value))(corners)

        def instead(next_one: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
            if context.module.name == "denseblock1" and context.method_name == "__call__":
                return known, None
            return next_one(*args, **kwargs)

        # What the network computes before is not used, and so left out by the compiler.
        volumes = jnp.zeros((len(corners), *volume.shape), volume.dtype)
        with sharding.placing(mesh), nn.intercept_methods(instead):
            return output(weights, volumes, which)

    compiled = jax.jit(outputs, in_shardings=(None, whole, whole, whole, batch, whole), out_shardings=batch)
    last: list[Any] = [None, None, None]  # weights, volume, maps

    def call(weights: Any, volume: jax.Array, value: jax.Array, corners: jax.Array, which: jax.Array) -> jax.Array:
        if last[0] is not weights or last[1] is not volume:
            last[:] = weights, volume, unhidden(weights, volume)
        return compiled(weights, last[2], volume, value, corners, which)

    return call


def _of(weights: Any, *names: str) -> dict[str, Any]:
    """Return the weights of a part of the network."""
    return {kind: reduce(getitem, names, weights[kind]) for kind in ("params", "batch_stats")}


def _inside(first: jax.Array, sides: Sequence[int], size: Sequence[int]) -> jax.Array:
    """Return where boxes [b, 3] begin that are moved so far that they lie inside."""
    return jnp.clip(first, 0, jnp.array([n - s for n, s in zip(size, sides, strict=True)]))


def _between(at: jax.Array, sides: Sequence[int], first: jax.Array, most: Sequence[int]) -> jax.Array:
    """Return which voxels of boxes, at [b, 3] with sides, lie in others that begin at `first`: [b, d, h, w, 1]."""
    inside = []
    for axis, (side, length) in enumerate(zip(sides, most, strict=True)):
        place, start = at[:, axis, None] + jnp.arange(side), first[:, axis, None]
        inside.append((place >= start) & (place < start + length))
    d, h, w = inside
    return (d[:, :, None, None] & h[:, None, :, None] & w[:, None, None, :])[..., None]


def _crops(
    volume: jax.Array, value: jax.Array, corners: jax.Array, patch: Triple, at: jax.Array, most: Sequence[int],
    size: Sequence[int],
) -> jax.Array:  # fmt: skip
    """Return what the outputs `at` of the stem see of a volume of which a patch is hidden, 0 outside of it."""
    ends = [_STEP * n + 2 - length for n, length in zip(size, volume.shape[:3], strict=True)]
    padded = jnp.pad(volume, [*((_REACH, end) for end in ends), (0, 0)])
    sides = [_STEP * m + 2 * _REACH - _STEP + 1 for m in most]
    seen = jax.vmap(lambda k: lax.dynamic_slice(padded, (*k, 0), (*sides, volume.shape[-1])))(_STEP * at)
    first = _STEP * at - _REACH
    # A corner outside of the volume hides nothing, not even of the zeros around it.
    inside = jnp.where(corners < jnp.array(volume.shape[:3]), corners, -_STEP * sum(volume.shape))
    return jnp.where(_between(first, sides, inside, patch), value, seen)


def _stem(model: densenet.DenseNet, weights: Any, crops: jax.Array, at: jax.Array, size: Sequence[int]) -> jax.Array:
    """Return the stem's outputs at boxes from what they see, [b, d, h, w, c]."""
    conv = layers.Conv(model.stem_features, (7, 7, 7), (2, 2, 2), use_bias=False, dtype=model.dtype)
    norm = layers.BatchNorm(dtype=model.dtype)
    x: Any = conv.apply({"params": weights["params"]["conv0"]}, crops)
    normed: Any = norm.apply(_of(weights, "norm0"), x, False)
    # The pool pads with less than anything, and nothing is less than 0 here.
    there = [convolution.output_size(n, 7, 2, 3) for n in size[:3]]
    x = jnp.where(_between(2 * at - 1, normed.shape[1:4], jnp.zeros_like(at), there), nn.relu(normed), 0)
    return layers.max_pool(x, window=3, stride=2, padding=0)


def _read(x: jax.Array, at: jax.Array, sides: Sequence[int], channel: int, channels: int) -> jax.Array:
    """Return the boxes at [b, 3] of maps [b, d, h, w, c], of some channels."""
    return jax.vmap(lambda one, k: lax.dynamic_slice(one, (*k, channel), (*sides, channels)))(x, at)


def _write(x: jax.Array, boxes: jax.Array, at: jax.Array, channel: int) -> jax.Array:
    """Return maps [b, d, h, w, c] with boxes put in at [b, 3], from a channel on."""
    return jax.vmap(lambda one, box, k: lax.dynamic_update_slice(one, box, (*k, channel)))(x, boxes, at)
