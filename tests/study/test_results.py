"""Tables of a study from runs written by hand: means, spreads, intervals, paired tests and Holm, worked out apart."""

import csv
import dataclasses
import json
import math

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from jaxneuro import cli, whole
from jaxneuro.errors import InputError
from jaxneuro.evaluation import comparisons
from jaxneuro.study import compare, declared, gather, plan, progress, results
from jaxneuro.study.gather import Key
from jaxneuro.study.spec import Sheet
from tests.study.studies import small, write_config, write_probe, write_tested

AD = {"name": "ad", "kind": "binary"}
AGE = {"name": "age", "kind": "regression"}
#: As in tests/evaluation/test_delong.py: AUCs 3/4 and 5/6, and 28/144 the variance of their difference.
TARGET = [1, 1, 1, 0, 0]
FIRST = [0.9, 0.6, 0.3, 0.5, 0.3]
SECOND = [0.8, 0.2, 0.7, 0.1, 0.4]
WIDE = [1] * 20 + [0] * 20
AGES = [60.0, 70.0, 80.0, 66.0]


def scores(seed, better):
    return (np.random.default_rng(seed).normal(size=40) + better * np.array(WIDE)).tolist()


#: (row, seed) to predictions on the test, on the outside set, and of age.
FOUND = {
    ("scratch", 0): (SECOND, scores(0, 0.0), [62.0, 72.0, 82.0, 68.0]),
    ("scratch", 1): (SECOND, scores(1, 0.0), [64.0, 74.0, 84.0, 70.0]),
    ("sex", 0): (FIRST, scores(2, 2.5), [61.0, 71.0, 81.0, 67.0]),
    ("sex", 1): (SECOND, scores(3, 2.5), [60.5, 69.5, 80.5, 65.5]),
}


def write_ad(out, row, seed, synthetic=True):
    test, outside, _ = FOUND[row, seed]
    folder = out / plan.run_name("ad", row, 1.0, seed)
    found = {
        "roc_auc": roc_auc_score(TARGET, test),
        "accuracy": 0.8,
        "sensitivity": 2 / 3 + seed / 30,
        "specificity": None,
    }
    write_tested(folder / "evaluation", "test", AD, found, TARGET, test, synthetic=synthetic)
    found = {"roc_auc": roc_auc_score(WIDE, outside)}
    write_tested(folder / "evaluation-outside", "ood", AD, found, WIDE, outside, synthetic=synthetic)


def write_age(out, row, seed):
    predicted = FOUND[row, seed][2]
    found = {"mae": float(np.abs(np.subtract(predicted, AGES)).mean()), "mae_of_mean": 6.5}
    write_tested(out / plan.run_name("age", row, 1.0, seed) / "evaluation", "test", AGE, found, AGES, predicted)


@pytest.fixture
def out(tmp_path):
    """A finished study, but for the second seed of age after pre-training."""
    for row, seed in FOUND:
        write_ad(tmp_path, row, seed)
        if (row, seed) != ("sex", 1):
            write_age(tmp_path, row, seed)
    return tmp_path


def write(study, out):
    """Write the numbers of a study and return its tables."""
    found = gather.gather(study, out)
    sheets = results.compute(study, found, results.kinds_of(study))
    results.write_numbers(out, sheets)
    return [table for of in sheets.values() for table in results.tables_of(study, of, found)]


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def kernels(target, score):
    """Return psi [m, n] of every pair: 1 in order, 1/2 tied, 0 not."""
    target, score = np.array(target), np.array(score)
    x, y = score[target == 1][:, None], score[target == 0][None]
    return (x > y) + 0.5 * (x == y)


def variance(psi):
    """DeLong's variance of a kernel's mean, by its definition."""
    m, n = psi.shape
    return psi.mean(1).var(ddof=1) / m + psi.mean(0).var(ddof=1) / n


