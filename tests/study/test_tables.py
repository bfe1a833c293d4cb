"""Tables: formatting, summaries, counts, and what rich prints."""

import io

import numpy as np
import pytest
import rich.console

from jaxneuro.study import run_tables, tables


def evaluation(kind="binary", **folds):
    """Build a metrics.json dict; each fold is (scans, subjects, metrics)."""
    regression = kind == "regression"
    classes = {"binary": ["CN", "AD"], "multiclass": ["CN", "MCI", "AD"], "regression": None}[kind]
    return {
        "task": {
            "name": "age" if regression else "ad",
            "kind": kind,
            "target": "age" if regression else "diagnosis",
            "classes": classes,
            "unit": "years" if regression else None,
        },
        "model": {"name": "tiny_densenet", "parameters": 1234},
        "threshold": {"value": 0.5, "rule": "Youden's index", "chosen_on": "validation"},
        "interval": {"method": "percentile bootstrap over subjects", "resamples": 2000, "level": 0.95},
        "folds": {
            name: {
                "scans": scans,
                "subjects": subjects,
                "sites": ["A"],
                "class_counts": None,
                "metrics": metrics,
            }
            for name, (scans, subjects, metrics) in folds.items()
        },
    }


def value(value, low, high):
    return {"value": value, "low": low, "high": high}


@pytest.mark.parametrize(
    ("metric", "text"),
    [
        (value(0.8666, 0.784, 0.95), "0.87 (0.78 to 0.95)"),
        (value(-0.001, -0.2, 0.2), "0.00 (-0.20 to 0.20)"),
        (value(0.5, None, None), "0.50 (no interval)"),
        (value(1234.5, 1000, 2000), "1,234.50 (1,000.00 to 2,000.00)"),
        (value(float("nan"), 0, 1), "undefined"),
        ({"value": None, "reason": "AUC is undefined: the fold holds one class (CN)"}, "undefined"),
        (None, "n/a"),
    ],
)
def test_estimate_formats_value_and_interval(metric, text):
    assert tables.estimate(metric) == text


def test_estimate_gives_the_reason_on_request():
    metric = {"value": None, "reason": "AUC is undefined: the fold holds one class (CN)"}
    assert tables.estimate(metric, reasons=True) == "undefined: the fold holds one class (CN)"
    assert tables.estimate({"value": None}, reasons=True) == "undefined: no reason was recorded"


def test_summary_has_a_row_for_each_fold_in_order_and_says_how_wide():
    metrics = evaluation(
        ood=(47, 40, {"roc_auc": value(0.7, 0.55, 0.85)}),
        test=(60, 60, {"roc_auc": value(0.87, 0.78, 0.95)}),
        validation=(1200, 1100, {"roc_auc": value(0.9, 0.8, 1.0)}),
    )
    table = tables.summary(metrics)
    assert table.columns == ("Fold", "ROC AUC, 95 % interval", "Scans", "Subjects")
    assert table.rows == (
        ("validation", "0.90 (0.80 to 1.00)", "1,200", "1,100"),
        ("test", "0.87 (0.78 to 0.95)", "60", "60"),
        ("out-of-distribution", "0.70 (0.55 to 0.85)", "47", "40"),
    )
    assert table.numeric() == (False, True, True, True)
    assert "test (n = 60) 0.17; out-of-distribution (n = 40) 0.30 from end to end" in table.notes[1]


def test_summary_of_age_shows_the_error_of_predicting_the_mean():
    metrics = evaluation(
        "regression", test=(500, 500, {"mae": value(5.1, 4.8, 5.4), "mae_of_mean": value(12.0, 11.5, 12.5)})
    )
    table = tables.summary(metrics)
    assert table.columns[1:3] == ("MAE (years), 95 % interval", "Predicting the training mean")
    assert table.rows[0][1:3] == ("5.10 (4.80 to 5.40)", "12.00 (11.50 to 12.50)")
    assert not table.notes  # no validation fold, and not few subjects


