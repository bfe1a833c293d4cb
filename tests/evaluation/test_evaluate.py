"""A run to predictions and metrics: every scan once, the threshold unchanged, leakage refused."""

import csv
import dataclasses
import json
import shutil

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from jaxneuro import records, splits
from jaxneuro.errors import InputError, LeakageError
from jaxneuro.evaluation import evaluate
from jaxneuro.training import loop
from tests.conftest import box_scans, smoke_config, write_dataset


@pytest.fixture(scope="module")
def run(tmp_path_factory, boxes):
    """A trained run, shared: evaluation writes to folders of its own."""
    workdir = tmp_path_factory.mktemp("run") / "r"
    settings = ["training.epochs=4", "optimizer.learning_rate=0.01", "data.batch_size=8"]
    loop.train(smoke_config(boxes, *settings), workdir)
    return workdir


def rows(path):
    with open(path, newline="") as f:
        return list(csv.DictReader(f))


def test_predictions_hold_every_scan_once_and_agree_with_the_metrics(run, boxes, tmp_path):
    result = evaluate.evaluate(run, out=tmp_path, resamples=50)
    assert json.loads((tmp_path / "metrics.json").read_text()) == result
    found = rows(tmp_path / "predictions.csv")
    dataset = records.open_dataset(boxes)
    for fold in ("validation", "test", "ood"):
        inside = [r for r in found if r["fold"] == fold]
        assert sorted(r["subject"] for r in inside) == sorted(dataset.splits.subjects[fold])
        assert {r["session"] for r in inside} == {"ses-1"}
        target = np.array([int(r["target"]) for r in inside])
        probability = np.array([float(r["prediction"]) for r in inside])
        assert all(r["diagnosis"] == ("CN", "AD")[int(r["target"])] for r in inside)
        described = result["folds"][fold]
        assert described["scans"] == described["subjects"] == len(inside)
        assert described["class_counts"] == {"CN": int((target == 0).sum()), "AD": int((target == 1).sum())}
        if len(set(target)) == 2:
            auc = described["metrics"]["roc_auc"]
            assert auc["value"] == pytest.approx(roc_auc_score(target, probability))
            assert auc["low"] <= auc["value"] <= auc["high"]
            assert auc["method"].startswith(("DeLong", "Newcombe"))
        assert {"groups", "calibration", "operating_points"} <= set(described)
        assert sum(group["scans"] for group in described["groups"]["site"].values()) == len(inside)
        at = described["operating_points"]["validation"]
        assert (at["threshold"], at["optimistic"]) == (result["threshold"]["value"], fold == "validation")
        assert at["metrics"]["sensitivity"] == described["metrics"]["sensitivity"]
        called = probability >= result["threshold"]["value"]
        assert described["metrics"]["accuracy"]["value"] == pytest.approx((called == target).mean())
    assert result["threshold"]["chosen_on"] == "validation"
    assert result["data"]["synthetic"] is True


def test_batches_do_not_change_predictions(run, tmp_path, monkeypatch):
    evaluate.evaluate(run, out=tmp_path / "a", resamples=10)
    real = loop.how_to_read
    monkeypatch.setattr(loop, "how_to_read", lambda *a: real(*a) | {"batch_size": 5})
    evaluate.evaluate(run, out=tmp_path / "b", resamples=10)
    a, b = (rows(tmp_path / x / "predictions.csv") for x in "ab")
    assert [r["content_hash"] for r in a] == [r["content_hash"] for r in b]
    np.testing.assert_allclose([float(r["prediction"]) for r in a], [float(r["prediction"]) for r in b], atol=1e-6)


def test_another_dataset_is_the_ood_fold(run, tmp_path):
    other = write_dataset(tmp_path / "other", box_scans(20, prefix="x"), ood_sites=())
    result = evaluate.evaluate(run, data=other, resamples=50)
    assert result["folds"]["ood"]["scans"] == 20
    assert result["folds"]["test"] == {
        "scans": 0, "subjects": 0, "sites": [], "class_counts": {"CN": 0, "AD": 0}, "metrics": {},
        "reason": "the fold is empty",
    }  # fmt: skip
    seal = records.open_dataset(other).card["manifest_sha256"][:6]
    assert (run / f"evaluation-other-{seal}" / "metrics.json").is_file()


def test_another_dataset_with_a_training_subject_or_image_is_refused(run, tmp_path):
    same = write_dataset(tmp_path / "same", box_scans(20))
    with pytest.raises(LeakageError, match=r"subjects are in training and in .*same"):
        evaluate.evaluate(run, data=same)
    renamed = [dataclasses.replace(s, subject="new" + s.subject) for s in box_scans(20)]
    copies = write_dataset(tmp_path / "copies", renamed)
    with pytest.raises(LeakageError, match=r"images are in training and in .*copies"):
        evaluate.evaluate(run, data=copies)


