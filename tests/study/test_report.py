"""The report page: what it says, also of missing files, and that it is one safe self-contained file."""

import csv
import hashlib
import html.parser
import json
import re

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from jaxneuro.errors import InputError
from jaxneuro.study import report
from jaxneuro.study.figures import bands, learning, runs

VOID = {"meta", "br", "img", "link", "hr", "input", "col", "wbr"}


class Page(html.parser.HTMLParser):
    """Parse a page, fail on tags that do not balance, and keep ids, references, tags and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.references, self.tags, self.labels, self.text = [], [], [], [], [], []
        self.rows = []
        self.feed(text)
        self.close()
        assert self.open == []

    def _note(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            if name in ("href", "xlink:href", "src"):
                self.references.append(value)
            self.references += re.findall(r"url\(([^)]*)\)", value or "")
            if name == "aria-label" and tag == "svg":
                self.labels.append(value)

    def handle_starttag(self, tag, attributes):
        self._note(tag, attributes)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attributes):
        self._note(tag, attributes)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data

    def says(self):
        return " ".join(" ".join(self.text).split())


def auc(target, prediction):
    """Compute the area under the ROC curve by counting pairs."""
    pairs = [(a > b) + 0.5 * (a == b) for a in prediction[target == 1] for b in prediction[target == 0]]
    return float(np.mean(pairs))


def make_run(folder, kind="binary", *, seed=0, synthetic=True, one_class=(), site="A"):
    """Write one small evaluated run and its dataset; return the workdir and fold -> (target, prediction)."""
    rng = np.random.default_rng(seed)
    classes = {"binary": ["CN", "AD"], "multiclass": ["CN", "MCI", "AD"], "regression": None}[kind]
    sizes = {"validation": 20, "test": 30, "ood": 25}
    folder.mkdir(parents=True)
    (folder / "evaluation").mkdir()
    data = folder / "data"
    data.mkdir()
    card = {
        "name": "toy", "synthetic": synthetic, "shape": [8, 9, 10], "spacing_mm": [2.0, 2.0, 2.5],
        "axes": "RAS", "counts": {"scans": 75, "subjects": 70, "failures": 1}, "shards": ["a", "b"],
        "manifest_sha256": "f00d",
    }  # fmt: skip
    (data / "card.json").write_text(json.dumps(card))
    (data / "failures.csv").write_text("where,found,expected,hint\nsub-<b>9</b>,2 axes,3 axes,look at it\n")
    (folder / "config.json").write_text(json.dumps({"optimizer": {"learning_rate": 3e-4}, "note": "</pre><script>"}))
    score = "mae" if kind == "regression" else "roc_auc"
    lines = [{"step": step, "train/loss": 1 / step} for step in range(1, 6)]
    lines += [{"step": step, "validation/loss": 2 / step, f"validation/{score}": 0.1 * step} for step in (2, 4)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows, folds, arrays = [], {}, {}
    for fold, count in sizes.items():
        if kind == "regression":
            target = rng.uniform(20, 90, count).round(1)
            prediction = target + rng.normal(0, 5, count)
            scores = {"mae": np.abs(prediction - target).mean(), "mae_of_mean": np.abs(target - 50).mean()}
        elif kind == "binary":
            target = np.arange(count) % 2 * (fold not in one_class)
            prediction = 1 / (1 + np.exp(-rng.normal(2 * target - 1, 1)))
            scores = {"roc_auc": auc(target, prediction) if target.any() else None}
        else:
            target = np.arange(count) % 3
            prediction = np.where(rng.random(count) < 0.6, target, rng.integers(3, size=count))
            scores = {"accuracy": (target == prediction).mean(), "roc_auc": 0.75}
        arrays[fold] = (target, prediction)
        rows += [
            {
                "fold": fold, "subject": f"{fold}-<script>{i}", "session": "1", "site": site, "age": "61.5",
                "sex": "FM"[i % 2], "diagnosis": classes[int(target[i])] if classes else "",
                "content_hash": "x", "target": target[i], "prediction": prediction[i],
            }
            for i in range(count)
        ]  # fmt: skip
        folds[fold] = {
            "scans": count, "subjects": count, "sites": [site],
            "class_counts": {c: int((target == i).sum()) for i, c in enumerate(classes)} if classes else None,
            "metrics": {
                name: {"value": None, "reason": "AUC is undefined: the fold holds one class (CN)"}
                if found is None
                else {"value": float(found), "low": float(found) - 0.1, "high": float(found) + 0.1}
                for name, found in scores.items()
            },
        }  # fmt: skip
    with (folder / "evaluation" / "predictions.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    metrics = {
        "task": {
            "name": "age" if kind == "regression" else "ad", "kind": kind,
            "target": "age" if kind == "regression" else "diagnosis",
            "classes": classes, "unit": "years" if kind == "regression" else None,
        },
        "checkpoint": {"step": 4, "chosen_by": f"validation/{score}"},
        "model": {"name": "tiny_densenet", "parameters": 123456},
        "threshold": {"value": 0.43, "rule": "Youden's index", "chosen_on": "validation"}
        if kind == "binary" else None,
        "interval": {"method": "percentile bootstrap over subjects", "resamples": 2000, "level": 0.95},
        "folds": folds,
        "data": {
            "path": str(data), "name": "toy", "synthetic": synthetic,
            "recipe": {"steps": [{"name": "resample"}]},
            "card_sha256": hashlib.sha256((data / "card.json").read_bytes()).hexdigest(),
            "recipe_fingerprint": "abcd",
        },
        "excluded": [{"reason": "age is missing", "scans": 3}],
        "versions": {"jaxneuro": "0.1.0", "jax": "0.8"},
        "created": "2026-11-23T22:00:00Z",
        "wall_seconds": 12.3,
    }  # fmt: skip
    (folder / "evaluation" / "metrics.json").write_text(json.dumps(metrics))
    return folder, arrays


def edit(path, change):
    """Read a JSON file, change it in place, write it back."""
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))


def page_of(tmp_path, *runs, **options):
    out = report.write(tmp_path / "out.html", runs, title="A title", **options)
    text = out.read_text(encoding="utf-8")
    return Page(text), text


@pytest.fixture(scope="module", autouse=True)
def few_resamples():
    """Draw few resamples: the pages under test need a band, not a smooth one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bands, "BAND_RESAMPLES", 100)
        yield


