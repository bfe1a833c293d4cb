"""A small study, and what its jobs leave, without training: folders as `study/progress.py` looks at them."""

import csv
import json

from jaxneuro import whole
from jaxneuro.study import progress
from jaxneuro.study.plan import Data, Run
from jaxneuro.study.spec import Dataset, Pretraining, Row, Sheet, Study, Task
from jaxneuro.training import journal

TINY = ("model.name=tiny_densenet_testing", "model.block_sizes=(1,1)")


def small(**changes):
    """Return a study of two rows, a pre-training on a cohort, two tasks on it and one outside set, two seeds."""
    parts = {
        "title": "A small study",
        "datasets": {
            "people": Dataset(title="People", cohort={"subjects": 40}, prepare={"recipe": "quick40"}),
            "outside": Dataset(title="Outside", cohort={"subjects": 20, "seed": 1}),
        },
        "pretrainings": {"sex": Pretraining(config="configs/pretrain_supervised.py", dataset="people", overrides=TINY)},
        "rows": (
            Row(name="scratch", backbone="Net", initial="Scratch", overrides=TINY, published="densenet-scratch"),
            Row(name="sex", backbone="Net", initial="Sex", pretraining="sex", overrides=TINY),
        ),
        "tasks": {
            "ad": Task(
                title="AD", config="configs/finetune_ad.py", dataset="people", zero_shot=("outside",), published="ad"
            ),
            "age": Task(title="Age", config="configs/finetune_age.py", dataset="people", published="age"),
        },
        "sheets": {
            "table2": Sheet(title="AD by row", kind="metrics", tasks=("ad",)),
            "table3": Sheet(title="Tasks", kind="tasks", tasks=("ad", "age")),
        },
    }
    return Study(**{**parts, **changes})


def fake(job):
    """Leave what a job leaves when it is finished."""
    if isinstance(job, Data):
        (job.folder / "shards").mkdir(parents=True)
        whole.write_json(job.folder / "shards" / "card.json", dict.fromkeys(journal.SEALS, "a"))
    elif isinstance(job, Run):
        write_config(job)
        for folder, _ in progress.evaluations(job).values():
            folder.mkdir()
            whole.write_json(folder / "metrics.json", {"of": job.name, "data": {}, "interval": {}})
        if job.probed:
            write_probe(job, [1, 1], 0.5, 0.5)
    else:
        write_config(job)
        (job.folder / "done").touch()


def write_config(job):
    """Write the config of a run into its folder, as training does."""
    job.folder.mkdir(parents=True)
    whole.write_json(job.folder / "config.json", job.wanted().to_dict())


def write_probe(job, counts, trained, untrained):
    """Write the probe.json of a run for the site: so many test scans at each site, and the balanced accuracies."""
    fold = {"class_counts": dict(zip("ABC", counts, strict=False)), "scans": sum(counts)}
    told = {
        name: {"folds": {"test": {**fold, "metrics": {"balanced_accuracy": {"value": value}}}}}
        for name, value in (("trained", trained), ("untrained", untrained))
    }
    file = progress.probe(job)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({**told, "data": {"synthetic": True}, "interval": {"level": 0.95}}))


def write_tested(folder, fold, task, metrics, target, prediction, *, subjects=None, synthetic=True):
    """Write metrics.json and predictions.csv of one fold, by hand."""
    folder.mkdir(parents=True, exist_ok=True)
    subjects = subjects or [f"s{i}" for i in range(len(target))]
    told = {
        "task": task,
        "folds": {fold: {"metrics": {name: {"value": value} for name, value in metrics.items()}}},
        "data": {"synthetic": synthetic},
        "interval": {"level": 0.95},
    }
    (folder / "metrics.json").write_text(json.dumps(told))
    with open(folder / "predictions.csv", "w", newline="") as file:
        rows = [(fold, s, "ses-1", t, p) for s, t, p in zip(subjects, target, prediction, strict=True)]
        csv.writer(file).writerows([("fold", "subject", "session", "target", "prediction"), *rows])
