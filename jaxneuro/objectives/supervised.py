"""Supervised objectives: sigmoid and softmax cross-entropy, L1 for regression (paper section 3.2), several at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.scipy.stats import norm
from sklearn import metrics as sk

from jaxneuro.objectives.base import Batch, Objective


class Target(NamedTuple):
    """What is predicted from some of the network's outputs.

    Attributes:
      width: how many outputs it takes.
      losses: outputs [b, width] and targets [b] to losses [b].
      predict: outputs [b, width] to predictions [b, k] in the target's unit.
      score: predictions [n, k] and targets [n], on the host, to validation metrics; NaN where undefined.
      metric, mode: the score that chooses the best checkpoint, and its better direction.
      share: of its loss in the sum over targets.
    """

    width: int
    losses: Callable[[jax.Array, jax.Array], jax.Array]
    predict: Callable[[jax.Array], jax.Array]
    score: Callable[[np.ndarray, np.ndarray], dict[str, float]]
    metric: str
    mode: str
    share: float = 1.0


def binary(weights: Sequence[float] = (1.0, 1.0), smoothing: float = 0.0) -> Target:
    """Return binary cross-entropy of one logit with targets from 0 to 1; predicts the probability of class 1.

    Args:
      weights: of the losses of the classes 0 and 1.
      smoothing: targets are drawn this far to 1/2: y (1 - smoothing) + smoothing / 2.
    """

    def losses(outputs: jax.Array, target: jax.Array) -> jax.Array:
        soft = target * (1 - smoothing) + smoothing / 2
        weight = weights[0] + (weights[1] - weights[0]) * target
        return weight * optax.sigmoid_binary_cross_entropy(outputs[:, 0], soft)

    def score(predictions: np.ndarray, target: np.ndarray) -> dict[str, float]:
        if len(np.unique(target)) < 2 or not np.isfinite(predictions).all():
            return {"roc_auc": float("nan")}
        return {"roc_auc": float(sk.roc_auc_score(target, predictions[:, 0]))}

    return Target(1, losses, jax.nn.sigmoid, score, metric="roc_auc", mode="max")


def multiclass(classes: int, weights: Sequence[float] | None = None, smoothing: float = 0.0) -> Target:
    """Return softmax cross-entropy of as many logits as classes with class indices; predicts probabilities.

    Args:
      classes: their number.
      weights: of the losses of each class.
      smoothing: share of each target that is spread evenly over all classes.
    """
    of_class = jnp.ones(classes) if weights is None else jnp.asarray(weights, jnp.float32)

    def losses(outputs: jax.Array, target: jax.Array) -> jax.Array:
        soft = optax.smooth_labels(jax.nn.one_hot(target.astype(jnp.int32), classes), smoothing)
        return of_class[target.astype(jnp.int32)] * optax.softmax_cross_entropy(outputs, soft)

    def score(predictions: np.ndarray, target: np.ndarray) -> dict[str, float]:
        if not len(target) or not np.isfinite(predictions).all():
            return {"balanced_accuracy": float("nan"), "accuracy": float("nan")}
        # The mean recall over the classes that are there, as balanced_accuracy_score has it, without its warning.
        guess, there = predictions.argmax(-1), np.unique(target)
        return {
            "balanced_accuracy": float(sk.recall_score(target, guess, labels=there, average="macro")),
            "accuracy": float(sk.accuracy_score(target, guess)),
        }

    return Target(classes, losses, jax.nn.softmax, score, metric="balanced_accuracy", mode="max")


def regression(mean: float, scale: float, loss: str = "l1") -> Target:
    """Return the L1 or squared loss of standardised targets; predicts [b, 1] in the target's own unit.

    Args:
      mean, scale: mean and standard deviation of the training targets, in their unit (years for age).
      loss: "l1" or "l2".
    """
    of = {"l1": jnp.abs, "l2": jnp.square}[loss]

    def losses(outputs: jax.Array, target: jax.Array) -> jax.Array:
        return of(outputs[:, 0] - (target - mean) / scale)

    return Target(1, losses, lambda outputs: outputs * scale + mean, _mae, metric="mae", mode="min")


def soft_bins(low: float, high: float, width: float = 1.0, deviation: float = 1.0) -> Target:
    """Return regression as classification with soft labels: one output a bin, predictions are expected values.

    The label of a target is a normal distribution about it, cut into the bins and scaled to sum to 1; the loss is the
    Kullback-Leibler divergence from the softmax of the outputs. Source: Peng et al. 2021 (SFCN), for brain age.

    Args:
      low, high: range of the bins, in the target's unit.
      width: of a bin.
      deviation: standard deviation of a label.
    """
    edges = np.arange(low, high + width / 2, width)
    centres = jnp.asarray((edges[:-1] + edges[1:]) / 2, jnp.float32)

    def losses(outputs: jax.Array, target: jax.Array) -> jax.Array:
        below = norm.cdf((jnp.asarray(edges, jnp.float32) - target[:, None]) / deviation)
        soft = jnp.diff(below, axis=1) + 1e-12  # a target far outside still has a label: even
        soft = soft / soft.sum(1, keepdims=True)
        return optax.kl_divergence(jax.nn.log_softmax(outputs), soft)

    def predict(outputs: jax.Array) -> jax.Array:
        return (jax.nn.softmax(outputs) * centres).sum(-1, keepdims=True)

    return Target(len(edges) - 1, losses, predict, _mae, metric="mae", mode="min")


def balanced(target: np.ndarray, classes: int) -> list[float]:
    """Return a weight for each class such that all count alike: n / (classes x n of the class), 1 in the mean."""
    counts = np.bincount(target[np.isfinite(target)].astype(int), minlength=classes)
    return [float(counts.sum() / (classes * n)) for n in counts]


def build(targets: Mapping[str, Target]) -> Objective:
    """Return the objective of one target or several, which share the outputs [b, sum of widths] in the order given.

    A sample whose label is missing (NaN) takes no part in that target's loss, which is the mean over the others. The
    loss is the sum over targets by their shares; the first target's score chooses the best checkpoint. With several,
    the names of losses and scores begin with the target's.
    """
    single = len(targets) == 1
    ends = np.cumsum([t.width for t in targets.values()])[:-1].tolist()

    def parts(outputs: jax.Array) -> list[jax.Array]:
        return jnp.split(outputs, ends, axis=1)

    def predict(outputs: jax.Array) -> jax.Array:
        return jnp.concatenate(
            [t.predict(part) for t, part in zip(targets.values(), parts(outputs), strict=True)], axis=1
        )

    def loss(
        apply: Callable[..., Any], params: Any, batch_stats: Any, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, tuple[dict[str, jax.Array], Any]]:
        variables = {"params": params, "batch_stats": batch_stats}
        (outputs, _), updated = apply(
            variables, batch["volume"], train=True, mutable=["batch_stats"], rngs={"dropout": key}
        )
        metrics = {}
        total = jnp.zeros(())
        for (name, target), part in zip(targets.items(), parts(outputs), strict=True):
            known = jnp.isfinite(batch[name])
            # A missing label is made a number before the loss: NaN times 0 is NaN, in the gradient too.
            losses = target.losses(part, jnp.where(known, batch[name], 0.0))
            value = jnp.sum(losses, where=known) / jnp.maximum(known.sum(), 1)
            total = total + target.share * value
            if not single:
                metrics[f"{name}_loss"] = value
        return total, ({"loss": total, **metrics}, updated.get("batch_stats", {}))

    def evaluate(apply: Callable[..., Any], variables: Any, batch: Batch, key: jax.Array) -> jax.Array:
        return predict(apply(variables, batch["volume"], train=False)[0])

    def score(values: np.ndarray, labels: dict[str, np.ndarray]) -> dict[str, float]:
        found: dict[str, float] = {}
        start = 0
        for name, target in targets.items():
            width = predictions_of(target)
            known = np.isfinite(labels[name])
            scores = target.score(values[known, start : start + width], labels[name][known])
            found |= scores if single else {f"{name}_{k}": v for k, v in scores.items()}
            start += width
        return found

    name, first = next(iter(targets.items()))
    metric = first.metric if single else f"{name}_{first.metric}"
    return Objective(loss, evaluate, score, metric, first.mode, labels=tuple(targets), predict=predict)


def predictions_of(target: Target) -> int:
    """Return how many predictions a target makes of its outputs."""
    return jax.eval_shape(target.predict, jax.ShapeDtypeStruct((1, target.width), jnp.float32)).shape[1]


def _mae(predictions: np.ndarray, target: np.ndarray) -> dict[str, float]:
    if not len(target) or not np.isfinite(predictions).all():
        return {"mae": float("nan")}
    return {"mae": float(sk.mean_absolute_error(target, predictions[:, 0]))}