@pytest.fixture(scope="module")
def binary(tmp_path_factory):
    """Write one page of a binary and a regression run, read by several tests."""
    folder = tmp_path_factory.mktemp("report")
    (ad, ad_arrays), (age, age_arrays) = (
        make_run(folder / "ad"),
        make_run(folder / "age", "regression", seed=1),
    )
    out = report.write(folder / "site", [ad, age], title="Toy <runs>", notes=["a & b"])
    text = out.read_text(encoding="utf-8")
    return {
        "runs": [ad, age],
        "ad": ad_arrays,
        "age": age_arrays,
        "path": out,
        "text": text,
        "page": Page(text),
    }


def test_a_folder_gets_report_html(binary):
    assert binary["path"].name == "report.html"
    assert binary["path"].parent.name == "site"


def test_summary_and_metrics_are_the_numbers_of_the_predictions(binary):
    target, prediction = binary["ad"]["test"]
    value = auc(target, prediction)
    cell = f"{value:.2f} ({value - 0.1:.2f} to {value + 0.1:.2f})"
    assert ["ad", "test", cell, "ROC AUC", "", "30", "30", "ad", "tiny_densenet"] in binary["page"].rows
    target, prediction = binary["age"]["ood"]
    value, mean = np.abs(target - prediction).mean(), np.abs(target - 50).mean()
    row = next(row for row in binary["page"].rows if row[:2] == ["age", "out-of-distribution"])
    assert row[2:5] == [
        f"{value:.2f} ({value - 0.1:.2f} to {value + 0.1:.2f})",
        "MAE (years)",
        f"{mean:.2f} ({mean - 0.1:.2f} to {mean + 0.1:.2f})",
    ]


