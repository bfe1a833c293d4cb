"""What a training run carries from step to step."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from jaxneuro import models
from jaxneuro.training import sharding


class TrainState(flax.struct.PyTreeNode):
    """Step count, parameters, batch statistics, optimiser state, running average of the parameters; immutable.

    `average` is empty where none is kept.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    average: Any

    def weights(self) -> dict[str, Any]:
        """Return the variables to evaluate and to keep: the average of the parameters where there is one."""
        return {"params": self.average or self.params, "batch_stats": self.batch_stats}


def create(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    where: TrainState,
    *,
    average: bool = False,
) -> TrainState:
    """Initialise a state, every leaf made where it will live.

    Args:
      model: the network.
      optimizer: the optimiser.
      key: of the initial weights.
      where: shardings of the state (`sharding.shardings`).
      average: whether to keep a running average of the parameters.
    """

    def init(key: jax.Array) -> TrainState:
        return sharding.unbox(_boxed(model, optimizer, key, average))

    # Runs once, and LLVM takes longer over its random numbers than over the step: 43 s against 3.5 s for a DenseNet.
    (device, *_) = jax.tree.leaves(where)[0].device_set
    quick = {"xla_backend_optimization_level": 0} if device.platform == "cpu" else None
    return jax.jit(init, out_shardings=where, compiler_options=quick)(key)


def abstract(model: nn.Module, optimizer: optax.GradientTransformation, *, average: bool = False) -> TrainState:
    """Return shapes and dtypes of a state, parameters still carrying their logical axes; computes nothing."""
    return jax.eval_shape(lambda key: _boxed(model, optimizer, key, average), jax.random.key(0))


def with_weights(state: TrainState, weights: dict[str, Any], where: TrainState) -> TrainState:
    """Return a new run's state with other parameters and batch statistics, each put where it is to live."""
    placed = {
        name: jax.tree.map(jax.device_put, weights[name], getattr(where, name)) for name in ("params", "batch_stats")
    }
    if state.average:
        # Its own buffers: a step gives those of the parameters away.
        placed["average"] = jax.tree.map(jnp.copy, placed["params"])
    return state.replace(**placed)


def _boxed(model: nn.Module, optimizer: optax.GradientTransformation, key: jax.Array, average: bool) -> TrainState:
    inputs: dict[str, Any] = {k: jnp.zeros(x.shape, x.dtype) for k, x in models.inputs(model).items()}
    variables = model.init(key, **inputs, train=False)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        opt_state=optimizer.init(variables["params"]),
        # A sum, not the same array twice: a step gives each of its buffers away once.
        average=jax.tree.map(lambda p: p + 0, variables["params"]) if average else {},
    )
