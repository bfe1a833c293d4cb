"""Saliency: how steeply the output depends on each voxel. Source: Simonyan et al. 2014; Captum's `Saliency`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxneuro.evaluation.maps.hiding import Output
from jaxneuro.training import sharding


def program(output: Output, mesh: Mesh) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """Return `saliency(weights, volumes[b, d, h, w, c], which) -> (outputs[b], maps[b, d, h, w])`, compiled, sharded.

    A voxel's value is the absolute gradient of the output by it, summed over channels. Volumes are as the network sees
    them; their number is a multiple of the devices'.
    """

    def saliency(weights: Any, volumes: jax.Array, which: jax.Array) -> tuple[jax.Array, jax.Array]:
        def total(x: jax.Array) -> tuple[jax.Array, jax.Array]:
            outputs = output(weights, x, which)
            # Samples do not depend on each other in evaluation: the gradient of the sum is that of each.
            return outputs.sum(), outputs

        with sharding.placing(mesh):
            (_, outputs), slope = jax.value_and_grad(total, has_aux=True)(volumes)
        return outputs, jnp.abs(slope).sum(-1)

    batch = sharding.batch_sharding(mesh)
    return jax.jit(saliency, in_shardings=(None, batch, sharding.replicated(mesh)), out_shardings=(batch, batch))
