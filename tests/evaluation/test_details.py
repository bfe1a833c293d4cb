"""Operating points, groups and what else a fold says beside its metrics, by hand."""

import json
import math

import numpy as np
import pytest

from jaxneuro.evaluation import calibration, details, estimates, groups, operating_points, statistics
from jaxneuro.manifest import Scan
from jaxneuro.tasks import Task

AD = Task("ad", "binary", "diagnosis", ("CN", "AD"))
AGE = Task("age", "regression", "age")
HOW = estimates.How(resamples=100, seed=0, level=0.95)
CHOSEN = {"value": 0.65, "rule": "Youden's index", "chosen_on": "validation"}
TARGET = np.array([0, 0, 0, 0, 1, 1, 1, 1])
PROBABILITY = np.array([0.1, 0.2, 0.3, 0.7, 0.4, 0.6, 0.8, 0.9])


def people(n, **columns):
    """Return n scans of as many subjects; `columns` give the values of each."""
    return [Scan(f"s{i}", **{name: values[i] for name, values in columns.items()}) for i in range(n)]


def points(target=TARGET, threshold=CHOSEN, chose=False):
    return operating_points.describe(AD, list("abcdefgh"), target, PROBABILITY, threshold, HOW, chose=chose)


def test_operating_points_by_hand():
    found = points()
    shares = {
        name: tuple(point["metrics"][m]["value"] for m in ("sensitivity", "specificity", "balanced_accuracy"))
        for name, point in found.items()
    }
    assert shares == {"validation": (0.5, 0.75, 0.625), "half": (0.75, 0.75, 0.75), "here": (1.0, 0.75, 0.875)}
    assert [p["threshold"] for p in found.values()] == [0.65, 0.5, pytest.approx(0.35)]
    assert [p["optimistic"] for p in found.values()] == [False, False, True]
    assert [p["rule"] for p in found.values()] == [
        "Youden's index on validation", "0.5", "Youden's index on these scans",
    ]  # fmt: skip
    sensitivity = found["half"]["metrics"]["sensitivity"]
    assert (sensitivity["low"], sensitivity["high"]) == statistics.exact_interval(3, 4)


def test_a_threshold_is_optimistic_where_it_was_chosen():
    assert points(chose=True)["validation"]["optimistic"] is True
    fallback = {"value": 0.5, "rule": "0.5, for validation holds one class", "chosen_on": None}
    found = points(threshold=fallback, chose=True)["validation"]
    assert (found["optimistic"], found["rule"]) == (False, "0.5, for validation holds one class")


def test_no_threshold_is_best_for_one_class():
    found = points(target=np.ones(8))
    assert found["here"] == {
        "threshold": None, "rule": "Youden's index on these scans", "optimistic": True, "metrics": {},
        "reason": "Youden's index is undefined: the fold holds AD only, of CN, AD",
    }  # fmt: skip
    assert found["half"]["metrics"]["sensitivity"]["value"] == 4 / 8
    assert found["half"]["metrics"]["specificity"]["value"] is None


def test_decades():
    assert [groups.decade(a) for a in (9.9, 60, 69.99, 70.0, math.nan)] == ["0-9", "60-69", "60-69", "70-79", "n/a"]


def test_groups_by_hand():
    scans = people(
        8, site=list("AABBAABB"), sex=["F", "M", "F", "n/a", "F", "M", "F", "n/a"], age=[61, 62, 63, 75, 64, 65, 66, 78]
    )
    found = groups.describe(AD, scans, TARGET, PROBABILITY[:, None], 0.65, math.nan, HOW)
    assert {factor: list(found[factor]) for factor in ("site", "sex", "age")} == {
        "site": ["A", "B"], "sex": ["F", "M", "n/a"], "age": ["60-69", "70-79"],
    }  # fmt: skip
    # A has 0.1, 0.2 against 0.4, 0.6; B 0.3, 0.7 against 0.8, 0.9: all in order, and DeLong's variance is 0.
    site = found["site"]["A"]
    assert (site["scans"], site["subjects"], site["class_counts"]) == (4, 4, {"CN": 2, "AD": 2})
    assert site["metrics"]["roc_auc"]["value"] == 1
    assert "Newcombe" in site["metrics"]["roc_auc"]["method"]
    assert site["metrics"]["sensitivity"]["value"] == 0
    # F: 0.1, 0.3 against 0.4, 0.8. 60 to 69: 0.1, 0.2, 0.3 against 0.4, 0.6, 0.8, of which one is called.
    assert found["age"]["60-69"]["metrics"]["sensitivity"]["value"] == pytest.approx(1 / 3)
    assert found["worst_site"]["site"] is None
    assert found["worst_site"]["reason"] == "0 sites have 20 scans and a defined roc_auc; expected 2 or more"


def test_a_group_of_one_class_has_a_reason_and_what_nobody_states_has_no_groups():
    found = groups.describe(AD, people(8, site=list("AAAABBBB")), TARGET, PROBABILITY[:, None], 0.5, math.nan, HOW)
    auc = found["site"]["A"]["metrics"]["roc_auc"]
    assert auc["reason"] == "roc_auc is undefined: the group holds CN only, of CN, AD"
    assert found["sex"] == found["age"] == {}


