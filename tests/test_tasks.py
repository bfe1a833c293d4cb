"""Tasks: labels to numbers, and every row left out with its reason."""

import math

import numpy as np
import pytest

from jaxneuro.errors import InputError
from jaxneuro.manifest import Scan
from jaxneuro.tasks import Task

SCANS = [
    Scan("a", diagnosis="CN", age=60.5, sex="F"),
    Scan("b", diagnosis="AD", age=math.nan, sex="M"),
    Scan("c", diagnosis="PD", age=70.0),
    Scan("d", diagnosis="n/a", age=80.0),
    Scan("e", diagnosis="Dementia", age=81.0),
]


def test_binary_targets_and_reasons():
    values, has, reasons = Task("ad", "binary", "diagnosis", ("CN", "AD"), ignore=("PD",)).targets(SCANS)
    np.testing.assert_array_equal(values, np.array([0, 1, np.nan, np.nan, np.nan], np.float32))
    np.testing.assert_array_equal(has, [True, True, False, False, False])
    assert reasons == {
        "diagnosis 'PD' is in task.ignore": 1,
        "diagnosis is missing": 1,
        "diagnosis 'Dementia' is neither in task.classes (CN, AD) nor in task.ignore: add it to one of them": 1,
    }


def test_regression_of_some_diagnoses():
    task = Task("age", "regression", "age", only=("CN", "AD"))
    values, has, reasons = task.targets(SCANS)
    assert values[0] == 60.5
    assert has.tolist() == [True, False, False, False, False]
    assert reasons["age is missing"] == 1
    assert sum(reasons.values()) == 4
    assert task.unit == "years"


def test_multiclass_targets_are_places_among_the_classes():
    task = Task("dx", "multiclass", "diagnosis", ("CN", "AD", "PD"))
    assert task.targets(SCANS)[0][:3].tolist() == [0, 1, 2]


def test_all_labels_of_the_training_scans_become_classes_in_order():
    task = Task("dx", "multiclass", "diagnosis", ("*",), ignore=("PD",))
    assert task.with_classes(SCANS).classes == tuple(sorted({s.diagnosis for s in SCANS} - {"PD", "n/a"}))
    fixed = Task("dx", "binary", "diagnosis", ("CN", "AD"))
    assert fixed.with_classes(SCANS) is fixed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("x", "ranking", "age"), "task.kind"),
        (("x", "binary", "age", ("a", "b")), "task.target"),
        (("x", "regression", "sex"), "task.target"),
        (("x", "binary", "sex", ("F",)), "expected 2 different"),
        (("x", "binary", "sex", ("F", "F")), "expected 2 different"),
        (("x", "multiclass", "site", ("A",)), "2 or more"),
        (("x", "regression", "age", ("a",)), "expected none"),
    ],
)
def test_impossible_tasks_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        Task(*arguments)
