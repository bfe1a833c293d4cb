"""The two compiled functions of a run: one step of training, and a forward pass for predictions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from jaxneuro.objectives.base import Objective
from jaxneuro.training import sharding
from jaxneuro.training.state import TrainState

Arrays = dict[str, jax.Array]
View = Callable[[jax.Array], jax.Array]


def train_step(
    apply: Callable[..., Any],
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    normalise: View,
    views: Callable[[jax.Array, jax.Array], jax.Array],
    seed: int,
    mesh: Mesh,
    where: Any,
) -> Callable[[TrainState, Arrays], tuple[TrainState, Arrays]]:
    """Return `step(state, batch) -> (state, metrics)`, compiled and sharded; the given state is used up.

    Normalisation and augmentation run inside, on the device. Randomness is `fold_in(key(seed), state.step)`, so a
    resumed run draws what the uninterrupted one would have drawn.

    Args:
      apply: `model.apply`.
      objective, optimizer: what is minimised and how.
      normalise, views: made by `augment.normaliser` and `augment.build`.
      seed: of the run.
      mesh: the devices.
      where: shardings of the state.
    """

    def step(state: TrainState, batch: Arrays) -> tuple[TrainState, Arrays]:
        view_key, loss_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), state.step))
        batch = {**batch, "volume": views(view_key, normalise(batch["volume"]))}

        def loss(params: Any) -> Any:
            return objective.loss(apply, params, state.batch_stats, batch, loss_key)

        (_, (metrics, batch_stats)), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        new = TrainState(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats=batch_stats,
            opt_state=opt_state,
        )
        return new, {**metrics, "gradient_norm": optax.tree.norm(gradients)}

    return jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(where, sharding.batch_sharding(mesh)),
        out_shardings=(where, sharding.replicated(mesh)),
    )


def predict_step(
    apply: Callable[..., Any], objective: Objective, *, normalise: View, mesh: Mesh
) -> Callable[[dict[str, Any], jax.Array], jax.Array]:
    """Return `predict({"params", "batch_stats"}, volume[b, d, h, w, c]) -> predictions [b, k]`, compiled."""

    def predict(weights: dict[str, Any], volume: jax.Array) -> jax.Array:
        outputs, _ = apply(weights, normalise(volume), train=False)
        return objective.predict(outputs)

    where = sharding.batch_sharding(mesh)
    return jax.jit(predict, in_shardings=(None, where), out_shardings=where)
