"""Views of one video count as one: their predictions are averaged, and it has one row."""

import csv
import types

import numpy as np
import pytest

from jaxneuro import data, records, splits
from jaxneuro.evaluation import evaluate
from jaxneuro.manifest import Scan
from jaxneuro.tasks import Task
from jaxneuro.training import loop, sharding

#: Subject, session, value of every voxel.
CLIPS = [
    ("a", "view-00", 10), ("a", "view-01", 40), ("a", "view-02", 70),
    ("b", "t1-2_view-00", 1), ("b", "t1-2_view-01", 2), ("b", "t5-6_view-00", 9),
    ("b", "t5-6_view-01", 9), ("c", "clip-00", 5), ("c", "clip-01", 7), ("d", "", 3),
]  # fmt: skip


@pytest.fixture
def dataset(tmp_path):
    scans = [Scan(subject, session, content_hash=subject, label="x") for subject, session, _ in CLIPS]
    with records.Writer(tmp_path / "d", shape=(1, 2, 2, 1), dtype="uint8", records=len(scans)) as writer:
        for scan, (_, _, value) in zip(scans, CLIPS, strict=True):
            writer.add(np.full((1, 2, 2, 1), value, np.uint8), scan)
        folds = {"a": "test", "b": "test", "c": "train", "d": "test"}
        writer.finish(splits=splits.given(scans, folds), name="n", description="", synthetic=True, recipe={})
    return records.open_dataset(tmp_path / "d")


def test_views_are_found_from_the_first_on(dataset):
    found = [dataset.views(i) for i in range(len(CLIPS))]
    assert found[0] == [0, 1, 2]
    assert found[3] == [3, 4]
    assert found[5] == [5, 6]
    assert found[7:] == [[7], [8], [9]]


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_a_fold_has_the_mean_of_each_videos_views(dataset, batch_size):
    folds = {f: splits.select(dataset.scans, dataset.splits, f) for f in ("train", "test", "validation")}
    parts = types.SimpleNamespace(dataset=dataset, folds=folds, labels={})
    mesh = sharding.make_mesh({"data": -1})

    def value(weights, batch, key):
        mean = batch["volume"].astype("float32").mean((1, 2, 3))
        return mean * np.float32([1, 2])

    with data.open_reader(dataset) as reader:
        reading = {"batch_size": batch_size * mesh.size}
        found = {f: loop.evaluate_fold(parts, reader, value, {}, f, mesh, **reading) for f in folds}
    # By hand: (10 + 40 + 70) / 3, (1 + 2) / 2, and 3; the first session of b, as of any subject.
    np.testing.assert_array_equal(found["test"], [[40, 80], [1.5, 3], [3, 6]])
    np.testing.assert_array_equal(found["train"], [[5, 10], [7, 14]])
    assert found["validation"].shape == (0, 2)


def test_a_row_of_the_predictions_names_no_view(tmp_path):
    task = Task("action", "multiclass", "label", ("x", "y"))
    scans = [Scan("b", "t1-2_view-00"), Scan("a", "view-00"), Scan("d", "ses-1")]
    folds = {"test": (scans, np.zeros(3), np.full((3, 2), 0.5))}
    evaluate.write_predictions(tmp_path / "p.csv", task, folds)
    with open(tmp_path / "p.csv", newline="") as f:
        assert [row["session"] for row in csv.DictReader(f)] == ["t1-2", "", "ses-1"]
