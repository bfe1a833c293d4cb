"""Losses, predictions and scores against numbers worked out in NumPy float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxneuro.objectives import supervised


def run(objective, outputs, target):
    """Apply an objective's loss to fixed outputs."""

    def apply(variables, x, *, train, mutable, rngs):
        assert train
        return (variables["params"] * jnp.asarray(outputs, jnp.float32), {}), {"batch_stats": {"seen": x.sum()}}

    batch = {"volume": jnp.ones((len(target), 1, 1, 1, 1)), "target": jnp.asarray(target, jnp.float32)}
    value, (metrics, stats) = objective.loss(apply, jnp.ones(()), {}, batch, jax.random.key(0))
    assert float(metrics["loss"]) == float(value)
    assert float(stats["seen"]) == len(target)
    return float(value)


def test_binary():
    z, y = np.array([[2.0], [-1.0], [0.5], [-30.0]]), np.array([1, 0, 0, 1])
    p = 1 / (1 + np.exp(-z[:, 0]))
    want = -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))
    objective = supervised.binary()
    assert run(objective, z, y) == pytest.approx(want, rel=1e-6)
    np.testing.assert_allclose(objective.predict(jnp.asarray(z))[:3, 0], p[:3], rtol=1e-6)
    # Of the four pairs of a positive and a negative, p ranks two rightly.
    assert objective.score(p[:, None], y) == {"roc_auc": 0.5}
    assert np.isnan(objective.score(p[:, None], np.ones(4))["roc_auc"])
    assert (objective.metric, objective.mode) == ("roc_auc", "max")


def test_multiclass():
    z, y = np.array([[1.0, 2.0, 0.0], [0.0, 0.0, 3.0], [2.0, 1.0, 1.0]]), np.array([1, 2, 1])
    p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    objective = supervised.multiclass()
    assert run(objective, z, y) == pytest.approx(-np.log(p[np.arange(3), y]).mean(), rel=1e-6)
    np.testing.assert_allclose(objective.predict(jnp.asarray(z)), p, rtol=1e-6)
    # Class 1: one of two right; class 2: one of one.
    assert objective.score(p, y)["balanced_accuracy"] == pytest.approx(0.75)


def test_regression_is_l1_of_standardised_targets_and_predicts_years():
    outputs, y = np.array([[0.5], [-1.0]]), np.array([72.0, 60.0])
    objective = supervised.regression(mean=70.0, scale=8.0)
    # |0.5 - 0.25| and |-1 + 1.25|.
    assert run(objective, outputs, y) == pytest.approx(0.25, rel=1e-6)
    np.testing.assert_allclose(objective.predict(jnp.asarray(outputs))[:, 0], [74.0, 62.0])
    assert objective.score(np.array([[74.0], [62.0]]), y) == {"mae": 2.0}
    assert (objective.metric, objective.mode) == ("mae", "min")
