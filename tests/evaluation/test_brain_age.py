"""Corrections of brain age, by hand on lines and by simulation."""

import numpy as np
import pytest

from jaxneuro.evaluation import brain_age
from jaxneuro.evaluation.brain_age import Line

AGE = np.array([50.0, 60.0, 70.0, 80.0])
#: On the line 35 + age / 2, and beside it by 1, -1, -1, 1, which has no mean and no slope.
PREDICTION = np.array([61.0, 64.0, 69.0, 76.0])


def test_the_line_by_hand():
    assert brain_age.fit(AGE, PREDICTION) == pytest.approx((0.5, 35.0))
    assert brain_age.fit(AGE[:2], PREDICTION[:2]) is None
    assert brain_age.fit(np.full(4, 60.0), PREDICTION) is None


def test_corrections_of_a_scan_by_hand():
    # At 40, 59 is predicted: the line has 55 there, and a gap of 15. Its own gap of 19 is 4 too much.
    age, prediction, line = np.array([40.0]), np.array([59.0]), Line(0.5, 35.0)
    found = {name: c.apply(prediction, age, line)[0] for name, c in brain_age.CORRECTIONS.items()}
    assert found == {"beheshti_2019": 44.0, "cole_2018": 48.0, "de_lange_2020": 44.0}
    assert {name: c.uses_age for name, c in brain_age.CORRECTIONS.items()} == {
        "beheshti_2019": True, "cole_2018": False, "de_lange_2020": True,
    }  # fmt: skip


def test_description_by_hand():
    found = brain_age.describe(Line(0.5, 35.0), AGE, PREDICTION, 60.0)
    assert found["fitted_on"] == "validation"
    assert found["line"] == {"slope": 0.5, "intercept": 35.0}
    assert found["mae_of_mean"] == (10 + 0 + 10 + 20) / 4
    # Gaps 11, 4, -1, -4: deviations from 2.5 are 8.5, 1.5, -3.5, -6.5; of the ages -15, -5, 5, 15.
    assert found["raw"]["mae"] == 5
    assert found["raw"]["gap_age_r"] == pytest.approx(-250 / (500 * 129) ** 0.5)
    assert found["raw"]["gap_age_rho"] == pytest.approx(-1)
    # What is beside the line is left, 1, -1, -1, 1, and by Cole twice that; neither has a slope.
    for name, mae in {"beheshti_2019": 1, "cole_2018": 2, "de_lange_2020": 1}.items():
        corrected = found["corrected"][name]
        assert corrected["mae"] == pytest.approx(mae)
        assert corrected["gap_age_r"] == pytest.approx(0, abs=1e-12)
        assert corrected["gap_age_rho"] == pytest.approx(0, abs=1e-12)
        assert "reason" not in corrected


def test_the_line_is_of_validation_and_leaves_a_bias_elsewhere():
    """On other data, whose slope is 0.7, a line of 0.5 corrects too much: the gap then rises with age."""
    found = brain_age.describe(Line(0.5, 35.0), AGE, 0.7 * AGE + 20, 60.0)
    assert found["raw"]["gap_age_r"] == pytest.approx(-1)
    assert found["corrected"]["cole_2018"]["gap_age_r"] == pytest.approx(1)
    assert found["corrected"]["de_lange_2020"]["gap_age_r"] == pytest.approx(1)
    # 0.2 age - 15 is left: -5, -3, -1, 1.
    assert found["corrected"]["beheshti_2019"]["mae"] == pytest.approx(2.5)


def test_a_network_that_knows_nothing_looks_good_once_corrected_with_the_age():
    rng = np.random.default_rng(0)
    age = rng.uniform(40, 80, 2000)
    prediction = 60 + rng.normal(0, 1, 2000)
    found = brain_age.describe(brain_age.fit(age, prediction), age, prediction, 60.0)
    assert found["raw"]["mae"] == pytest.approx(10, abs=0.5)
    # Only its own noise is left: the mean of |N(0, 1)|.
    assert found["corrected"]["de_lange_2020"]["mae"] == pytest.approx((2 / np.pi) ** 0.5, abs=0.06)


def test_what_cannot_be_corrected_has_a_reason():
    found = brain_age.describe(None, AGE, PREDICTION, 60.0)
    assert found["line"] is None
    assert found["raw"]["mae"] == 5
    for corrected in found["corrected"].values():
        assert corrected["mae"] is corrected["gap_age_r"] is None
        assert "validation has fewer than 3 scans" in corrected["reason"]
    for slope in (0.0, -0.2):
        found = brain_age.describe(Line(slope, 60.0), AGE, PREDICTION, 60.0)["corrected"]
        assert "do not rise with age" in found["cole_2018"]["reason"]
        assert found["cole_2018"]["mae"] is None
        assert found["de_lange_2020"]["mae"] is not None


def test_gaps_that_do_not_differ_have_no_correlation():
    found = brain_age.describe(Line(1.0, 0.0), AGE, AGE + 2, 60.0)["raw"]
    assert found == {"mae": 2.0, "gap_age_r": None, "gap_age_rho": None}