def test_confusion_and_site_tables_are_counted_from_the_predictions(binary):
    target, prediction = binary["ad"]["ood"]
    called = [p >= 0.43 for p in prediction]
    counts = [
        sum(c and t == 1 for c, t in zip(called, target, strict=True)),
        sum(not c and t == 1 for c, t in zip(called, target, strict=True)),
        sum(c and t == 0 for c, t in zip(called, target, strict=True)),
        sum(not c and t == 0 for c, t in zip(called, target, strict=True)),
    ]
    assert ["out-of-distribution", *map(str, counts)] in binary["page"].rows
    row = ["out-of-distribution", "A", "25", "13", "12", f"{auc(target, prediction):.2f}"]
    assert row in binary["page"].rows


def test_page_says_where_the_numbers_come_from(binary):
    said = binary["page"].says()
    for text in (
        "2026-11-23",
        "Threshold: 0.430, by the rule: Youden's index on validation; applied unchanged to every fold",
        "percentile bootstrap over subjects, 2,000 resamples",
        "One session per subject in validation, test, out-of-distribution.",
        "Checkpoint: step 4, chosen by validation/roc_auc.",
        "Few subjects make wide intervals: ad test (n = 30) 0.20",
        "8 × 9 × 10",
        "2 × 2 × 2.5",
        "age is missing",
        '"learning_rate": 0.0003',
        "123,456 parameters",
        "f00d",
        hashlib.sha256((binary["runs"][0] / "evaluation/predictions.csv").read_bytes()).hexdigest(),
    ):
        assert text in said
    assert "different evaluations" not in said
    assert "has changed" not in said


def test_page_names_the_intervals_that_are_not_the_bootstraps(tmp_path):
    run, _ = make_run(tmp_path / "run")
    edit(
        run / "evaluation/metrics.json",
        lambda metrics: metrics["folds"]["test"]["metrics"]["roc_auc"].update(method="DeLong"),
    )
    said = " ".join(report.how(report.gather(run)["metrics"], {}))
    expected = "2,000 resamples. In folds of one scan a subject, some metrics have others (ROC AUC: DeLong). They cover"
    assert expected in said


def test_figures_carry_their_numbers_in_words(binary):
    roc, ad_curve, scatter, age_curve = binary["page"].labels
    assert roc.startswith("ROC curves of AD against CN. test: AUC ")
    assert "out-of-distribution: MAE" in scatter
    assert "training loss from 1 to 0.2" in ad_curve
    assert "validation MAE (years) from 0.2 to 0.4" in age_curve


def test_ids_are_unique_and_every_reference_stays_in_the_page(binary):
    page = binary["page"]
    assert len(page.ids) == len(set(page.ids))
    assert page.references
    assert all(reference.startswith("#") and reference[1:] in set(page.ids) for reference in page.references)
    assert not set(page.tags) & {"script", "link", "img", "iframe", "image"}
    assert not re.search(r"https?://|@import", re.sub(r'xmlns(:\w+)?="[^"]*"', "", binary["text"]))


def test_page_is_the_same_bytes_each_time(binary, tmp_path):
    again = report.write(tmp_path / "again.html", binary["runs"], title="Toy <runs>", notes=["a & b"])
    assert again.read_text(encoding="utf-8") == binary["text"]


def test_hostile_names_are_text(tmp_path):
    run, _ = make_run(tmp_path / "run", site='<img src=x onerror="a()">')
    edit(run / "evaluation/metrics.json", lambda found: found["task"].update(classes=["<script>", "$5&"]))
    edit(run / "evaluation/metrics.json", lambda found: found["data"].update(name="--><script>"))
    page, text = page_of(tmp_path, run, notes=["<script>alert(1)</script>"])
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert "<script" not in text
    assert '<img src=x onerror="a()">' in page.says()
    assert "sub-<b>9</b>" in page.says()
    assert "$5&" in page.says()


@pytest.mark.parametrize("synthetic", [True, False])
def test_banner_exactly_when_synthetic(tmp_path, synthetic):
    run, _ = make_run(tmp_path / "run", synthetic=synthetic)
    page, _ = page_of(tmp_path, run)
    assert ("SYNTHETIC DATA: toy." in page.says()) is synthetic
    assert ("nothing about patients" in page.says()) is synthetic
    assert ["Synthetic", "yes" if synthetic else "no"] in page.rows


