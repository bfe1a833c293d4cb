"""Holm's correction, verdicts and spreads over seeds, by hand and by their properties."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxneuro.errors import InputError
from jaxneuro.evaluation import comparisons


def test_holm_by_hand():
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1: 0.02, 0.03, 0.06, 0.04, which may not fall: 0.06.
    np.testing.assert_allclose(comparisons.holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])


def test_an_undefined_test_does_not_count():
    np.testing.assert_allclose(
        comparisons.holm(np.array([math.nan, 0.02, 0.5, math.nan])), [math.nan, 0.04, 0.5, math.nan]
    )
    assert comparisons.holm(np.array([])).shape == (0,)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_lies_between_the_raw_and_bonferronis(p):
    raw = np.array(p)
    adjusted = comparisons.holm(raw)
    assert (adjusted >= raw).all()
    assert (adjusted <= np.minimum(1, raw * len(raw))).all()
    assert (np.diff(adjusted[np.argsort(raw, kind="stable")]) >= 0).all()
    # By its definition: of those no larger, the largest p times the count of tests not yet rejected.
    ordered = sorted(p)
    for value, found in zip(p, adjusted, strict=True):
        steps = [(len(p) - i) * q for i, q in enumerate(ordered) if q <= value]
        assert found == min(1, max(steps))


def test_verdicts_are_of_the_adjusted_values():
    found = comparisons.judge({"a": 0.03, "b": 0.001, "c": 0.04, "d": math.nan})
    # 0.001 x 3; 0.03 x 2 = 0.06; 0.04 -> 0.06: alone, both would have been below 0.05.
    assert [v.verdict for v in found.values()] == ["within noise", "different", "within noise", "undefined"]
    assert found["c"][:2] == pytest.approx((0.04, 0.06))
    assert comparisons.judge({"a": 0.03})["a"].verdict == "different"
    assert comparisons.judge({"a": 0.03}, alpha=0.01)["a"].verdict == "within noise"


def test_spread_over_seeds_by_hand():
    # Mean 0.8, squares 0.01 + 0 + 0.01 over 2.
    assert comparisons.over_seeds([0.7, 0.8, 0.9]) == pytest.approx((0.8, 0.1, 0.7, 0.9, 3))
    assert comparisons.over_seeds([0.7, math.nan, 0.9]) == pytest.approx((0.8, math.sqrt(0.02), 0.7, 0.9, 2))
    one = comparisons.over_seeds([0.7])
    assert (one.mean, one.low, one.high, one.n) == (0.7, 0.7, 0.7, 1)
    assert math.isnan(one.sd)
    none = comparisons.over_seeds([math.nan])
    assert math.isnan(none.mean)
    assert none.n == 0
    with pytest.raises(InputError, match="found no values; expected one a seed"):
        comparisons.over_seeds([])
