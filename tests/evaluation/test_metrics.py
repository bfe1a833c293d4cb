"""Metrics and intervals against worked examples and simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from jaxneuro.evaluation import metrics, statistics

TARGET = np.array([0, 0, 0, 0, 1, 1, 1, 1])
PROBABILITY = np.array([0.1, 0.2, 0.3, 0.7, 0.4, 0.6, 0.8, 0.9])


def test_binary_by_hand():
    # Of 16 pairs, those with 0.7 against 0.4 and 0.6 are ranked wrongly: 14 right. At 0.5: TN 3, FP 1, FN 1, TP 3.
    assert metrics.binary(TARGET, PROBABILITY, 0.5) == {
        "roc_auc": 14 / 16, "accuracy": 0.75, "balanced_accuracy": 0.75, "sensitivity": 0.75, "specificity": 0.75,
    }  # fmt: skip
    at_65 = metrics.binary(TARGET, PROBABILITY, 0.65)
    assert (at_65["sensitivity"], at_65["specificity"]) == (0.5, 0.75)


def test_youden_by_hand():
    # J: at 0.4, 1 + 0.75 - 1 = 0.75, the largest; the neighbours are 0.3 and 0.4.
    assert metrics.youden_threshold(TARGET, PROBABILITY) == pytest.approx(0.35)
    assert math.isnan(metrics.youden_threshold(np.ones(4), PROBABILITY[:4]))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 8)), min_size=2, max_size=30))
def test_no_threshold_beats_youdens(pairs):
    target = np.array([t for t, _ in pairs])
    probability = np.array([p for _, p in pairs]) / 8
    if len(set(target)) < 2:
        return

    def index(threshold):
        called = probability >= threshold
        return called[target == 1].mean() - called[target == 0].mean()

    chosen = index(metrics.youden_threshold(target, probability))
    assert chosen == pytest.approx(max(index(t) for t in [*np.arange(-1, 10) / 8]))


@pytest.mark.parametrize("target", [np.zeros(4), np.ones(4)])
def test_one_class_is_undefined_not_an_exception(target):
    found = metrics.binary(target, PROBABILITY[:4], 0.25)
    assert math.isnan(found["roc_auc"])
    assert math.isnan(found["balanced_accuracy"])
    assert found["accuracy"] == 0.5
    assert metrics.undefined_reason("roc_auc", "binary", target, ("CN", "AD")) == (
        f"roc_auc is undefined: the fold holds {('CN', 'AD')[int(target[0])]} only, of CN, AD"
    )


def test_multiclass_by_hand():
    target = np.array([0, 0, 1, 2])
    probability = np.array([[0.8, 0.1, 0.1], [0.2, 0.5, 0.3], [0.1, 0.7, 0.2], [0.3, 0.3, 0.4]])
    found = metrics.multiclass(target, probability)
    assert found["accuracy"] == 0.75
    assert found["balanced_accuracy"] == pytest.approx((0.5 + 1 + 1) / 3)
    # Class 0 ranks 3 of 4 pairs rightly, class 1 all of 3, class 2 all of 3.
    assert found["roc_auc"] == pytest.approx((0.75 + 1 + 1) / 3)
    assert math.isnan(metrics.multiclass(target[:3], probability[:3])["roc_auc"])


def test_regression_by_hand():
    found = metrics.regression(np.array([60.0, 70.0, 80.0]), np.array([63.0, 70.0, 74.0]), training_mean=65.0)
    assert found["mae"] == pytest.approx(3.0)
    assert found["rmse"] == pytest.approx(math.sqrt(45 / 3))
    assert found["r2"] == pytest.approx(1 - 45 / 200)
    assert found["mae_of_mean"] == pytest.approx((5 + 5 + 15) / 3)
    # Deviations (-10, 0, 10) and (-6, 1, 5).
    assert found["r"] == pytest.approx(110 / math.sqrt(200 * 62))
    assert math.isnan(metrics.regression(np.array([60.0]), np.array([61.0]), 65.0)["r2"])


def test_exact_interval_by_hand():
    # All of 10: the low end p has p^10 = 0.025. None: the other way round. 1 of 2: 1 - (1 - p)^2 = 0.025 at the low
    # end, 1 - p^2 = 0.025 at the high one.
    low, high = statistics.exact_interval(10, 10)
    assert (low, high) == (pytest.approx(0.025 ** (1 / 10)), 1.0)
    assert statistics.exact_interval(0, 10) == (0.0, pytest.approx(1 - low))
    assert statistics.exact_interval(1, 2) == pytest.approx((1 - math.sqrt(0.975), math.sqrt(0.975)))
    assert all(math.isnan(v) for v in statistics.exact_interval(0, 0))


@pytest.mark.parametrize(("part", "whole"), [(3, 7), (18, 20), (50, 200)])
def test_an_end_of_the_exact_interval_has_its_tail(part, whole):
    low, high = statistics.exact_interval(part, whole, level=0.9)
    chance = lambda p, counts: sum(math.comb(whole, k) * p**k * (1 - p) ** (whole - k) for k in counts)  # noqa: E731
    assert chance(low, range(part, whole + 1)) == pytest.approx(0.05)
    assert chance(high, range(part + 1)) == pytest.approx(0.05)


def test_bootstrap_of_a_mean_agrees_with_its_standard_error():
    values = np.random.default_rng(0).normal(10, 3, 400)
    found = statistics.subject_bootstrap(
        lambda rows: {"mean": values[rows].mean()}, [str(i) for i in range(400)], resamples=4000
    )["mean"]
    half = 1.96 * values.std() / math.sqrt(400)
    np.testing.assert_allclose(found, [values.mean() - half, values.mean() + half], atol=0.03)


def test_bootstrap_draws_whole_subjects():
    """Four equal scans a subject say no more than one: the interval must not shrink by half."""
    one = np.random.default_rng(1).normal(0, 1, 100)
    four = np.repeat(one, 4)
    a = statistics.subject_bootstrap(lambda r: {"m": one[r].mean()}, [str(i) for i in range(100)], resamples=3000)["m"]
    subjects = np.repeat([str(i) for i in range(100)], 4)
    b = statistics.subject_bootstrap(lambda r: {"m": four[r].mean()}, subjects, resamples=3000)["m"]
    assert (b[1] - b[0]) == pytest.approx(a[1] - a[0], rel=0.08)


def test_bootstrap_keeps_classes_and_is_reproducible():
    target = np.array([0] * 30 + [1] * 2)
    share = lambda rows: {"share": target[rows].mean()}  # noqa: E731
    subjects = [str(i) for i in range(32)]
    low, high = statistics.subject_bootstrap(share, subjects, target, resamples=200)["share"]
    assert low == high == 2 / 32
    values = np.random.default_rng(0).normal(size=32)

    def draw(seed):
        return statistics.subject_bootstrap(lambda r: {"m": values[r].mean()}, subjects, resamples=99, seed=seed)

    assert draw(3) == draw(3)
    assert draw(3) != draw(4)


def test_bootstrap_of_an_undefined_value_has_no_interval():
    found = statistics.subject_bootstrap(lambda rows: {"x": math.nan, "y": 1.0}, ["a", "b"], resamples=50)
    assert all(math.isnan(v) for v in found["x"])
    assert found["y"] == (1.0, 1.0)


def test_a_network_that_says_one_thing_calls_nothing_positive():
    target, constant = np.array([0, 1, 1, 0]), np.full(4, 0.3, np.float32)
    found = metrics.binary(target, constant, metrics.youden_threshold(target, constant))
    assert (found["sensitivity"], found["specificity"]) == (0.0, 1.0)


@pytest.mark.parametrize("seed", range(5))
def test_metrics_are_those_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    target, probability = rng.integers(0, 2, 40), np.round(rng.random(40), 1)  # with ties
    found = metrics.binary(target, probability, 0.45)
    guess = probability >= 0.45
    expected = {
        "roc_auc": sk.roc_auc_score(target, probability),
        "accuracy": sk.accuracy_score(target, guess),
        "balanced_accuracy": sk.balanced_accuracy_score(target, guess),
        "sensitivity": sk.recall_score(target, guess),
        "specificity": sk.recall_score(target, guess, pos_label=0),
    }
    assert found == pytest.approx(expected, abs=1e-12)
    ages, predicted = rng.normal(70, 8, 30), rng.normal(70, 8, 30)
    found = metrics.regression(ages, predicted, 70.0)
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(ages, predicted))
    assert found["rmse"] == pytest.approx(sk.root_mean_squared_error(ages, predicted))
    assert found["r2"] == pytest.approx(sk.r2_score(ages, predicted))
