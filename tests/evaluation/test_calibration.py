"""Calibration against closed forms, SciPy's optimiser and simulation."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, logit
from sklearn.metrics import brier_score_loss

from jaxneuro.evaluation import calibration

Z = 1.959963984540054


def two_levels():
    """Ten scans at 0.2, of which 3 are positive, ten at 0.8, of which 6 are."""
    return np.array([1] * 3 + [0] * 7 + [1] * 6 + [0] * 4), np.repeat([0.2, 0.8], 10)


def test_slope_of_two_levels_by_hand():
    # The fit goes through both shares: (logit 0.6 - logit 0.3) / (logit 0.8 - logit 0.2); the logits of shares of 10
    # have variances 1 / (10 p (1 - p)).
    value, low, high = calibration.slope(*two_levels())
    run = 2 * math.log(4)
    assert value == pytest.approx((math.log(0.6 / 0.4) - math.log(0.3 / 0.7)) / run, abs=1e-9)
    half = Z * math.sqrt(1 / 2.4 + 1 / 2.1) / run
    assert (low, high) == pytest.approx((value - half, value + half), abs=1e-8)


def test_intercept_of_one_level_by_hand():
    # All predicted 0.2, 3 of 10 positive: logit 0.3 - logit 0.2, with variance 1 / 2.1.
    value, low, high = calibration.intercept(np.array([1] * 3 + [0] * 7), np.full(10, 0.2))
    assert value == pytest.approx(math.log(0.3 / 0.7) - math.log(0.2 / 0.8), abs=1e-10)
    assert (low, high) == pytest.approx((value - Z / math.sqrt(2.1), value + Z / math.sqrt(2.1)))


@pytest.mark.parametrize("seed", range(4))
def test_both_are_the_maxima_of_the_likelihood(seed):
    rng = np.random.default_rng(seed)
    probability = rng.beta(2, 3, 150)
    target = (rng.random(150) < expit(0.6 * logit(probability) + 0.3)).astype(int)
    x = logit(probability)

    def loss(line):
        return np.logaddexp(0, -(2 * target - 1) * line).sum()

    free = minimize(lambda w: loss(w[0] * x + w[1]), [1, 0], method="BFGS", options={"gtol": 1e-8})
    assert calibration.slope(target, probability)[0] == pytest.approx(free.x[0], abs=1e-5)
    fixed = minimize(lambda w: loss(x + w[0]), [0], method="BFGS", options={"gtol": 1e-8})
    value, low, _ = calibration.intercept(target, probability)
    assert value == pytest.approx(fixed.x[0], abs=1e-5)
    # The width by the curvature of the likelihood, in differences.
    step = 1e-3
    curvature = (loss(x + value + step) - 2 * loss(x + value) + loss(x + value - step)) / step**2
    assert value - low == pytest.approx(Z / math.sqrt(curvature), rel=1e-4)


@pytest.mark.parametrize(("slope", "shift"), [(1.0, 0.0), (0.5, 0.0), (1.0, -1.0)])
def test_known_miscalibration_is_found(slope, shift):
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1.5, 20_000)
    target = (rng.random(20_000) < expit(slope * x + shift)).astype(int)
    probability = expit(x).astype(np.float32)
    assert calibration.slope(target, probability)[0] == pytest.approx(slope, abs=0.05)
    if slope == 1:
        assert calibration.intercept(target, probability)[0] == pytest.approx(shift, abs=0.06)


def test_intervals_of_the_slope_cover():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(300):
        x = rng.normal(0, 1, 150)
        target = (rng.random(150) < expit(x)).astype(int)
        _, low, high = calibration.slope(target, expit(x))
        covered += low <= 1 <= high
    # Three standard errors of such a share are 0.038.
    assert covered / 300 == pytest.approx(0.95, abs=0.038)


def test_what_is_undefined_has_a_reason():
    target = np.array([0, 0, 1, 1])
    separated = np.array([0.1, 0.4, 0.4, 0.9])  # but for the tie at 0.4, which does not help
    cases = {
        "a threshold separates the classes": (target, separated),
        "separates": (target, 1 - separated),
        "the predictions do not differ": (target, np.full(4, 0.3)),
        "the scans hold one class": (np.ones(4), separated),
    }
    for reason, (labels, probability) in cases.items():
        assert all(math.isnan(v) for v in calibration.slope(labels, probability)), reason
        assert reason in calibration.undefined_reason("slope", labels, probability)
    assert all(math.isnan(v) for v in calibration.intercept(np.zeros(4), separated))
    assert calibration.undefined_reason("intercept", np.zeros(4), separated)
    # Separated classes still are right or wrong on average: 2 of 4 positive at 0.5 on average, by symmetry 0.
    assert calibration.intercept(target, np.array([0.1, 0.4, 0.6, 0.9]))[0] == pytest.approx(0, abs=1e-9)


def test_probabilities_of_0_and_1_have_finite_results():
    target, probability = np.array([0, 1, 0, 1, 1, 0]), np.array([0, 1, 1, 0, 1, 0.4])
    assert np.isfinite(calibration.slope(target, probability)).all()
    assert np.isfinite(calibration.intercept(target, probability)).all()


def test_brier_by_hand_and_as_scikit_learn_has_it():
    assert calibration.brier(np.array([1, 0]), np.array([0.7, 0.4])) == pytest.approx((0.09 + 0.16) / 2)
    rng = np.random.default_rng(0)
    target, probability = rng.integers(0, 2, 50), rng.random(50)
    assert calibration.brier(target, probability) == pytest.approx(brier_score_loss(target, probability))


def test_reliability_by_hand():
    probability = np.array([0.1, 0.1, 0.2, 0.3, 0.6, 0.7, 0.8, 0.9])
    target = np.array([0, 0, 0, 1, 1, 0, 1, 1])
    found = calibration.reliability(target, probability, bins=2)
    assert [p["scans"] for p in found] == [4, 4]
    assert [p["predicted"] for p in found] == pytest.approx([0.175, 0.75])
    assert [p["observed"] for p in found] == [0.25, 0.75]
    # 1 of 4: the low end p has 1 - (1 - p)^4 = 0.025.
    assert found[0]["low"] == pytest.approx(1 - 0.975**0.25)
    assert found[1]["high"] == pytest.approx(0.975**0.25)


def test_reliability_keeps_equal_predictions_together():
    found = calibration.reliability(np.array([0, 1, 0, 1, 1]), np.array([0.3, 0.3, 0.3, 0.3, 0.9]), bins=5)
    assert [(p["scans"], p["observed"]) for p in found] == [(4, 0.5), (1, 1.0)]
    assert len(calibration.reliability(np.array([0, 1]), np.array([0.3, 0.3]))) == 1
    assert calibration.reliability(np.array([]), np.array([])) == []
