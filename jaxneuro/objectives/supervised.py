"""Supervised objectives: sigmoid cross-entropy, softmax cross-entropy, and L1 for regression (paper section 3.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn import metrics as sk

from jaxneuro.objectives.base import Objective


def binary() -> Objective:
    """Return binary cross-entropy of logits [b, 1] with targets 0 or 1; predicts the probability of class 1."""

    def losses(outputs: jax.Array, target: jax.Array) -> jax.Array:
        return optax.sigmoid_binary_cross_entropy(outputs[:, 0], target)

    def score(predictions: np.ndarray, target: np.ndarray) -> dict[str, float]:
        if len(np.unique(target)) < 2 or not np.isfinite(predictions).all():
            return {"roc_auc": float("nan")}
        return {"roc_auc": float(sk.roc_auc_score(target, predictions[:, 0]))}

    return Objective(_mean(losses), jax.nn.sigmoid, score, metric="roc_auc", mode="max")


def multiclass() -> Objective:
    """Return softmax cross-entropy of logits [b, k] with class indices; predicts probabilities [b, k]."""

    def losses(outputs: jax.Array, target: jax.Array) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(outputs, target.astype(jnp.int32))

    def score(predictions: np.ndarray, target: np.ndarray) -> dict[str, float]:
        if not np.isfinite(predictions).all():
            return {"balanced_accuracy": float("nan")}
        # The mean recall over the classes that are there, as balanced_accuracy_score has it, without its warning.
        guess, there = predictions.argmax(-1), np.unique(target)
        return {"balanced_accuracy": float(sk.recall_score(target, guess, labels=there, average="macro"))}

    return Objective(_mean(losses), jax.nn.softmax, score, metric="balanced_accuracy", mode="max")


def regression(mean: float, scale: float) -> Objective:
    """Return the L1 loss of standardised targets; predicts [b, 1] in the target's own unit.

    Args:
      mean, scale: mean and standard deviation of the training targets, in their unit (years for age).
    """

    def losses(outputs: jax.Array, target: jax.Array) -> jax.Array:
        return jnp.abs(outputs[:, 0] - (target - mean) / scale)

    def predict(outputs: jax.Array) -> jax.Array:
        return outputs * scale + mean

    def score(predictions: np.ndarray, target: np.ndarray) -> dict[str, float]:
        if not np.isfinite(predictions).all():
            return {"mae": float("nan")}
        return {"mae": float(sk.mean_absolute_error(target, predictions[:, 0]))}

    return Objective(_mean(losses), predict, score, metric="mae", mode="min")


def _mean(losses: Callable[[jax.Array, jax.Array], jax.Array]) -> Callable[..., Any]:
    def loss(
        apply: Callable[..., Any], params: Any, batch_stats: Any, batch: dict[str, jax.Array], key: jax.Array
    ) -> tuple[jax.Array, tuple[dict[str, jax.Array], Any]]:
        variables = {"params": params, "batch_stats": batch_stats}
        (outputs, _), updated = apply(
            variables, batch["volume"], train=True, mutable=["batch_stats"], rngs={"dropout": key}
        )
        value = losses(outputs, batch["target"]).mean()
        return value, ({"loss": value}, updated.get("batch_stats", {}))

    return loss
