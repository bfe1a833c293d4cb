"""Attention rollout: how much of each patch reaches the pooled token through all layers' attention.

Source: Abnar and Zuidema 2020. It is the same for every class: what is attended to does not count.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxneuro.errors import InputError
from jaxneuro.evaluation.maps import hiding
from jaxneuro.evaluation.maps.hiding import Grid, Output
from jaxneuro.models import nit, vit
from jaxneuro.training import sharding


def check(model: nn.Module, name: str) -> None:
    """Refuse a network in which not every token attends to all others in every layer.

    Raises:
      InputError: says which networks have such attention.
    """
    if not isinstance(model, vit.ViT | nit.NiT):
        raise InputError(
            f"--method: found 'rollout' with {name}; expected a vit or nit, whose tokens attend to all others; or "
            "--method gradient"
        )


def grid(model: nn.Module) -> Grid:
    """Return where the patches of a network that `check` lets through lie."""
    assert isinstance(model, vit.ViT | nit.NiT)
    return hiding.grid(model.input_size, model.patch(), model.patch())


def program(model: nn.Module, output: Output, mesh: Mesh) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """Return `rollout(weights, volumes[b, d, h, w, c], which) -> (outputs[b], maps[b, d, h, w])`, compiled, sharded.

    Every voxel has the value of its patch; the values of a map's patches, of all but a class token, sum to at most 1.
    """
    assert isinstance(model, vit.ViT | nit.NiT)
    patches = math.prod(model.grid())

    def maps(weights: Any, volumes: jax.Array, which: jax.Array) -> tuple[jax.Array, jax.Array]:
        with sharding.placing(mesh):
            _, kept = model.apply(weights, volumes, train=False, mutable=["intermediates"])
            outputs = output(weights, volumes, which)
        attention = _by_layer(kept["intermediates"])
        n = attention[0].shape[-1]
        if getattr(model, "pool", "class") == "class":
            read = jnp.eye(n)[0]
        else:
            read = jnp.where(jnp.arange(n) >= n - patches, 1 / patches, 0.0)
        values = roll(attention, read)[:, n - patches :].reshape(-1, *model.grid())
        for axis, length in enumerate(model.patch()):
            values = jnp.repeat(values, length, axis=axis + 1)
        return outputs, values

    batch = sharding.batch_sharding(mesh)
    return jax.jit(maps, in_shardings=(None, batch, sharding.replicated(mesh)), out_shardings=(batch, batch))


def roll(attention: Sequence[jax.Array], read: jax.Array) -> jax.Array:
    """Return how much of each token reaches what the head reads [b, n].

    A layer mixes tokens by the mean over heads of its attention, and keeps them by its residual connection: half and
    half.

    Args:
      attention: of each layer, from input to output [b, heads, n, n].
      read: how much of each token of the last layer the head reads [n].
    """
    b, *_, n = attention[0].shape
    rows = jnp.broadcast_to(read, (b, n))
    # From the output back, one row at a time instead of products of matrices.
    for weights in reversed(attention):
        mixed = (weights.astype(jnp.float32).mean(1) + jnp.eye(n)) / 2
        rows = jnp.einsum("bi,bij->bj", rows, mixed)
    return rows


def _by_layer(kept: Any) -> list[jax.Array]:
    """Return the attention of each block, in their order."""
    found = {}
    for path, weights in jax.tree.leaves_with_path(kept):
        number = re.search(r"block(\d+)", jax.tree_util.keystr(path))
        assert number, path
        found[int(number[1])] = weights
    return [found[i] for i in sorted(found)]