def test_means_deviations_and_intervals(out):
    write(small(), out)
    values = {tuple(v[k] for k in ("sheet", "row", "task", "set", "metric")): v for v in read(out / "values.csv")}
    of = values["table2", "sex", "ad", "test", "roc_auc"]
    assert float(of["mean"]) == pytest.approx((3 / 4 + 5 / 6) / 2)
    assert float(of["sd"]) == pytest.approx((5 / 6 - 3 / 4) / math.sqrt(2))
    psi = (kernels(TARGET, FIRST) + kernels(TARGET, SECOND)) / 2
    assert float(of["low"]) == pytest.approx(psi.mean() - 1.959964 * math.sqrt(variance(psi)), abs=1e-6)
    assert float(of["high"]) == 1.0
    of = values["table2", "sex", "ad", "test", "sensitivity"]
    assert (float(of["mean"]), float(of["sd"])) == pytest.approx((2 / 3 + 1 / 60, 1 / 30 / math.sqrt(2)))
    assert of["low"] == ""
    of = values["table2", "sex", "ad", "test", "specificity"]
    assert (of["mean"], of["seeds"]) == ("", "0")
    of = values["table3", "scratch", "age", "test", "mae"]
    # Errors of 2 and 4 everywhere: 3 whoever is drawn.
    assert [float(of[k]) for k in ("mean", "sd", "low", "high")] == pytest.approx([3.0, math.sqrt(2), 3.0, 3.0])
    of = values["table3", "sex", "age", "test", "mae"]
    assert (float(of["mean"]), of["sd"], of["seeds"]) == (1.0, "", "1")


def test_comparisons_with_scratch_and_holm_over_a_table(out):
    write(small(), out)
    rows = {tuple(v[k] for k in ("sheet", "task", "set")): v for v in read(out / "comparisons.csv")}
    assert set(rows) == {
        ("table2", "ad", "test"), ("table2", "ad", "outside"),
        ("table3", "ad", "test"), ("table3", "ad", "outside"), ("table3", "age", "test"),
    }  # fmt: skip
    # Mean psi of (FIRST, SECOND) less SECOND: half the difference of FIRST and SECOND, so the z of those two.
    test = rows["table2", "ad", "test"]
    p_test = math.erfc(1 / math.sqrt(28) / math.sqrt(2))
    assert float(test["difference"]) == pytest.approx(-1 / 24)
    assert float(test["p"]) == pytest.approx(p_test)
    assert test["verdict"] == "within noise"
    psi = np.mean([kernels(WIDE, FOUND["sex", s][1]) - kernels(WIDE, FOUND["scratch", s][1]) for s in (0, 1)], axis=0)
    p_outside = 2 * norm.sf(psi.mean() / math.sqrt(variance(psi)))
    outside = rows["table2", "ad", "outside"]
    assert float(outside["difference"]) == pytest.approx(psi.mean())
    assert float(outside["p"]) == pytest.approx(p_outside)
    assert float(outside["holm"]) == pytest.approx(2 * p_outside)
    assert float(test["holm"]) == pytest.approx(p_test)  # the largest of two
    assert outside["verdict"] == "different"
    # Of Table 3: three tests. Every error is smaller by 2 (1 to 3): no resample of 10,000 is on the other side.
    age = rows["table3", "age", "test"]
    least = 2 / 10_001
    assert [float(age[k]) for k in ("difference", "low", "high", "p")] == pytest.approx([-2.0, -2.0, -2.0, least])
    ranked = sorted([("test", p_test), ("outside", p_outside), ("age", least)], key=lambda of: of[1])
    steps = np.maximum.accumulate([p * (3 - i) for i, (_, p) in enumerate(ranked)])
    expected = {name: min(1.0, step) for (name, _), step in zip(ranked, steps, strict=True)}
    assert float(age["holm"]) == pytest.approx(expected["age"])
    assert float(rows["table3", "ad", "outside"]["holm"]) == pytest.approx(expected["outside"])
    assert age["verdict"] == "different by one seed"


def test_the_table_of_one_task_with_the_papers_row_beneath(out):
    sheet = write(small(), out)[0]
    assert sheet.columns == (
        "Backbone", "Initial", "People: ROC AUC", "People: Accuracy", "People: Sensitivity", "People: Specificity",
        "Outside (0-shot): ROC AUC",
    )  # fmt: skip
    scratch, paper, sex = sheet.rows
    low = 5 / 6 - 1.959964 * math.sqrt(variance(kernels(TARGET, SECOND)))
    assert scratch[:4] == ("Net", "Scratch", f"0.833 (SD 0.000; {low:.3f} to 1.000)", "0.800 (SD 0.000)")
    assert scratch[5] == "undefined"
    assert paper == (
        "", "in the paper: scratch", "0.901 (0.030)", "0.842 (0.028)", "0.840 (0.016)", "0.889 (0.001)",
        "0.828 (0.024)",
    )  # fmt: skip
    assert sex[:2] == ("Net", "Sex")
    assert sheet.notes == ("People: ROC AUC: 5 scans.", "Outside (0-shot): ROC AUC: 40 scans.")
    whole.write_csv(out / "table2.csv", sheet.columns, sheet.rows)
    with open(out / "table2.csv", newline="") as file:
        assert [tuple(row) for row in csv.reader(file)] == [sheet.columns, *sheet.rows]