def test_another_shape_or_recipe_is_told(run, tmp_path, capsys):
    scans = box_scans(12, prefix="x")
    small = write_dataset(tmp_path / "small", scans, shape=(12, 12, 12), ood_sites=())
    with pytest.raises(InputError, match=r"found volumes of \[12, 12, 12, 1\]; expected \[16, 16, 16, 1\]"):
        evaluate.evaluate(run, data=small)
    other = write_dataset(tmp_path / "other", scans, recipe={"name": "boxes2", "shape": [16, 16, 16]}, ood_sites=())
    evaluate.evaluate(run, data=other, out=tmp_path / "e", resamples=10)
    assert "name 'boxes2', was 'boxes'" in capsys.readouterr().err


def test_changed_training_data_is_refused(smoke, tmp_path):
    data = write_dataset(tmp_path / "d", box_scans())
    loop.train(smoke(data=data), tmp_path / "r")
    data.rename(tmp_path / "old")
    with pytest.raises(InputError, match=r"r/config.json: data.path: found no folder '.*/d'; expected the dataset of"):
        evaluate.evaluate(tmp_path / "r")
    write_dataset(tmp_path / "d", box_scans(52))
    with pytest.raises(InputError, match=r"was made with another dataset .manifest_sha256, splits_sha256 differ"):
        evaluate.evaluate(tmp_path / "r")


def test_no_run_and_an_unfinished_run_are_told(tmp_path, run):
    with pytest.raises(InputError, match="expected the folder of a training run"):
        evaluate.evaluate(tmp_path)
    for name in ("config.json", "run.json", "scans.csv"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    with pytest.raises(InputError, match="found no best checkpoint"):
        evaluate.evaluate(tmp_path)


def test_multiclass_and_a_one_class_fold(smoke, tmp_path):
    scans = [s for s in box_scans(60, diagnoses=("CN", "AD", "PD")) if s.site != "D" or s.diagnosis == "CN"]
    data = write_dataset(tmp_path / "d", scans)
    config = smoke("task.kind=multiclass", "task.classes=('CN','AD','PD')", "task.ignore=()", data=data)
    loop.train(config, tmp_path / "r")
    result = evaluate.evaluate(tmp_path / "r", resamples=20)
    assert result["threshold"] is None
    auc = result["folds"]["ood"]["metrics"]["roc_auc"]
    assert auc["value"] is None
    assert auc["reason"] == "roc_auc is undefined: the fold holds CN only, of CN, AD, PD"
    first = rows(tmp_path / "r" / "evaluation" / "predictions.csv")[0]
    probabilities = [float(first[f"probability_{c}"]) for c in ("CN", "AD", "PD")]
    assert sum(probabilities) == pytest.approx(1, abs=1e-6)
    assert int(first["prediction"]) == int(np.argmax(probabilities))


def test_splits_of_the_shared_dataset_are_disjoint(boxes):
    dataset = records.open_dataset(boxes)
    splits.check_disjoint(
        {f: [s for s in dataset.scans if s.subject in dataset.splits.subjects[f]] for f in splits.FOLDS}
    )


def test_validation_subjects_are_no_outside_data(run, boxes, tmp_path):
    dataset = records.open_dataset(boxes)
    chosen = [s for s in dataset.scans if s.subject in dataset.splits.subjects["validation"]]
    other = write_dataset(
        tmp_path / "other", [dataclasses.replace(s, content_hash=s.name) for s in chosen], ood_sites=()
    )
    with pytest.raises(LeakageError, match=r"subjects are in validation and in .*other"):
        evaluate.evaluate(run, data=other)


def test_evaluation_changes_nothing_in_a_run_that_still_trains(run, tmp_path):
    being_written = [run / name / "999.orbax-checkpoint-tmp" for name in ("best", "checkpoints")]
    for folder in being_written:
        folder.mkdir()
    evaluate.evaluate(run, out=tmp_path / "e", resamples=5)
    assert all(folder.is_dir() for folder in being_written)


@pytest.mark.parametrize(
    ("name", "text"), [("config.json", "[]"), ("config.json", "{}"), ("run.json", ""), ("run.json", "{}")]
)
def test_damaged_files_of_a_run_are_told(run, tmp_path, name, text):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / name).write_text(text)
    with pytest.raises(InputError, match=f"{name}: .*expected"):
        evaluate.evaluate(copy)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_predictions_that_are_no_numbers_are_refused(run, tmp_path, monkeypatch, value):
    whole = loop.evaluate_fold

    def broken(*args, **kwargs):
        values = whole(*args, **kwargs)
        values[1] = value
        return values

    monkeypatch.setattr(loop, "evaluate_fold", broken)
    with pytest.raises(InputError, match=r"NaN or infinite for \S+.* \(and 0 more of \d+ scans\); expected numbers"):
        evaluate.evaluate(run, out=tmp_path / "e", resamples=10)
    assert not (tmp_path / "e").exists()
