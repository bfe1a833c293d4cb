"""Each metric has the interval of the method that it names."""

import math

import numpy as np
import pytest

from jaxneuro.evaluation import delong, estimates, statistics
from jaxneuro.tasks import Task

AD = Task("ad", "binary", "diagnosis", ("CN", "AD"))
HOW = estimates.How(resamples=200, seed=0, level=0.95)
TARGET = np.array([0, 0, 0, 0, 1, 1, 1, 1])
PREDICTIONS = np.array([0.1, 0.2, 0.3, 0.7, 0.4, 0.6, 0.8, 0.9], np.float32)[:, None]
SUBJECTS = list("abcdefgh")


def test_one_scan_a_subject_has_the_intervals_of_delong_and_of_shares():
    found = estimates.of_task(AD, SUBJECTS, TARGET, PREDICTIONS, 0.65, math.nan, HOW)
    auc = delong.auc(TARGET, PREDICTIONS[:, 0], SUBJECTS)
    assert found["roc_auc"] == {"value": 14 / 16, "low": auc.low, "high": auc.high, "method": "DeLong"}
    # At 0.65: 2 of 4 positives and 3 of 4 negatives, so 5 of 8.
    for name, part, whole in (("sensitivity", 2, 4), ("specificity", 3, 4), ("accuracy", 5, 8)):
        low, high = statistics.exact_interval(part, whole)
        assert found[name] == {"value": part / whole, "low": low, "high": high, "method": "Clopper-Pearson"}
    assert found["balanced_accuracy"]["value"] == 5 / 8
    assert found["balanced_accuracy"]["method"] == "bootstrap"


def test_several_scans_of_a_subject_have_the_bootstrap():
    found = estimates.of_task(AD, list("aacdefgh"), TARGET, PREDICTIONS, 0.65, math.nan, HOW)
    assert {entry["method"] for entry in found.values()} == {"bootstrap"}
    assert all(entry["low"] <= entry["value"] <= entry["high"] for entry in found.values())


def test_the_bootstrap_is_drawn_only_where_it_is_needed(monkeypatch):
    def drawn(*args, **kwargs):
        raise AssertionError

    monkeypatch.setattr(statistics, "subject_bootstrap", drawn)
    names = ("roc_auc", "sensitivity")
    found = estimates.of_task(AD, SUBJECTS, TARGET, PREDICTIONS, 0.65, math.nan, HOW, names=names)
    assert tuple(found) == names
    with pytest.raises(AssertionError):
        estimates.of_task(AD, SUBJECTS, TARGET, PREDICTIONS, 0.65, math.nan, HOW)


def test_what_is_undefined_has_a_reason_and_no_method():
    ones = np.ones(4)
    found = estimates.of_task(AD, SUBJECTS[:4], ones, PREDICTIONS[:4], 0.5, math.nan, HOW, where="group")
    for name in ("roc_auc", "specificity", "balanced_accuracy"):
        reason = f"{name} is undefined: the group holds AD only, of CN, AD"
        assert found[name] == {"value": None, "low": None, "high": None, "reason": reason}
    assert found["sensitivity"]["value"] == 0.25


def test_other_kinds_of_task():
    age = Task("age", "regression", "age")
    target, predicted = np.array([60.0, 70.0, 80.0]), np.array([[63.0], [70.0], [74.0]])
    found = estimates.of_task(age, list("abc"), target, predicted, None, 65.0, HOW)
    assert found["mae"]["value"] == pytest.approx(3)
    assert found["mae"]["method"] == "bootstrap"
    many = Task("d", "multiclass", "diagnosis", ("CN", "AD", "PD"))
    probability = np.array([[0.8, 0.1, 0.1], [0.2, 0.5, 0.3], [0.1, 0.7, 0.2], [0.3, 0.3, 0.4]])
    found = estimates.of_task(many, list("abcd"), np.array([0, 0, 1, 2]), probability, None, math.nan, HOW)
    assert found["accuracy"]["method"] == "Clopper-Pearson"
    assert (found["accuracy"]["low"], found["accuracy"]["high"]) == statistics.exact_interval(3, 4)
    assert found["roc_auc"]["method"] == "bootstrap"