def test_the_table_of_tasks(out):
    sheet = next(t for t in write(small(), out) if t.title == "Tasks")
    assert sheet.columns[2:] == (
        "AD, People: ROC AUC", "AD, Outside (0-shot): ROC AUC", "Age, People: MAE (years)",
    )  # fmt: skip
    assert [row[4] for row in sheet.rows] == [
        "3.000 (SD 1.414; 3.000 to 3.000)", "4.837", "1.000 (1 of 2 seeds; 1.000 to 1.000)",
    ]  # fmt: skip
    assert sheet.notes[-1] == "Age, People: MAE (years): 4 scans; predicting the training mean: 6.500."


def test_the_table_of_fractions(tmp_path):
    study = small(
        fractions={1.0: (), 0.1: ()},
        sheets={"table4": dataclasses.replace(small().sheets["table2"], kind="fractions", fractions=(1.0, 0.1))},
    )
    for row, seed in FOUND:
        write_ad(tmp_path, row, seed)
    folder = tmp_path / plan.run_name("ad", "scratch", 0.1, 0)
    write_tested(folder / "evaluation", "test", AD, {"roc_auc": 3 / 4}, TARGET, FIRST)
    write_tested(folder / "evaluation-outside", "ood", AD, {"roc_auc": 3 / 4}, TARGET, FIRST)
    sheet, differences = write(study, tmp_path)
    assert sheet.columns[2:] == ("People, 100% of training: ROC AUC", "People, 10% of training: ROC AUC")
    assert sheet.rows[0][3].startswith("0.750 (1 of 2 seeds; ")
    assert sheet.rows[1][2:] == ("0.901 (0.030)", "0.858 (0.038)")
    assert sheet.rows[2][3] == "n/a"  # not run yet
    assert len(differences.rows) == 1


@pytest.fixture
def left(tmp_path):
    """A finished study of two sites, each left out: at A the predictions on the test above, at B those outside."""
    pretrainings = {"sex": dataclasses.replace(small().pretrainings["sex"], dataset="outside")}
    sheets = {"sites": Sheet(title="Sites", kind="sites", tasks=("ad",), sites=("A", "B"))}
    study = small(pretrainings=pretrainings, sheets=sheets)
    declared.check(study)
    for (row, seed), (at_a, at_b, _) in FOUND.items():
        for site, target, found in (("A", TARGET, at_a), ("B", WIDE, at_b)):
            folder = tmp_path / plan.run_name("ad", row, 1.0, seed, site) / "evaluation"
            write_tested(folder, "ood", AD, {"roc_auc": roc_auc_score(target, found)}, target, found)
    return study, tmp_path


def test_the_table_of_sites(left):
    study, out = left
    sheet, differences = write(study, out)
    assert sheet.columns == (
        "Backbone", "Initial", "Site A: ROC AUC", "Site B: ROC AUC", "Mean over sites: ROC AUC", "Worst site",
    )  # fmt: skip
    # The paper's row has nothing to say of a site.
    assert [row[:2] for row in sheet.rows] == [("Net", "Scratch"), ("Net", "Sex")]
    values = {(v["row"], v["set"]): v for v in read(out / "values.csv")}
    for i, row in enumerate(("scratch", "sex")):
        a, b = (
            np.array([roc_auc_score(target, FOUND[row, seed][which]) for seed in (0, 1)])
            for which, target in ((0, TARGET), (1, WIDE))
        )
        for name, of in (("without-A", a), ("without-B", b), ("without", (a + b) / 2)):
            told = values[row, name]
            assert float(told["mean"]) == pytest.approx(of.mean())
            assert float(told["sd"]) == pytest.approx(of.std(ddof=1), abs=1e-12)
            assert (told["low"] == "") == (name == "without")
        over = (a + b) / 2
        assert sheet.rows[i][4] == f"{over.mean():.3f} (SD {over.std(ddof=1):.3f})"
        worst = min([(a.mean(), "A"), (b.mean(), "B")])
        assert sheet.rows[i][5] == f"{worst[1]}: {worst[0]:.3f}"
    assert {row[5][0] for row in sheet.rows} == {"A", "B"}  # scratch guesses at B, and Sex is better there than at A
    # As in Table 2 above, for the same scores: Holm over both sites.
    rows = {v["set"]: v for v in read(out / "comparisons.csv")}
    assert set(rows) == {"without-A", "without-B"}
    p = {name: float(rows[name]["p"]) for name in rows}
    assert p["without-A"] == pytest.approx(math.erfc(1 / math.sqrt(28) / math.sqrt(2)))
    assert float(rows["without-B"]["holm"]) == pytest.approx(2 * p["without-B"])
    assert [row[2] for row in differences.rows] == ["Site A: ROC AUC", "Site B: ROC AUC"]
    assert sheet.notes[:2] == ("Site A: ROC AUC: 5 scans.", "Site B: ROC AUC: 40 scans.")


