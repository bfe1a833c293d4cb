"""The paired bootstrap of two errors: by hand, by the normal approximation, and by simulation under no difference."""

import numpy as np
import pytest
from scipy.stats import norm

from jaxneuro.evaluation import statistics


def names(n):
    return [str(i) for i in range(n)]


def test_a_shift_of_every_error_has_no_width_and_the_least_p():
    errors = np.array([1.0, 2.0, 4.0])
    found = statistics.paired_bootstrap(errors + 0.5, errors, names(3), resamples=99)
    assert found[:5] == (pytest.approx(7 / 3 + 0.5), pytest.approx(7 / 3), 0.5, 0.5, 0.5)
    assert found.p == 2 / 100


def test_errors_that_are_alike_do_not_differ():
    errors = np.array([1.0, 2.0, 4.0])
    assert statistics.paired_bootstrap(errors, errors, names(3), resamples=50)[2:] == (0.0, 0.0, 0.0, 1.0)


def test_many_scans_give_the_normal_interval_and_p():
    rng = np.random.default_rng(0)
    first, second = np.abs(rng.normal(size=(2, 400)))
    gap = first - second + 0.06
    error = gap.std(ddof=1) / 20
    found = statistics.paired_bootstrap(first + 0.06, second, names(400))
    assert found.difference == pytest.approx(gap.mean())
    assert (found.low, found.high) == pytest.approx(
        (gap.mean() - 1.96 * error, gap.mean() + 1.96 * error), abs=0.1 * error
    )
    assert found.p == pytest.approx(2 * norm.sf(gap.mean() / error), abs=0.02)


def test_a_subject_comes_with_all_its_scans():
    # Two subjects: a resample is b twice (a quarter), both (a half) or a twice: -1, (3 * 1 - 1) / 4 = 0.5, 1.
    gap = np.array([1.0, 1.0, 1.0, -1.0])
    for level, ends in ((0.4, (0.5, 0.5)), (0.6, (-1.0, 1.0))):  # from the 30th to the 70th, the 20th to the 80th
        found = statistics.paired_bootstrap(gap, np.zeros(4), ["a", "a", "a", "b"], resamples=4000, level=level)
        assert (found.difference, found.low, found.high) == (0.5, *ends)
    assert found.p == pytest.approx(0.5, abs=0.05)  # a quarter of resamples are below 0


def test_p_is_uniform_where_there_is_no_difference():
    rng = np.random.default_rng(1)
    p = [
        statistics.paired_bootstrap(*rng.exponential(size=(2, 60)), names(60), resamples=200, seed=i).p
        for i in range(300)
    ]
    assert 0.02 <= np.mean(np.array(p) <= 0.05) <= 0.09
