"""What a training run carries from step to step."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jaxneuro.training import sharding


class TrainState(flax.struct.PyTreeNode):
    """Step count, parameters, batch statistics and optimiser state; immutable."""

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any


def create(
    model: nn.Module, optimizer: optax.GradientTransformation, shape: tuple[int, ...], key: jax.Array, mesh: Mesh
) -> TrainState:
    """Initialise a state on its mesh, every leaf made where it will live.

    Args:
      model: the network.
      optimizer: the optimiser.
      shape: shape of a batch of volumes [b, d, h, w, c].
      key: of the initial weights.
      mesh: the devices.
    """
    boxed = abstract(model, optimizer, shape)
    where = sharding.shardings(mesh, boxed)

    def init(key: jax.Array) -> TrainState:
        return sharding.unbox(_boxed(model, optimizer, shape, key))

    return jax.jit(init, out_shardings=where)(key)


def abstract(model: nn.Module, optimizer: optax.GradientTransformation, shape: tuple[int, ...]) -> TrainState:
    """Return shapes and dtypes of a state, parameters still carrying their logical axes; computes nothing."""
    return jax.eval_shape(lambda key: _boxed(model, optimizer, shape, key), jax.random.key(0))


def _boxed(
    model: nn.Module, optimizer: optax.GradientTransformation, shape: tuple[int, ...], key: jax.Array
) -> TrainState:
    variables = model.init(key, jnp.zeros(shape, jnp.float32), train=False)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        opt_state=optimizer.init(variables["params"]),
    )