def test_a_mean_over_sites_is_of_the_seeds_that_have_them_all(left):
    study, out = left
    (out / plan.run_name("ad", "sex", 1.0, 1, "B") / "evaluation" / "metrics.json").unlink()
    for seed in (0, 1):
        (out / plan.run_name("ad", "scratch", 1.0, seed, "A") / "evaluation" / "metrics.json").unlink()
    scratch, sex = write(study, out)[0].rows
    assert scratch[2] == scratch[4] == scratch[5] == "n/a"
    assert sex[4] == f"{(3 / 4 + roc_auc_score(WIDE, FOUND['sex', 0][1])) / 2:.3f} (1 of 2 seeds)"
    assert sex[5].startswith("A: 0.792")


def test_a_site_of_one_class_leaves_mean_and_worst_site_open(left):
    study, out = left
    for row, seed in FOUND:
        folder = out / plan.run_name("ad", row, 1.0, seed, "A") / "evaluation"
        write_tested(folder, "ood", AD, {"roc_auc": None}, [1, 1], [0.2, 0.4])
    sheet, differences = write(study, out)
    assert [row[2] for row in sheet.rows] == [row[4] for row in sheet.rows] == ["undefined"] * 2
    assert [row[5] for row in sheet.rows] == ["n/a"] * 2
    assert [row[-1] for row in differences.rows] == ["undefined", "different"]


def test_the_worst_site_of_errors_is_that_of_the_largest(tmp_path):
    sheets = {"sites": Sheet(title="Sites", kind="sites", tasks=("age",), rows=("scratch",), sites=("A", "B"))}
    study = small(sheets=sheets)
    for site, off in (("A", 2.0), ("B", 3.0)):
        folder = tmp_path / plan.run_name("age", "scratch", 1.0, 0, site) / "evaluation"
        write_tested(folder, "ood", AGE, {"mae": off}, AGES, [age + off for age in AGES])
    sheet = write(study, tmp_path)[0]
    assert sheet.columns[2] == "Site A: MAE (years)"
    assert sheet.rows[0][4:] == ("2.500 (1 of 2 seeds)", "B: 3.000")


def test_the_table_of_probes(out):
    sheets = {
        "table2": small().sheets["table2"],
        "probe": Sheet(title="Probe", kind="probe", tasks=("ad",), rows=("sex",)),
    }
    study = small(sheets=sheets)
    jobs = {job.name: job for job in plan.jobs(study, out)}
    # Evaluated, not probed: not finished, in no table.
    assert write(study, out)[-1].rows == (("Net", "Sex", "n/a", "n/a", "n/a"),)
    for seed, trained in ((0, 0.8), (1, 0.6)):
        # One of the training's three sites has nobody in the test.
        write_probe(jobs[plan.run_name("ad", "sex", 1.0, seed)], [3, 0, 1], trained, 0.55)
    sheet = write(study, out)[-1]
    assert sheet.columns[2:] == ("Site, balanced accuracy: trained", "untrained", "chance")
    # Of two sites: who always says the one is right of all of it, and of none of the other.
    assert sheet.rows == (("Net", "Sex", "0.700 (SD 0.141)", "0.550 (SD 0.000)", "0.500"),)
    assert sheet.notes[0] == "Probes: 4 scans of 2 sites."
    found = {tuple(v[k] for k in ("set", "metric")): v for v in read(out / "values.csv") if v["sheet"] == "probe"}
    assert {key: float(v["mean"]) for key, v in found.items()} == pytest.approx({
        ("probe-site", "balanced_accuracy"): 0.7, ("probe-site-untrained", "balanced_accuracy"): 0.55,
        ("probe-site", "chance"): 0.5,
    })  # fmt: skip
    assert not [v for v in read(out / "comparisons.csv") if v["sheet"] == "probe"]
    progress.probe(jobs[plan.run_name("ad", "sex", 1.0, 0)]).write_text("{}")
    with pytest.raises(InputError, match=r"seed-0/probe-site/probe.json: .*delete the folder of this run"):
        write(study, out)


