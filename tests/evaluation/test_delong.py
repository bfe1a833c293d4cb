"""DeLong's interval and test against worked examples, explicit sums over pairs, and simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from jaxneuro.errors import InputError
from jaxneuro.evaluation import delong

TARGET = np.array([1, 1, 1, 0, 0])
FIRST = np.array([0.9, 0.6, 0.3, 0.5, 0.3])
SECOND = np.array([0.8, 0.2, 0.7, 0.1, 0.4])


def names(n):
    return [str(i) for i in range(n)]


def kernels(target, score):
    """Return psi [m, n] of every pair: 1 in order, 1/2 tied, 0 not."""
    x, y = score[target == 1][:, None], score[target == 0][None]
    return (x > y) + 0.5 * (x == y)


def covariance(a, b):
    """DeLong's covariance of two AUCs by its definition, from psi [m, n] of each."""
    m, n = a.shape
    tens = sum((a[i].mean() - a.mean()) * (b[i].mean() - b.mean()) for i in range(m)) / (m - 1)
    ones = sum((a[:, j].mean() - a.mean()) * (b[:, j].mean() - b.mean()) for j in range(n)) / (n - 1)
    return tens / m + ones / n


def test_auc_by_hand():
    # psi: 0.9 beats both; 0.6 both; 0.3 loses to 0.5 and ties 0.3. Rows 1, 1, 1/4; columns 2/3, 5/6; AUC 3/4.
    # Variance: (1/16 + 1/16 + 1/4) / 2 / 3 + (1/144 + 1/144) / 1 / 2 = 1/16 + 1/144 = 10/144.
    found = delong.auc(TARGET, FIRST, names(5))
    assert found.value == pytest.approx(0.75, abs=1e-15)
    assert found.variance == pytest.approx(10 / 144, abs=1e-15)
    assert found.low == pytest.approx(0.75 - 1.959963984540054 * math.sqrt(10) / 12)
    assert found.high == 1.0  # 1.27, clipped
    assert found.method == "DeLong"


def test_paired_test_by_hand():
    # SECOND: rows 1, 1/2, 1; columns 1, 2/3; AUC 5/6. Differences of rows 0, 1/2, -3/4 (mean -1/12), of columns
    # -1/3, 1/6. Variance: (1/144 + 49/144 + 64/144) / 2 / 3 + (1/16 + 1/16) / 2 = 19/144 + 9/144.
    found = delong.compare(TARGET, FIRST, SECOND, names(5))
    assert found[:3] == pytest.approx((3 / 4, 5 / 6, -1 / 12), abs=1e-15)
    assert found.z == pytest.approx(-1 / math.sqrt(28))
    assert found.p == pytest.approx(math.erfc(1 / math.sqrt(28) / math.sqrt(2)))
    half = 1.959963984540054 * math.sqrt(28) / 12
    assert (found.low, found.high) == pytest.approx((-1 / 12 - half, -1 / 12 + half))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 6), st.integers(0, 6)), min_size=4, max_size=25))
def test_midranks_give_what_sums_over_pairs_give(rows):
    target, first, second = (np.array(column, float) for column in zip(*rows, strict=True))
    if min(target.sum(), (1 - target).sum()) < 2:
        return
    a, b = kernels(target, first), kernels(target, second)
    found = delong.auc(target, first, names(len(rows)))
    assert found.value == pytest.approx(roc_auc_score(target, first), abs=1e-12)
    assert found.variance == pytest.approx(covariance(a, a), abs=1e-12)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.low < found.high
    test = delong.compare(target, first, second, names(len(rows)))
    variance = covariance(a, a) + covariance(b, b) - 2 * covariance(a, b)
    if variance > 1e-9:
        z = (a.mean() - b.mean()) / math.sqrt(variance)
        assert test.z == pytest.approx(z, abs=1e-6)
        assert test.p == pytest.approx(2 * norm.sf(abs(z)), abs=1e-6)
    back = delong.compare(target, second, first, names(len(rows)))
    np.testing.assert_allclose([back.difference, back.z, back.p], [-test.difference, -test.z, test.p], atol=1e-12)


def test_the_same_order_is_no_difference():
    found = delong.compare(TARGET, FIRST, np.exp(FIRST), names(5))
    assert found[2:] == (0.0, 0.0, 0.0, 0.0, 1.0)


def test_a_difference_without_variance_has_no_interval():
    perfect, other = np.array([0.9, 0.8, 0.7, 0.2, 0.1]), np.array([0.7, 0.8, 0.9, 0.2, 0.1])
    found = delong.compare(TARGET, perfect, other, names(5))
    assert (found.difference, found.z, found.p) == (0.0, 0.0, 1.0)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    found = delong.compare(TARGET, perfect, -perfect, names(5))
    assert found.difference == 1.0
    assert math.isnan(found.p)


def newcombe_error(auc, m, n):
    """Standard error of an AUC by Hanley and McNeil's formula for exponential scores, with Newcombe's mean count."""
    q1, q2, count = auc / (2 - auc), 2 * auc**2 / (1 + auc), (m + n) / 2
    return math.sqrt((auc * (1 - auc) + (count - 1) * (q1 - auc**2) + (count - 1) * (q2 - auc**2)) / (m * n))


