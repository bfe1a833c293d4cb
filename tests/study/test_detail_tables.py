"""Calibration, operating points, groups and brain age in the report, of what the evaluation itself describes."""

import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from jaxneuro.evaluation import details, estimates
from jaxneuro.manifest import Scan
from jaxneuro.study import detail_tables, report
from jaxneuro.study.figures import bands, runs
from jaxneuro.tasks import Task
from tests.study.test_report import Page, edit, make_run

AD = Task("ad", "binary", "diagnosis", ("CN", "AD"))
AGE = Task("age", "regression", "age")
HOW = estimates.How(resamples=50, seed=0, level=0.95)


def describe(run, arrays, task, *, sessions=False):
    """Write into metrics.json of a small run what an evaluation describes of each fold."""
    validation = (arrays["validation"][0].astype(float), np.asarray(arrays["validation"][1])[:, None])
    threshold = {"value": 0.43, "rule": "Youden's index", "chosen_on": "validation"}

    def change(found):
        for fold, (target, prediction) in arrays.items():
            scans = [
                Scan(
                    f"s{i // 2 if sessions else i}", site="AB"[i >= 20], sex="FM"[i % 2],
                    age=float(target[i]) if task is AGE else 61.5 + 10 * (i % 3),
                )
                for i in range(len(target))
            ]  # fmt: skip
            found["folds"][fold] |= details.describe(
                task, scans, np.asarray(target, float), np.asarray(prediction)[:, None],
                threshold if task is AD else None, 50.0, validation, HOW, chose=fold == "validation",
            )  # fmt: skip

    edit(run / "evaluation/metrics.json", change)
    return json.loads((run / "evaluation/metrics.json").read_text())