def test_no_run_makes_empty_tables(tmp_path, capsys):
    assert [len(table.rows) for table in write(small(), tmp_path)] == [3, 3]
    (tmp_path / "mine.py").write_text("from tests.study.studies import small\nget_config = small\n")
    assert cli.main(["study", "--config", str(tmp_path / "mine.py"), "--out", str(tmp_path), "--report"]) == 0
    assert "AD by row" in capsys.readouterr().err


def test_seeds_that_were_tested_on_different_scans_are_refused(out):
    folder = out / plan.run_name("ad", "sex", 1.0, 1) / "evaluation"
    write_tested(folder, "test", AD, {"roc_auc": 5 / 6}, TARGET, SECOND, subjects=["s0", "s1", "s2", "s3", "s9"])
    with pytest.raises(InputError, match=r"evaluation: found other scans or targets than in .*seed-0"):
        write(small(), out)


def test_a_damaged_file_is_named(out):
    file = out / plan.run_name("ad", "sex", 1.0, 1) / "evaluation" / "predictions.csv"
    file.write_text("fold,subject,session,target,prediction\ntest,s0,ses-1,1,x\n")
    with pytest.raises(InputError, match=r"predictions.csv: cannot be read \(.*'x'.*; expected what an evaluation"):
        write(small(), out)


def test_rows_on_different_scans_are_not_compared(out):
    found = gather.gather(small(), out)
    one, other = Key("ad", "sex", 1.0, "test"), Key("ad", "scratch", 1.0, "test")
    moved = dataclasses.replace(found[other], scans=tuple((s + "x", t) for s, t in found[other].scans))
    pair = compare.Pair(one, other, "roc_auc")
    told = compare.compare({one: found[one], other: moved}, [pair])[pair]
    assert math.isnan(told.p)
    assert told.verdict == comparisons.UNDEFINED


def test_seeds_that_overlap_do_not_differ(out):
    # The outside set of the test above, but one seed of scratch is as good as those after pre-training.
    found = gather.gather(small(), out)
    one, other = Key("ad", "sex", 1.0, "outside"), Key("ad", "scratch", 1.0, "outside")
    metrics = {"roc_auc": np.array([0.5, 1.0])}
    pair = compare.Pair(one, other, "roc_auc")
    told = compare.compare({**found, other: dataclasses.replace(found[other], metrics=metrics)}, [pair])[pair]
    assert told.p < 0.001
    assert told.verdict == "within the seeds' spread"


def test_an_unfinished_run_is_left_out(out):
    folder = out / plan.run_name("ad", "sex", 1.0, 1)
    (folder / "evaluation-outside" / "metrics.json").unlink()
    found = gather.gather(small(), out)
    assert found[Key("ad", "sex", 1.0, "test")].seeds == (0,)
    assert found[Key("ad", "scratch", 1.0, "test")].seeds == (0, 1)


def test_held_out_sites_come_from_the_runs_own_test(tmp_path):
    task = dataclasses.replace(small().tasks["ad"], zero_shot=("ood",))
    study = small(tasks={"ad": task}, sheets={"t": small().sheets["table2"]})
    job = next(j for j in plan.jobs(study, tmp_path) if j.name.startswith("runs/"))
    write_config(job)
    write_tested(job.folder / "evaluation", "test", AD, {"roc_auc": 3 / 4}, TARGET, FIRST)
    # One evaluation has both folds.
    file = job.folder / "evaluation" / "metrics.json"
    told = json.loads(file.read_text())
    told["folds"]["ood"] = {"metrics": {"roc_auc": {"value": 5 / 6}}}
    file.write_text(json.dumps(told))
    with open(job.folder / "evaluation" / "predictions.csv", "a", newline="") as rows:
        csv.writer(rows).writerows(
            ("ood", f"o{i}", "ses-1", *of) for i, of in enumerate(zip(TARGET, SECOND, strict=True))
        )
    sheet = write(study, tmp_path)[0]
    assert sheet.columns[-1] == "People, unseen site (0-shot): ROC AUC"
    assert sheet.rows[0][2].startswith("0.750 (")
    assert sheet.rows[0][-1].startswith("0.833 (")