@pytest.mark.parametrize("sign", [1, -1])
def test_a_perfect_score_has_an_interval_all_the_same(sign):
    target = np.repeat([0, 1], [8, 12])
    found = delong.auc(target, sign * target, names(20))
    assert found.variance == 0
    assert "Newcombe" in found.method
    inner, outer = (found.low, found.high) if sign == 1 else (found.high, found.low)
    assert found.value == outer == (1 if sign == 1 else 0)
    # At the end of the interval, the AUC that was found lies 1.96 standard errors away.
    assert abs(outer - inner) == pytest.approx(1.959963984540054 * newcombe_error(inner, 12, 8))
    assert 0.05 < abs(outer - inner) < 0.5


def test_the_interval_of_a_perfect_score_is_wide_enough():
    """If the truth were its low end, few scores would be perfect: no more than half of 5 %."""
    target, rng = np.repeat([0, 1], 10), np.random.default_rng(0)
    shift = math.sqrt(2) * norm.ppf(delong.auc(target, target, names(20)).low)
    zeros, ones = rng.normal(size=(2, 10_000, 10))
    assert 0 < (ones.min(axis=1) + shift > zeros.max(axis=1)).mean() < 0.025


def test_equal_scores_and_a_class_of_one_have_wide_intervals():
    found = delong.auc(np.repeat([0, 1], 10), np.zeros(20), names(20))
    assert found.value == 0.5
    assert 0.2 < found.low < 0.35
    assert found.low + found.high == pytest.approx(1)
    found = delong.auc(np.array([1, 0, 0, 0]), np.array([0.5, 0.1, 0.2, 0.9]), names(4))
    assert math.isnan(found.variance)
    assert found.value == pytest.approx(2 / 3)
    assert found.value - found.low == pytest.approx(1.959963984540054 * newcombe_error(found.low, 1, 3))
    assert found.high - found.value == pytest.approx(1.959963984540054 * newcombe_error(found.high, 1, 3))


def test_one_class_is_undefined():
    assert all(math.isnan(v) for v in delong.auc(np.ones(3), FIRST[:3], names(3))[:4])
    assert all(math.isnan(v) for v in delong.compare(np.zeros(3), FIRST[:3], SECOND[:3], names(3)))


def test_several_scans_of_a_subject_are_refused():
    subjects = ["a", "a", "b", "c", "d"]
    with pytest.raises(InputError, match="found 5 scans of 4 subjects; expected one scan a subject"):
        delong.auc(TARGET, FIRST, subjects)
    with pytest.raises(InputError, match="found 5 scans of 4 subjects"):
        delong.compare(TARGET, FIRST, SECOND, subjects)


def test_intervals_cover_and_the_test_keeps_its_level():
    """Binormal scores: two that share half their variance; AUC = Phi(1 / sqrt 2)."""
    rng = np.random.default_rng(0)
    target, truth, runs = np.repeat([0, 1], 60), norm.cdf(1 / math.sqrt(2)), 1500
    covered = rejected = 0
    for _ in range(runs):
        shared, own = rng.normal(size=120), rng.normal(size=(2, 120))
        first, second = (shared + own) / math.sqrt(2) + target
        found = delong.auc(target, first, names(120))
        covered += found.low <= truth <= found.high
        rejected += delong.compare(target, first, second, names(120)).p < 0.05
    # Three standard errors of such a share are 0.017.
    assert covered / runs == pytest.approx(0.945, abs=0.02)
    assert rejected / runs == pytest.approx(0.05, abs=0.02)


def of_networks(k, n, seed):
    rng = np.random.default_rng(seed)
    target = (np.arange(n) % 3 == 0).astype(float)
    return target, np.round(rng.normal(size=(k, n)) + target, 1)  # rounded: with ties


def test_several_networks_are_tested_by_the_mean_of_their_aucs():
    # The mean over networks of psi is a kernel like any other; so is the difference of two means.
    target, first = of_networks(3, 40, 0)
    second = of_networks(2, 40, 1)[1]
    a, b = (np.mean([kernels(target, score) for score in scores], axis=0) for scores in (first, second))
    found = delong.auc(target, first, names(40))
    assert found.value == pytest.approx(np.mean([roc_auc_score(target, score) for score in first]))
    assert found.variance == pytest.approx(covariance(a, a))
    told = delong.compare(target, first, second, names(40))
    variance = covariance(a, a) + covariance(b, b) - 2 * covariance(a, b)
    assert told.difference == pytest.approx(a.mean() - b.mean())
    assert told.z == pytest.approx((a.mean() - b.mean()) / math.sqrt(variance))
    assert told.p == pytest.approx(2 * norm.sf(abs(told.z)))


def test_one_network_in_a_list_is_one_network():
    assert delong.auc(TARGET, FIRST[None], names(5)) == delong.auc(TARGET, FIRST, names(5))
    assert delong.compare(TARGET, FIRST[None], SECOND[None], names(5)) == delong.compare(
        TARGET, FIRST, SECOND, names(5)
    )
    # Twice the same network has the same AUC and knows no more of the people.
    assert delong.auc(TARGET, np.stack([FIRST, FIRST]), names(5)) == delong.auc(TARGET, FIRST, names(5))
    assert delong.compare(TARGET, np.stack([FIRST, FIRST]), FIRST, names(5)).p == 1.0
