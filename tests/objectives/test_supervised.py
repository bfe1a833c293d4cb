"""Losses, predictions and scores against numbers worked out in NumPy float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm
from sklearn.utils import compute_class_weight

from jaxneuro.objectives import supervised


def run(objective, outputs, target):
    """Apply the loss of one target to fixed outputs."""

    def apply(variables, x, *, train, mutable, rngs):
        assert train
        return (variables["params"] * jnp.asarray(outputs, jnp.float32), {}), {"batch_stats": {"seen": x.sum()}}

    batch = {"volume": jnp.ones((len(target), 1, 1, 1, 1)), "y": jnp.asarray(target, jnp.float32)}
    objective = supervised.build({"y": objective})
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
    objective = supervised.multiclass(3)
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


def test_class_weights_and_smoothing():
    z, y = np.array([[2.0], [-1.0], [0.5]]), np.array([1, 0, 0])
    p = 1 / (1 + np.exp(-z[:, 0]))
    soft = y * 0.9 + 0.05
    each = -(soft * np.log(p) + (1 - soft) * np.log(1 - p))
    want = np.mean(each * np.where(y == 1, 3.0, 0.5))
    assert run(supervised.binary((0.5, 3.0), smoothing=0.1), z, y) == pytest.approx(want, rel=1e-6)
    z, y = np.array([[1.0, 2.0, 0.0], [0.0, 0.0, 3.0]]), np.array([1, 2])
    logs = z - np.log(np.exp(z).sum(-1, keepdims=True))
    soft = np.eye(3)[y] * 0.7 + 0.1
    want = np.mean(-(soft * logs).sum(-1) * np.array([2.0, 0.25]))
    assert run(supervised.multiclass(3, (1.0, 2.0, 0.25), smoothing=0.3), z, y) == pytest.approx(want, rel=1e-6)


def test_balanced_weights_are_scikit_learns():
    y = np.array([0, 0, 0, 1, 2, 2, np.nan], np.float32)
    want = compute_class_weight("balanced", classes=np.arange(3), y=y[:-1].astype(int))
    np.testing.assert_allclose(supervised.balanced(y, 3), want)
    # In the mean over scans a weight is 1.
    assert np.mean([want[int(v)] for v in y[:-1]]) == pytest.approx(1)


def test_soft_targets_of_a_binary_loss_are_probabilities():
    z, y = np.array([[0.3], [-2.0]]), np.array([0.25, 0.8])
    p = 1 / (1 + np.exp(-z[:, 0]))
    want = -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))
    assert run(supervised.binary(), z, y) == pytest.approx(want, rel=1e-6)


def test_soft_bins_are_normal_distributions_cut_into_bins():
    target = supervised.soft_bins(40, 46, width=2.0, deviation=1.5)
    assert target.width == 3
    z, y = np.array([[0.2, 1.0, -0.5], [0.0, 0.0, 2.0]]), np.array([42.5, 45.9])
    logs = z - np.log(np.exp(z).sum(-1, keepdims=True))
    edges = np.array([40.0, 42.0, 44.0, 46.0])
    soft = np.diff(norm.cdf((edges - y[:, None]) / 1.5), axis=1)
    soft /= soft.sum(1, keepdims=True)
    want = np.mean((soft * (np.log(soft) - logs)).sum(1))
    assert run(target, z, y) == pytest.approx(want, rel=1e-5)
    years = np.exp(logs) @ np.array([41.0, 43.0, 45.0])
    np.testing.assert_allclose(target.predict(jnp.asarray(z))[:, 0], years, rtol=1e-6)
    # A target beyond the range still has a label, and a loss that is a number.
    assert np.isfinite(run(target, z, np.array([-1e4, 1e4])))


def test_squared_loss_on_request():
    outputs, y = np.array([[0.5], [-1.0]]), np.array([72.0, 60.0])
    # (0.5 - 0.25)^2 and (-1 + 1.25)^2.
    assert run(supervised.regression(70.0, 8.0, "l2"), outputs, y) == pytest.approx(0.0625, rel=1e-6)


@pytest.fixture
def several():
    """Sex from one output, diagnosis of three from the next three, age from the last."""
    targets = {
        "sex": supervised.binary(),
        "diagnosis": supervised.multiclass(3)._replace(share=0.5),
        "age": supervised.regression(70.0, 8.0)._replace(share=2.0),
    }
    return supervised.build(targets)


def several_batch():
    nan = np.nan
    return {
        "sex": np.array([1, nan, 0, 1]),
        "diagnosis": np.array([nan, 2, 0, nan]),
        "age": np.array([nan, nan, nan, 66.0]),
    }


def test_several_targets_share_the_outputs_and_missing_labels_take_no_part(several):
    z = np.random.default_rng(0).normal(size=(4, 5))
    labels = several_batch()
    p = 1 / (1 + np.exp(-z[:, 0]))
    sex = -np.mean([np.log(p[0]), np.log(1 - p[2]), np.log(p[3])])
    logs = z[:, 1:4] - np.log(np.exp(z[:, 1:4]).sum(-1, keepdims=True))
    diagnosis = -np.mean([logs[1, 2], logs[2, 0]])
    age = abs(z[3, 4] - (66 - 70) / 8)

    def apply(variables, x, **_):
        return (variables["params"], {}), {}

    batch = {"volume": jnp.zeros((4, 1, 1, 1, 1)), **{k: jnp.asarray(v, jnp.float32) for k, v in labels.items()}}

    def loss(outputs):
        return several.loss(apply, outputs, {}, batch, jax.random.key(0))

    (value, (metrics, _)), gradient = jax.value_and_grad(loss, has_aux=True)(jnp.asarray(z, jnp.float32))
    found = [metrics[f"{name}_loss"] for name in labels]
    np.testing.assert_allclose(found, [sex, diagnosis, age], rtol=1e-5)
    np.testing.assert_allclose(value, sex + 0.5 * diagnosis + 2 * age, rtol=1e-5)
    # No gradient, and no NaN, comes from a label that is not known.
    assert np.isfinite(gradient).all()
    missing = np.zeros((4, 5), bool)
    missing[1, 0] = missing[0, 1:4] = missing[3, 1:4] = missing[:3, 4] = True
    np.testing.assert_array_equal(np.asarray(gradient)[missing], 0)
    assert (np.abs(np.asarray(gradient)[~missing]) > 0).all()


def test_scores_of_several_targets_are_of_the_known_and_the_first_chooses(several):
    values = np.array([[0.9, 1, 0, 0, 70], [0.5, 0.1, 0.2, 0.7, 60], [0.1, 0.8, 0.1, 0.1, 61], [0.05, 0, 1, 0, 60.0]])
    scores = several.score(values, several_batch())
    # Of the two pairs of a woman and a man one is in order; both diagnoses are right; |60 - 66|.
    assert scores == {"sex_roc_auc": 0.5, "diagnosis_balanced_accuracy": 1, "diagnosis_accuracy": 1, "age_mae": 6}
    assert (several.metric, several.mode) == ("sex_roc_auc", "max")
    assert several.labels == ("sex", "diagnosis", "age")


def test_a_batch_without_any_label_costs_nothing():
    objective = supervised.build({"age": supervised.regression(70.0, 8.0)})
    batch = {"volume": jnp.zeros((2, 1, 1, 1, 1)), "age": jnp.full(2, jnp.nan)}

    def loss(outputs):
        return objective.loss(lambda v, x, **_: ((v["params"], {}), {}), outputs, {}, batch, jax.random.key(0))[0]

    value, gradient = jax.value_and_grad(loss)(jnp.ones((2, 1)))
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)