@pytest.fixture(scope="module")
def ad(tmp_path_factory):
    """Return metrics.json, fold -> (target, prediction), and the page of a binary run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bands, "BAND_RESAMPLES", 50)
        run, arrays = make_run(tmp_path_factory.mktemp("details") / "ad")
        metrics = describe(run, arrays, AD)
        page = Page(report.write(run / "report.html", [run], title="t").read_text())
    return metrics, arrays, page


@pytest.fixture(scope="module")
def age(tmp_path_factory):
    """Return metrics.json and fold -> (target, prediction) of a regression run."""
    run, arrays = make_run(tmp_path_factory.mktemp("details") / "age", "regression")
    return describe(run, arrays, AGE), arrays


def test_calibration_table(ad):
    metrics, arrays, page = ad
    table = detail_tables.calibration(metrics)
    assert table.columns == ("Fold", "Slope", "Intercept", "Brier score")
    assert [row[0] for row in table.rows] == ["validation", "test", "out-of-distribution"]
    target, prediction = arrays["test"]
    brier = np.mean((prediction - target) ** 2)
    assert table.rows[1][3].startswith(f"{brier:.2f} (")
    assert "Intervals: Slope, Intercept: Wald; Brier score: bootstrap." in table.notes
    assert list(table.rows[1]) in page.rows


def test_operating_points_tell_the_optimistic_from_the_rest(ad):
    metrics, arrays, page = ad
    table = detail_tables.operating_points(metrics)
    of = {(row[0], row[1]): row[2:] for row in table.rows}
    target, prediction = arrays["test"]
    for rule, threshold in (("Youden's index on validation", 0.43), ("0.5", 0.5)):
        called = prediction >= threshold
        sensitivity, specificity = called[target == 1].mean(), (~called)[target == 0].mean()
        cells = of["test", rule]
        assert cells[0] == f"{threshold:.3f}"
        assert cells[1].startswith(f"{sensitivity:.2f} (")
        assert cells[2].startswith(f"{specificity:.2f} (")
        assert cells[3].startswith(f"{(sensitivity + specificity) / 2:.2f} (")
    assert ("test", "Youden's index on these scans (optimistic)") in of
    assert ("validation", "Youden's index on validation (optimistic)") in of
    assert list(table.rows[3]) in page.rows


def test_groups_have_sizes_intervals_and_a_worst_site(ad):
    metrics, arrays, page = ad
    sites, sexes, ages = detail_tables.groups(metrics)
    assert sites.columns == ("Fold", "Site", "Scans", "Subjects", "CN", "AD", "ROC AUC", "Sensitivity", "Specificity")
    assert [row[:6] for row in sites.rows] == [
        ("test", "A", "20", "20", "10", "10"), ("test", "B", "10", "10", "5", "5"),
        ("out-of-distribution", "A", "20", "20", "10", "10"), ("out-of-distribution", "B", "5", "5", "3", "2"),
    ]  # fmt: skip
    target, prediction = (values[:20] for values in arrays["test"])
    pairs = prediction[target == 1][:, None] > prediction[target == 0][None]
    assert sites.rows[0][6].startswith(f"{pairs.mean():.2f} (")
    # Site B has fewer than 20 scans, so there is none to choose from.
    assert "No worst site of test: 1 sites have 20 scans and a defined roc_auc; expected 2 or more." in sites.notes
    # In these scans all women are of class 0.
    assert [row[:2] for row in sexes.rows[:2]] == [("test", "F"), ("test", "M")]
    assert sexes.rows[0][6] == "undefined"
    assert "test F, out-of-distribution F: roc_auc is undefined: the group holds CN only, of CN, AD" in sexes.notes
    assert [row[1] for row in ages.rows[:3]] == ["60-69", "70-79", "80-89"]
    assert list(sites.rows[0]) in page.rows
    assert "Plain values without intervals" not in page.says()


def test_worst_site_is_told_with_its_interval(ad):
    metrics = json.loads(json.dumps(ad[0]))
    worst = {"site": "B", "metric": "roc_auc", "minimum_scans": 20, "scans": 31, "value": 0.61, "low": 0.5, "high": 0.7}
    metrics["folds"]["test"]["groups"]["worst_site"] = worst
    note = (
        "Worst site of test: B, ROC AUC 0.61 (0.50 to 0.70), 31 scans. It was chosen for that among sites of 20 scans"
    )
    assert any(note in said for said in detail_tables.groups(metrics)[0].notes)


def test_decades_are_in_order_and_what_is_not_stated_is_last():
    group = {"scans": 1, "subjects": 1, "class_counts": None, "metrics": {"mae": {"value": 1.0}}}
    entry = {"site": {}, "sex": {}, "age": dict.fromkeys(["100-109", "20-29", "n/a", "90-99"], group)}
    task = {"kind": "regression", "classes": None, "unit": "years"}
    metrics = {"task": task, "interval": {"level": 0.95}, "folds": {"test": {"groups": entry}}}
    [table] = detail_tables.groups(metrics)
    assert [row[1] for row in table.rows] == ["20-29", "90-99", "100-109", "not stated"]
    assert table.columns[-1] == "MAE (years)"


def test_bias_correction_tells_the_uncorrected_error_first(age):
    metrics, arrays = age
    table = detail_tables.bias_correction(metrics)
    rows = [row for row in table.rows if row[0] == "test"]
    assert [row[1] for row in rows] == [
        "none", "Beheshti et al. 2019", "Cole et al. 2018", "de Lange and Cole 2020", "the training mean for everyone",
    ]  # fmt: skip
    assert [row[5] for row in rows] == ["no", "yes", "no", "yes", "no"]
    target, prediction = arrays["test"]
    slope, intercept = np.polyfit(*arrays["validation"], 1)
    errors = [
        np.abs(prediction - target).mean(),
        np.abs(prediction - slope * target - intercept).mean(),
        np.abs((prediction - intercept) / slope - target).mean(),
        np.abs(prediction - slope * target - intercept).mean(),
        np.abs(target - 50).mean(),
    ]
    assert [row[2] for row in rows] == [f"{error:.2f}" for error in errors]
    assert rows[0][3] == f"{np.corrcoef(prediction - target, target)[0, 1]:.2f}"
    assert f"fitted on validation (slope {slope:.3g}, intercept {intercept:.3g})" in table.notes[0]
    assert "validation are optimistic" in table.notes[0]
    assert "no measure of a network" in table.notes[1]


def test_older_results_have_none_of_it(tmp_path):
    run, _ = make_run(tmp_path / "ad")
    metrics = json.loads((run / "evaluation/metrics.json").read_text())
    assert detail_tables.every(metrics) == []
    assert runs.calibration("k", metrics, {}) is None
    page = Page(report.write(tmp_path / "r.html", [run], title="t").read_text())
    assert "alibrat" not in page.says()
    assert "Plain values without intervals" in page.says()


def test_calibration_figure_draws_every_bin_and_every_scan(ad, monkeypatch):
    metrics, arrays, page = ad
    assert any(label.startswith("Calibration of AD. test: slope ") for label in page.labels)
    drawn = []
    monkeypatch.setattr(runs.style, "to_svg", lambda figure, key, said: drawn.append(figure) or "<svg/>")
    folds = {fold: {"prediction": prediction} for fold, (_, prediction) in arrays.items()}
    caption = runs.calibration("k", metrics, folds).caption
    assert "with exact 95 % intervals" in caption
    reliability, spread = drawn[0].axes
    target, prediction = arrays["test"]
    curve = reliability.lines[0].get_xydata()
    assert len(curve) == len(metrics["folds"]["test"]["calibration"]["curve"]) == 10
    # Ten bins of three scans each, by rank.
    order = np.argsort(prediction)
    np.testing.assert_allclose(curve[:, 0], prediction[order].reshape(10, 3).mean(1))
    np.testing.assert_allclose(curve[:, 1], target[order].reshape(10, 3).mean(1))
    heights = spread.patches[0].get_xy()[:, 1]
    assert heights.max() == np.histogram(prediction, np.linspace(0, 1, 21))[0].max()
    bars = reliability.collections[0].get_segments()
    assert [bar[0][1] for bar in bars] == [p["low"] for p in metrics["folds"]["test"]["calibration"]["curve"]]


def test_curves_of_several_scans_a_subject_have_no_intervals(tmp_path):
    run, arrays = make_run(tmp_path / "ad")
    metrics = describe(run, arrays, AD, sessions=True)
    folds = {fold: {"prediction": prediction} for fold, (_, prediction) in arrays.items()}
    drawing = runs.calibration("k", metrics, folds)
    assert "interval" not in drawing.caption
    ET.fromstring(drawing.svg)