def test_summary_of_runs_leaves_the_mean_empty_for_a_classifier():
    ad = evaluation(test=(500, 500, {"roc_auc": value(0.8, 0.7, 0.9)}))
    age = evaluation("regression", test=(500, 500, {"mae": value(5, 4, 6), "mae_of_mean": value(12, 11, 13)}))
    table = tables.summary_of_runs([("runs/ad", ad), ("runs/age", age)])
    column = table.columns.index("Predicting the training mean")
    assert [row[column] for row in table.rows] == ["", "12.00 (11.00 to 13.00)"]
    assert [row[0] for row in table.rows] == ["runs/ad", "runs/age"]
    age["interval"]["level"] = 0.9
    assert "Result (interval)" in tables.summary_of_runs([("a", ad), ("b", age)]).columns


def test_unknown_kind_names_the_known_ones():
    metrics = evaluation(test=(1, 1, {}))
    metrics["task"]["kind"] = "ranking"
    with pytest.raises(ValueError, match="task kind: found 'ranking'; expected one of binary, multiclass, regression"):
        tables.summary(metrics)


def test_all_metrics_lists_reasons_once():
    one = {"value": None, "reason": "undefined: the fold holds one class (CN)"}
    metrics = evaluation(
        test=(60, 60, {"roc_auc": value(0.8, 0.7, 0.9), "brier_score": value(0.1, 0.0, 0.2)}),
        ood=(9, 9, {"roc_auc": one, "sensitivity": one}),
    )
    table = run_tables.all_metrics(metrics)
    assert table.columns == ("Metric", "test (n = 60)", "out-of-distribution (n = 9)")
    assert {row[0]: row[1:] for row in table.rows} == {
        "ROC AUC": ("0.80 (0.70 to 0.90)", "undefined"),
        "brier score": ("0.10 (0.00 to 0.20)", "n/a"),
        "Sensitivity": ("n/a", "undefined"),
    }
    assert table.notes == ("out-of-distribution: undefined: the fold holds one class (CN)",)


def test_intervals_that_are_not_the_bootstraps_are_named():
    def by(method):
        return value(0.8, 0.7, 0.9) | {"method": method}

    scores = {"roc_auc": by("DeLong"), "accuracy": by("Clopper-Pearson"), "balanced_accuracy": by("bootstrap")}
    undefined = {"roc_auc": {"value": None, "reason": "r"}, "sensitivity": by("Clopper-Pearson")}
    metrics = evaluation(test=(60, 60, scores), ood=(40, 40, scores | undefined))
    assert tables.other_intervals(metrics) == "ROC AUC: DeLong; Accuracy, Sensitivity: Clopper-Pearson"
    assert tables.other_intervals(evaluation(test=(60, 60, {"roc_auc": value(0.8, 0.7, 0.9)}))) == ""


def test_confusion_counts_at_the_threshold_include_the_threshold():
    target = np.array([1, 1, 1, 0, 0, 0, 0])
    prediction = np.array([0.9, 0.5, 0.4, 0.5, 0.1, 0.2, 0.3])
    assert run_tables.confusion_counts(target, prediction, 0.5) == (2, 1, 1, 3)
    metrics = evaluation(test=(7, 7, {}))
    table = run_tables.confusion(metrics, {"test": {"target": target, "prediction": prediction}})
    assert table.columns[1:] == ("AD, called AD", "AD, called CN", "CN, called AD", "CN, called CN")
    assert table.rows == (("test", "2", "1", "1", "3"),)
    metrics["threshold"] = None
    assert "0.5" in run_tables.confusion(metrics, {"test": {"target": target, "prediction": prediction}}).notes[0]


def test_sites_break_down_test_and_ood_only():
    fold = {
        "site": np.array(["B", "A", "A", "A", ""]),
        "target": np.array([1.0, 0, 1, 0, 0]),
        "prediction": np.array([0.9, 0.3, 0.2, 0.1, 0.1]),
    }
    table = run_tables.sites(evaluation(test=(5, 5, {})), {"test": fold, "validation": fold})
    assert table.columns == ("Fold", "Site", "Scans", "CN", "AD", "ROC AUC")
    assert table.rows == (
        ("test", "not stated", "1", "1", "0", "undefined"),
        ("test", "A", "3", "2", "1", "0.50"),
        ("test", "B", "1", "0", "1", "undefined"),
    )