def test_missing_optional_files_are_named(tmp_path):
    run, _ = make_run(tmp_path / "run")
    for name in ("metrics.jsonl", "config.json", "data/card.json", "data/failures.csv"):
        (run / name).unlink()
    page, _ = page_of(tmp_path, run)
    for text in (
        "no metrics.jsonl",
        "no config.json",
        "card.json was not found",
        "failures.csv was not found",
    ):
        assert text in page.says()
    assert page.tags.count("svg") == 1


def test_run_that_was_not_evaluated_names_file_and_command(tmp_path):
    run, _ = make_run(tmp_path / "run")
    for name in ("predictions.csv", "metrics.json"):
        (run / "evaluation" / name).unlink()
        with pytest.raises(InputError) as caught:
            report.write(tmp_path / "out.html", [run], title="t")
        assert str(caught.value) == (
            f"{run}: found no evaluation/{name}; expected a tested run; run jaxneuro evaluate {run} first (a "
            "pre-training without a target has nothing to report: jaxneuro probe)"
        )
    with pytest.raises(InputError, match=r"nosuch: no such folder; expected that of a training run"):
        report.write(tmp_path / "out.html", [tmp_path / "nosuch"], title="t")
    with pytest.raises(ValueError, match="found no run"):
        report.write(tmp_path / "out.html", [], title="t")
    with pytest.raises(InputError, match="found it twice; expected each run once"):
        report.write(tmp_path / "out.html", [tmp_path / "a", tmp_path / "b", tmp_path / "b" / ".." / "a"], title="t")
    assert not (tmp_path / "out.html").exists()


@pytest.mark.parametrize("one_class", [("ood",), ("test", "ood")])
def test_undefined_auc_is_said_with_its_reason(tmp_path, one_class):
    run, _ = make_run(tmp_path / "run", one_class=one_class)
    page, _ = page_of(tmp_path, run)
    assert page.says().count("undefined: the fold holds one class (CN)") >= len(one_class)
    assert "out-of-distribution is not drawn: it holds one class." in page.says()
    assert ("There is no ROC curve." in page.says()) is (len(one_class) == 2)


def test_multiclass_draws_a_confusion_matrix_for_each_fold(tmp_path):
    run, arrays = make_run(tmp_path / "run", "multiclass")
    page, _ = page_of(tmp_path, run)
    target, prediction = arrays["test"]
    label = next(label for label in page.labels if label.startswith("Confusion matrix of test."))
    assert f"MCI called AD: {((target == 1) & (prediction == 2)).sum()}" in label
    assert f"AD called AD: {((target == 2) & (prediction == 2)).sum()}" in label
    assert page.tags.count("svg") == 3
    assert ["out-of-distribution", "A", "25", "9", "8", "8"] in [row[:6] for row in page.rows]
    assert len(page.ids) == len(set(page.ids))


def test_an_empty_fold_and_a_threshold_without_a_fold(tmp_path):
    run, _ = make_run(tmp_path / "run")

    def change(found):
        empty = {"scans": 0, "subjects": 0, "sites": [], "metrics": {}, "reason": "the fold is empty"}
        found["folds"]["test"] = empty | {"class_counts": {"CN": 0, "AD": 0}}
        found["threshold"] = {"value": 0.5, "rule": "0.5, for validation holds one class", "chosen_on": None}

    edit(run / "evaluation/metrics.json", change)
    path = run / "evaluation/predictions.csv"
    path.write_text(re.sub(r"(?m)^test,.*\n", "", path.read_text()))
    page, _ = page_of(tmp_path, run)
    assert ["run", "test", "undefined: the fold is empty", "ROC AUC", "0", "0"] in [row[:6] for row in page.rows]
    assert "by the rule: 0.5, for validation holds one class; applied" in page.says()
    assert "None" not in page.says()


def test_contradicting_files_are_reported(tmp_path):
    run, _ = make_run(tmp_path / "run")
    edit(run / "evaluation/metrics.json", lambda found: found["folds"]["test"].update(scans=31))
    edit(run / "data/card.json", lambda found: found.update(shape=[1, 1, 1]))
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "train/lo')
    with (run / "evaluation/predictions.csv").open("a") as file:
        file.write("test,s,1,A,60,F,CN,x,0,nan\ntest,s,1,A,60,F,CN,x,n/a,0.5\n")
    page, _ = page_of(tmp_path, run)
    for text in (
        "metrics.json counts 31 scans of test and predictions.csv holds 30 usable rows",
        "card.json has changed since this evaluation",
        "Lines of metrics.jsonl that are not JSON, skipped: 1.",
        "Rows of predictions.csv without a finite target or prediction, not drawn: 2.",
        "Some subjects have several scans in test (31 scans of 30 subjects)",
    ):
        assert text in page.says()


