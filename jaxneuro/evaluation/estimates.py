"""The metrics of some scans with their intervals, each by the method that suits it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxneuro.evaluation import delong, metrics, statistics
from jaxneuro.tasks import Task

BOOTSTRAP, EXACT = "bootstrap", "Clopper-Pearson"


class How(NamedTuple):
    """Hold resamples and seed of the bootstrap over subjects, and the coverage of all intervals."""

    resamples: int
    seed: int
    level: float


def independent(subjects: Sequence[str]) -> bool:
    """Tell whether each subject has one scan, which all intervals but those of the bootstrap take for granted."""
    return len(set(subjects)) == len(subjects)


def described(
    values: Mapping[str, float],
    known: Mapping[str, tuple[float, float, str]],
    statistic: Callable[[np.ndarray], dict[str, float]],
    reason: Callable[[str], str | None],
    subjects: Sequence[str],
    strata: np.ndarray | None,
    how: How,
) -> dict[str, dict[str, Any]]:
    """Return what metrics.json says of values: "value", "low", "high", "method"; of an undefined one a "reason".

    Args:
      values: name to value; NaN where it is undefined.
      known: name to low, high and method, of intervals that need no bootstrap.
      statistic: row numbers [m] to the values of at least the other names.
      reason: name to why its value is undefined.
      subjects, strata: [n], as in `statistics.subject_bootstrap`.
      how: of the intervals.
    """
    intervals = dict(known)
    if any(name not in known and not math.isnan(value) for name, value in values.items()):
        drawn = statistics.subject_bootstrap(
            statistic, subjects, strata, resamples=how.resamples, level=how.level, seed=how.seed
        )
        intervals |= {name: (*ends, BOOTSTRAP) for name, ends in drawn.items() if name not in known}
    entries: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        if math.isnan(value):
            entries[name] = {"value": None, "low": None, "high": None, "reason": reason(name)}
            continue
        low, high, method = intervals[name]
        ends = {end: None if math.isnan(v) else v for end, v in (("low", low), ("high", high))}
        entries[name] = {"value": value, **ends, "method": method}
    return entries


def of_task(
    task: Task,
    subjects: Sequence[str],
    target: np.ndarray,
    predictions: np.ndarray,
    threshold: float | None,
    mean: float,
    how: How,
    *,
    names: Collection[str] | None = None,
    where: str = "fold",
) -> dict[str, dict[str, Any]]:
    """Return the metrics of a task with their intervals, as `described` has them.

    With one scan a subject, ROC-AUC of a binary task has DeLong's interval, and what is a share of scans (accuracy,
    sensitivity, specificity) the exact one; all else the bootstrap over subjects, within classes.

    Args:
      task: the task.
      subjects: [n], the subject of each scan.
      target: [n].
      predictions: [n, k], in the target's unit.
      threshold: of a binary task.
      mean: mean target of the training fold.
      how: of the intervals.
      names: metrics to return; None for all of the task.
      where: what the scans are, for reasons.
    """

    def statistic(rows: np.ndarray) -> dict[str, float]:
        if task.kind == "binary":
            assert threshold is not None
            found = metrics.binary(target[rows], predictions[rows, 0], threshold)
        elif task.kind == "multiclass":
            found = metrics.multiclass(target[rows], predictions[rows])
        else:
            found = metrics.regression(target[rows], predictions[rows, 0], mean)
        return found if names is None else {name: found[name] for name in names}

    values = statistic(np.arange(len(target)))
    known: dict[str, tuple[float, float, str]] = {}
    if independent(subjects) and task.kind != "regression":
        positives = int((target == 1).sum())
        wholes = {"accuracy": len(target), "sensitivity": positives, "specificity": len(target) - positives}
        for name in wholes.keys() & values.keys():
            if wholes[name]:
                part = round(values[name] * wholes[name])
                known[name] = (*statistics.exact_interval(part, wholes[name], level=how.level), EXACT)
        if task.kind == "binary" and "roc_auc" in values:
            auc = delong.auc(target, predictions[:, 0], subjects, level=how.level)
            known["roc_auc"] = (auc.low, auc.high, auc.method)
    return described(
        values,
        known,
        statistic,
        lambda name: metrics.undefined_reason(name, task.kind, target, task.classes, where=where),
        subjects,
        None if task.kind == "regression" else target,
        how,
    )