def test_who_describes_age_and_sex_and_skips_blanks():
    metrics = evaluation(test=(3, 2, {}))
    metrics["folds"]["test"]["class_counts"] = {"CN": 2, "AD": 1}
    fold = {"age": np.array(["60", "80", "n/a"]), "sex": np.array(["F", "M", "n/a"])}
    assert run_tables.who(metrics, {"test": fold}).rows == (
        ("test", "3", "2", "A", "70.0 (60 to 80)", "1 F, 1 M, 1 not stated", "2", "1"),
    )
    assert run_tables.who(metrics, {}).rows[0][4:6] == ("n/a", "n/a")


@pytest.mark.parametrize("count", [50, 51])
def test_long_tables_are_cut_with_the_count_said(count):
    table = tables.cut(tables.Table("t", ("a",), tuple((str(i),) for i in range(count))), rest="all.csv")
    assert len(table.rows) == 50
    assert table.notes == (() if count == 50 else ("The first 50 of 51 rows are shown; all are in all.csv.",))


def test_recipe_reads_a_dict_and_a_list_of_steps():
    steps = [{"name": "resample", "spacing_mm": [2.0, 2.0], "order": 1}, {"step": "clip"}, "store"]
    expected = (("1. resample", "spacing_mm: 2.0, 2.0; order: 1"), ("2. clip", ""), ("3. store", ""))
    assert run_tables.recipe(steps).rows == expected
    assert run_tables.recipe({"version": 2, "steps": steps}).rows == (("version", "2"), *expected)
    settings = {"shape": [80, 96], "skull_strip": False, "mask": None}
    assert run_tables.recipe(settings).rows == (("shape", "80, 96"), ("skull_strip", "no"), ("mask", ""))
    assert run_tables.recipe(None).rows == ()


@pytest.mark.parametrize(
    ("data", "card", "expected"),
    [({}, None, None), ({"synthetic": False}, {"synthetic": True}, True), ({"synthetic": False}, {}, False)],
)
def test_a_dataset_is_synthetic_when_either_file_says_so(data, card, expected):
    assert run_tables.is_synthetic(data, card) is expected


def test_an_empty_fold_gives_its_own_reason():
    metrics = evaluation(test=(0, 0, {}), ood=(200, 200, {"roc_auc": value(0.8, 0.7, 0.9)}))
    metrics["folds"]["test"]["reason"] = "the fold is empty"
    assert tables.summary(metrics).rows[0] == ("test", "undefined: the fold is empty", "0", "0")
    table = run_tables.all_metrics(metrics)
    assert table.rows == (("ROC AUC", "undefined", "0.80 (0.70 to 0.90)"),)
    assert table.notes == ("test: the fold is empty",)


def test_failures_tell_what_became_of_the_scan():
    row = {"where": "sub-01", "found": "2 axes", "expected": "3", "hint": ""}
    assert run_tables.failures([row]).rows == (("sub-01", "2 axes", "3", ""),)
    table = run_tables.failures([row | {"dropped": "True"}, row | {"dropped": "False"}])
    assert table.columns == ("Where", "Found", "Expected", "Try", "Scan")
    assert [row[4] for row in table.rows] == ["left out", "kept, value set to missing"]


def test_excluded_adds_up():
    table = run_tables.excluded([{"reason": "no age", "scans": 3}, {"reason": "second session", "scans": 1040}])
    assert table.rows[-1] == ("all reasons", "1,043")


def test_rich_prints_the_cells_and_keeps_brackets_as_text():
    table = tables.Table("A [bold]title", ("Name", "n"), (("[red]sub-01[/red]", "3"),), ("a [note]",))
    console = rich.console.Console(file=io.StringIO(), width=80)
    console.print(tables.to_rich(table))
    printed = console.file.getvalue()
    for text in ("A [bold]title", "[red]sub-01[/red]", "a [note]"):
        assert text in printed


def test_short_words_stay_whole_where_a_table_is_wide():
    console = rich.console.Console(width=60, file=io.StringIO())
    cells = ("out-of-distribution", "9.13 (7.41 to 10.89)", "6.73 (5.19 to 8.30)")
    console.print(tables.to_rich(tables.Table("t", ("Fold", "Error, 95 % interval", "Predicting the mean"), (cells,))))
    printed = console.file.getvalue()
    assert "out-of-distribution" in printed
    assert "10.89)" in printed
    assert max(map(len, printed.splitlines())) <= 60
