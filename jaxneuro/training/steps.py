"""The two compiled functions of a run: one step of training, and the values of an evaluation batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, Mesh

from jaxneuro.objectives.base import Objective
from jaxneuro.training import sharding
from jaxneuro.training.state import TrainState

Arrays = dict[str, jax.Array]
View = Callable[[jax.Array], jax.Array]
Views = Callable[[jax.Array, jax.Array], jax.Array]


def train_step(
    apply: Callable[..., Any],
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    normalise: View,
    views: Views,
    mesh: Mesh | AbstractMesh,
    where: Any,
    parts: int = 1,
    average: float = 0.0,
) -> Callable[[TrainState, Arrays, jax.Array], tuple[TrainState, Arrays]]:
    """Return `step(state, batch, key) -> (state, metrics)`, compiled and sharded; the given state is used up.

    Normalisation and augmentation run inside, on the device. Randomness is `fold_in(key, state.step)`, so with the one
    key of a run, a resumed run draws what the uninterrupted one would have drawn; runs that differ in their key alone
    share the compiled program. The metric `finite` is 0 where loss or gradient is NaN or infinite.

    Args:
      apply: `model.apply`.
      objective, optimizer: what is minimised and how.
      normalise, views: made by `augment.normaliser` and `augment.build`.
      mesh: the devices; an abstract one will do to trace the step.
      where: shardings of the state.
      parts: how many parts the batch is taken in, one after the other, their gradients averaged; batch statistics are
        those of each part.
      average: decay of the running average of the parameters; 0 keeps none.
    """

    def gradients_of(state: TrainState, batch: Arrays, key: jax.Array) -> tuple[Any, Arrays, Any]:
        def gradient(batch_stats: Any, batch: Arrays, key: jax.Array) -> tuple[Any, Arrays, Any]:
            def loss(params: Any) -> Any:
                return objective.loss(apply, params, batch_stats, batch, key)

            (_, (metrics, batch_stats)), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
            return gradients, metrics, batch_stats

        if parts == 1:
            return gradient(state.batch_stats, batch, key)

        def one(batch_stats: Any, part: tuple[Arrays, jax.Array]) -> Any:
            gradients, metrics, batch_stats = gradient(batch_stats, *part)
            return batch_stats, (gradients, metrics)

        # Every part takes a share of each device's samples: batch [b] as [b / parts, parts], the last axis first.
        split = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0), batch)
        sums = jax.eval_shape(lambda: one(state.batch_stats, (jax.tree.map(lambda x: x[0], split), key)))[1]

        def add(carry: Any, part: Any) -> Any:
            batch_stats, total = carry
            batch_stats, found = one(batch_stats, part)
            return (batch_stats, jax.tree.map(jnp.add, total, found)), None

        begin = (state.batch_stats, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), sums))
        (batch_stats, total), _ = jax.lax.scan(add, begin, (split, jax.random.split(key, parts)))
        gradients, metrics = jax.tree.map(lambda x: x / parts, total)
        return gradients, metrics, batch_stats

    def step(state: TrainState, batch: Arrays, key: jax.Array) -> tuple[TrainState, Arrays]:
        view_key, loss_key = jax.random.split(jax.random.fold_in(key, state.step))
        with sharding.placing(mesh):
            batch = seen(objective, batch, view_key, normalise, views)
            gradients, metrics, batch_stats = gradients_of(state, batch, loss_key)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        new = TrainState(
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
            average=_averaged(state.average, params, state.step, average) if average else state.average,
        )
        norm = optax.tree.norm(gradients)
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(norm)
        return new, {**metrics, "gradient_norm": norm, "finite": finite.astype(jnp.float32)}

    return jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(where, sharding.batch_sharding(mesh), sharding.replicated(mesh)),
        out_shardings=(where, sharding.replicated(mesh)),
    )


#: Tells the second view from the first. The views split their key by scan, and the parts of a split are those of
#: `fold_in` by their number: no batch is as large.
_SECOND = 2**31 - 1


def seen(objective: Objective, batch: Arrays, key: jax.Array, normalise: View, views: Views) -> Arrays:
    """Return the batch as the network sees it: normalised, in as many views as the objective compares."""
    volume = normalise(batch["volume"])
    batch = {**batch, "volume": views(key, volume)}
    if objective.views == 2:
        batch["second"] = views(jax.random.fold_in(key, _SECOND), volume)
    return batch


def _averaged(average: Any, params: Any, step: jax.Array, decay: float) -> Any:
    # Young averages forget faster: the first parameters are random.
    now = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda a, p: a + (1.0 - now) * (p - a), average, params)


def evaluation_step(
    apply: Callable[..., Any],
    objective: Objective,
    *,
    normalise: View,
    mesh: Mesh,
    views: Views | None = None,
) -> Callable[[dict[str, Any], Arrays, jax.Array], jax.Array]:
    """Return `evaluate({"params", "batch_stats"}, batch, key) -> values [b, k]`, compiled.

    An objective that compares views draws them by the key, and one that hides patches its masks. Others see volumes as
    they are.
    """

    def evaluate(weights: dict[str, Any], batch: Arrays, key: jax.Array) -> jax.Array:
        key, view_key = jax.random.split(key)
        compared = objective.views == 2 and views is not None
        with sharding.placing(mesh):
            batch = seen(objective, batch, view_key, normalise, views if compared and views else lambda _, x: x)
            return objective.evaluate(apply, weights, batch, key)

    where = sharding.batch_sharding(mesh)
    return jax.jit(evaluate, in_shardings=(None, where, sharding.replicated(mesh)), out_shardings=where)
