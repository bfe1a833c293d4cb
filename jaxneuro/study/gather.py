"""What the finished runs of a study found, by row, task, share of the training subjects, and set."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxneuro import records
from jaxneuro.errors import InputError
from jaxneuro.study import plan, progress
from jaxneuro.study.plan import Run
from jaxneuro.study.spec import PROBE, UNSEEN, WITHOUT, Study

TEST = "test"
#: Beside `PROBE`, what the same networks tell before any training.
UNTRAINED = f"{PROBE}-untrained"
_AGAIN = "what jaxneuro study writes; delete the folder of this run and give the same command again"


class Key(NamedTuple):
    """Say what was tested on what: `set` is "test", "ood", the name of a zero-shot dataset, as the task has it, or
    "without-SITE", the people of a site that was left out of training.

    Of probes for the site it is `PROBE` or `UNTRAINED`.
    """

    task: str
    row: str
    fraction: float
    set: str


@dataclass(frozen=True)
class Found:
    """What the finished seeds of one key found.

    Attributes:
      seeds: those that are finished.
      kind: of the task: "binary", "multiclass" or "regression".
      metrics: name to the values of the seeds [seeds]; NaN where one is undefined. Those of a probe have "chance", the
        most that a guess can expect, and "scans" and "sites", how many there are in the test.
      scans: (subject, session) of each scan [n], in order; none of a probe, which keeps no predictions.
      target: [n].
      predictions: [seeds, n]: probability of class 1, or the unit of the target.
      synthetic: whether the scans are.
      level: of the intervals.
    """

    seeds: tuple[int, ...]
    kind: str
    metrics: dict[str, np.ndarray]
    scans: tuple[tuple[str, str], ...]
    target: np.ndarray
    predictions: np.ndarray
    synthetic: bool
    level: float

    @property
    def subjects(self) -> list[str]:
        """Return the subject of each scan [n]."""
        return [subject for subject, _ in self.scans]


def gather(study: Study, out: Path) -> dict[Key, Found]:
    """Read what every tested run of a study left.

    Raises:
      InputError: a file is not what an evaluation writes, or seeds of one row were tested on different scans.
    """
    runs: dict[tuple[str, str, float, str], list[Run]] = {}
    for job in plan.jobs(study, out):
        if isinstance(job, Run) and progress.tested(job):
            runs.setdefault((job.task, job.row, job.fraction, job.without), []).append(job)
    found = {}
    for (task, row, fraction, without), of in runs.items():
        seeds = [job.seed for job in of]
        others = dict(plan.zero_shot(study.tasks[task], study.row(row)))
        for name in (f"{WITHOUT}-{without}",) if without else (TEST, *others):
            # Of another dataset everyone is tested, as the fold `ood` of an evaluation of its own.
            dataset = others[name] if name in others and name != UNSEEN else ""
            folders = [progress.evaluations(job)[dataset][0] for job in of]
            fold = TEST if name == TEST else "ood"
            found[Key(task, row, fraction, name)] = _join(seeds, folders, fold)
        probed = {job.seed: there for job in of if job.probed and (there := progress.probe(job)).is_file()}
        if probed:
            keys = ("trained", "untrained", "data", "interval")
            told = [records.read_json(there, keys, expected=_AGAIN) for there in probed.values()]
            for name, network in ((PROBE, "trained"), (UNTRAINED, "untrained")):
                found[Key(task, row, fraction, name)] = _probed(list(probed), told, network)
    return found


def _probed(seeds: Sequence[int], told: Sequence[Mapping[str, Any]], network: str) -> Found:
    """Return what probes of several runs, or of the same networks untrained, found on the test."""
    folds = [of[network]["folds"][TEST] for of in told]
    sites = [sum(count > 0 for count in fold["class_counts"].values()) for fold in folds]
    metrics = {
        "balanced_accuracy": [_value(fold["metrics"].get("balanced_accuracy")) for fold in folds],
        # The mean recall of who does not look at the scan: at the most all of one site, and none of the others.
        "chance": [1 / n if n else math.nan for n in sites],
        "sites": sites,
        "scans": [fold["scans"] for fold in folds],
    }
    return Found(
        seeds=tuple(seeds),
        kind="multiclass",
        metrics={name: np.array(values, float) for name, values in metrics.items()},
        scans=(),
        target=np.zeros(0),
        predictions=np.zeros((len(seeds), 0)),
        synthetic=any(bool(of["data"].get("synthetic")) for of in told),
        level=told[0]["interval"]["level"],
    )


def _join(seeds: Sequence[int], folders: Sequence[Path], fold: str) -> Found:
    """Return what several runs found on one fold; their scans are put in order."""
    told: list[dict[str, Any]] = [
        records.read_json(folder / "metrics.json", ("task", "folds", "data", "interval"), expected=_AGAIN)
        for folder in folders
    ]
    tested = [read_predictions(folder / "predictions.csv", fold) for folder in folders]
    for folder, (scans, target, _) in zip(folders, tested, strict=True):
        if scans != tested[0][0] or not np.array_equal(target, tested[0][1]):
            raise InputError(
                f"{folder}: found other scans or targets than in {folders[0]}; expected the same test for every seed; "
                "delete the folder of one of these runs and give the same command again"
            )
    entries = []
    for folder, metrics in zip(folders, told, strict=True):
        of = metrics["folds"].get(fold, {})
        if "metrics" not in of or of.get("scans", len(tested[0][0])) != len(tested[0][0]):
            raise InputError(
                f"{folder}: found {of.get('scans', 'no')} scans of '{fold}' in metrics.json and {len(tested[0][0])} in "
                f"predictions.csv; expected the same, from one evaluation; delete {folder} and give the command again"
            )
        entries.append(of["metrics"])
    names = dict.fromkeys(name for entry in entries for name in entry)
    return Found(
        seeds=tuple(seeds),
        kind=told[0]["task"]["kind"],
        metrics={name: np.array([_value(entry.get(name)) for entry in entries]) for name in names},
        scans=tested[0][0],
        target=tested[0][1],
        predictions=np.stack([prediction for _, _, prediction in tested]),
        synthetic=any(bool(metrics["data"].get("synthetic")) for metrics in told),
        level=told[0]["interval"]["level"],
    )


def read_predictions(path: Path, fold: str) -> tuple[tuple[tuple[str, str], ...], np.ndarray, np.ndarray]:
    """Return (subject, session) of each scan [n] of a fold, sorted, with targets [n] and predictions [n].

    Raises:
      InputError: the file cannot be read, lacks a column, or holds a cell that is no number.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["fold"] == fold]
        rows.sort(key=lambda row: (row["subject"], row["session"]))
        scans = tuple((row["subject"], row["session"]) for row in rows)
        target, prediction = (np.array([float(row[name]) for row in rows]) for name in ("target", "prediction"))
    except (OSError, KeyError, ValueError, TypeError) as e:
        raise InputError(f"{path}: cannot be read ({e!r}); expected what an evaluation writes") from e
    return scans, target, prediction


def _value(entry: dict[str, Any] | None) -> float:
    value = (entry or {}).get("value")
    return math.nan if value is None else float(value)