def test_the_worst_site_is_of_those_with_enough_scans():
    target = np.full(70, 60.0)
    error = np.repeat([2.0, 5.0, 9.0], [30, 30, 10])
    scans = people(70, site=["A"] * 30 + ["B"] * 30 + ["C"] * 10)
    found = groups.describe(AGE, scans, target, (target + error)[:, None], None, 60.0, HOW)
    assert found["site"]["C"]["metrics"]["mae"]["value"] == 9
    assert found["worst_site"] == {
        "site": "B", "metric": "mae", "minimum_scans": 20, "scans": 30, "value": 5.0, "low": 5.0, "high": 5.0,
    }  # fmt: skip
    assert groups.worst(AGE, found["site"], minimum=10)["site"] == "C"
    auc = {site: {"scans": 50, "metrics": {"roc_auc": {"value": v, "low": 0, "high": 1}}} for site, v in
           {"A": 0.8, "B": 0.6, "n/a": 0.1, "D": None}.items()}  # fmt: skip
    assert groups.worst(AD, auc)["site"] == "B"


def test_a_binary_fold_says_all_and_in_json():
    rng = np.random.default_rng(0)
    target, probability = rng.integers(0, 2, 60), rng.random(60)
    scans = people(60, site=["A", "B"] * 30, age=list(rng.uniform(50, 80, 60)))
    none = (np.zeros(0), np.zeros((0, 1)))
    found = details.describe(AD, scans, target, probability[:, None], CHOSEN, math.nan, none, HOW, chose=False)
    assert set(found) == {"groups", "calibration", "operating_points"}
    json.dumps(found, allow_nan=False)
    slope, low, high = calibration.slope(target, probability)
    assert found["calibration"]["slope"] == {"value": slope, "low": low, "high": high, "method": "Wald"}
    assert found["calibration"]["intercept"]["value"] == calibration.intercept(target, probability)[0]
    assert found["calibration"]["brier"]["method"] == "bootstrap"
    assert sum(point["scans"] for point in found["calibration"]["curve"]) == 60


def test_calibration_of_several_scans_of_a_subject_is_drawn_by_subjects():
    rng = np.random.default_rng(0)
    once, labels = rng.random(40), np.repeat([0, 1], 20)
    found = details.describe(
        AD, people(40) * 4, np.tile(labels, 4), np.tile(once, 4)[:, None], CHOSEN, math.nan,
        (np.zeros(0), np.zeros((0, 1))), HOW, chose=False,
    )["calibration"]  # fmt: skip
    # Four equal scans a subject say no more than one: the width is not that of Wald's of 160, half that of 40.
    _, low, high = calibration.slope(labels, once)
    assert found["slope"]["method"] == "bootstrap"
    assert found["slope"]["high"] - found["slope"]["low"] == pytest.approx(high - low, rel=0.35)
    assert all(point["low"] is point["high"] is None for point in found["curve"])


def test_separated_classes_have_no_slope_but_a_reason():
    found = details.describe(
        AD, people(8), TARGET, np.linspace(0.1, 0.9, 8)[:, None], CHOSEN, math.nan,
        (np.zeros(0), np.zeros((0, 1))), HOW, chose=False,
    )["calibration"]  # fmt: skip
    assert found["slope"] == {
        "value": None, "low": None, "high": None,
        "reason": "slope is undefined: a threshold separates the classes, so it has no finite value",
    }  # fmt: skip
    assert found["intercept"]["value"] == pytest.approx(0, abs=1e-9)


def test_ages_are_corrected_by_the_line_of_validation():
    validation = (np.array([50.0, 60, 70, 80]), np.array([[61.0], [64], [69], [76]]))  # slope 1/2, intercept 35
    target, predicted = np.array([40.0, 60.0], np.float32), np.array([[59.0], [65.0]], np.float32)
    found = details.describe(AGE, people(2), target, predicted, None, 60.0, validation, HOW, chose=False)
    assert set(found) == {"groups", "bias_correction"}
    json.dumps(found, allow_nan=False)
    assert found["bias_correction"]["optimistic"] is False
    assert found["bias_correction"]["line"] == pytest.approx({"slope": 0.5, "intercept": 35.0})
    # 59 at 40 is 4 above the line, and 48 by Cole; 65 at 60 is on it.
    corrected = {name: entry["mae"] for name, entry in found["bias_correction"]["corrected"].items()}
    assert corrected == pytest.approx({"beheshti_2019": 2.0, "cole_2018": 4.0, "de_lange_2020": 2.0})


def test_a_network_that_says_one_age_is_described():
    constant = np.full((4, 1), 62.0, np.float32)
    ages = np.array([50.0, 60.0, 70.0, 80.0], np.float32)
    found = details.describe(AGE, people(4), ages, constant, None, 60.0, (ages, constant), HOW, chose=True)
    json.dumps(found, allow_nan=False)
    assert found["bias_correction"]["optimistic"] is True
    assert "do not rise with age" in found["bias_correction"]["corrected"]["cole_2018"]["reason"]
    assert found["bias_correction"]["raw"]["gap_age_r"] == pytest.approx(-1)
