"""What the finished runs of a study found, by row, task, share of the training subjects, and set."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxneuro import records
from jaxneuro.errors import InputError
from jaxneuro.study import plan, progress
from jaxneuro.study.plan import Run
from jaxneuro.study.spec import UNSEEN, Study

TEST = "test"


class Key(NamedTuple):
    """Say what was tested on what: `set` is "test", "ood", or the name of a zero-shot dataset, as the task has it."""

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
      metrics: name to the values of the seeds [seeds]; NaN where one is undefined.
      scans: (subject, session) of each scan [n], in order.
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
    """Read what every finished run of a study left.

    Raises:
      InputError: a file is not what an evaluation writes, or seeds of one row were tested on different scans.
    """
    runs: dict[tuple[str, str, float], list[Run]] = {}
    for job in plan.jobs(study, out):
        if isinstance(job, Run) and progress.finished(job):
            runs.setdefault((job.task, job.row, job.fraction), []).append(job)
    found = {}
    for (task, row, fraction), of in runs.items():
        others = dict(plan.zero_shot(study.tasks[task], study.row(row)))
        for name in (TEST, *others):
            # Of another dataset everyone is tested, as the fold `ood` of an evaluation of its own.
            dataset = others[name] if name not in (TEST, UNSEEN) else ""
            folders = [progress.evaluations(job)[dataset][0] for job in of]
            fold = TEST if name == TEST else "ood"
            found[Key(task, row, fraction, name)] = _join([job.seed for job in of], folders, fold)
    return found


def _join(seeds: Sequence[int], folders: Sequence[Path], fold: str) -> Found:
    """Return what several runs found on one fold; their scans are put in order."""
    again = "what jaxneuro study writes; delete the folder of this run and give the same command again"
    told: list[dict[str, Any]] = [
        records.read_json(folder / "metrics.json", ("task", "folds", "data", "interval"), expected=again)
        for folder in folders
    ]
    tested = [read_predictions(folder / "predictions.csv", fold) for folder in folders]
    for folder, (scans, target, _) in zip(folders, tested, strict=True):
        if scans != tested[0][0] or not np.array_equal(target, tested[0][1]):
            raise InputError(
                f"{folder}: found other scans or targets than in {folders[0]}; expected the same test for every seed; "
                "delete the folder of one of these runs and give the same command again"
            )
    entries = [metrics["folds"][fold]["metrics"] for metrics in told]
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