def test_a_cell_that_is_no_number_names_its_row(tmp_path):
    run, _ = make_run(tmp_path / "run")
    path = run / "evaluation/predictions.csv"
    lines = path.read_text().splitlines()
    lines[3] = lines[3].rsplit(",", 1)[0] + ",high"
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"predictions.csv line 4: found prediction 'high'; expected a number"):
        report.gather(run)
    path.write_text("fold,subject\ntest,1\n")
    with pytest.raises(ValueError, match="expected site, age, sex, target, prediction too"):
        report.gather(run)


def test_runs_of_one_name_are_told_apart(tmp_path):
    first, _ = make_run(tmp_path / "a" / "ad")
    second, _ = make_run(tmp_path / "b" / "ad")
    page, _ = page_of(tmp_path, first, second)
    assert {"a/ad", "b/ad"} <= {row[0] for row in page.rows}


def test_many_failures_are_cut(tmp_path):
    run, _ = make_run(tmp_path / "run")
    rows = "".join(f"sub-{i:03},a,b,c\n" for i in range(60))
    (run / "data/failures.csv").write_text("where,found,expected,hint\n" + rows)
    page, _ = page_of(tmp_path, run)
    assert "The first 50 of 60 rows are shown; all are in failures.csv." in page.says()
    assert "sub-049" in page.says()
    assert "sub-050" not in page.says()


def test_resampled_curve_is_the_curve_of_the_repeated_scans():
    rng = np.random.default_rng(0)
    target, prediction = rng.integers(2, size=50), rng.integers(8, size=50) / 8  # many ties
    weight = rng.integers(3, size=50)
    repeated = np.repeat(np.arange(50), weight)
    false_rate, true_rate, _ = roc_curve(target[repeated], prediction[repeated])
    grid = np.linspace(0, 1, 101)
    found = bands.weighted_roc(target, prediction, weight, grid)
    np.testing.assert_allclose(found, np.interp(grid, false_rate, true_rate), atol=1e-12)


def test_roc_band_follows_the_data_and_the_seed():
    rng = np.random.default_rng(0)
    target = np.arange(40) % 2
    prediction = rng.normal(target, 1)
    subject = np.array([f"s{i // 2}" for i in range(40)])
    grid, bottom, top = bands.roc_band(target, prediction, subject, confidence=0.95)
    assert grid.shape == bottom.shape == top.shape == (101,)
    assert (bottom <= top).all()
    assert (np.diff(bottom) >= 0).all()
    assert top[-1] == 1
    again = bands.roc_band(target, prediction, subject, confidence=0.95)
    np.testing.assert_array_equal(bottom, again[1])
    _, bottom, top = bands.roc_band(target, target.astype(float), subject, confidence=0.95)
    np.testing.assert_array_equal(bottom, 1)
    narrow = bands.roc_band(target, prediction, subject, confidence=0.5)
    assert (narrow[2] - narrow[1]).sum() < (again[2] - again[1]).sum()


def test_log_series_keeps_the_last_of_a_repeated_step_and_drops_nan():
    log = [
        {"step": 2, "a": 5.0},
        {"step": 1, "a": 3.0},
        {"step": 2, "a": 4.0},
        {"step": 3, "a": float("nan")},
        {"step": 4},
    ]
    steps, values = learning.series(log, "a")
    np.testing.assert_array_equal(steps, [1, 2])
    np.testing.assert_array_equal(values, [3, 4])


def test_gap_correlation_matches_ranks():
    target = np.array([20.0, 40, 60, 80])
    fold = {"target": target, "prediction": target + np.array([4.0, 3, 2, 1])}
    assert runs.gap_correlation(fold) == "-1.00"
    assert runs.gap_correlation({"target": target, "prediction": target}) == ""
