"""What reviewers ask of a fold beside its metrics: calibration, operating points, groups, corrected brain age."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxneuro.evaluation import brain_age, calibration, estimates, groups, operating_points
from jaxneuro.manifest import Scan
from jaxneuro.tasks import Task


def describe(
    task: Task,
    scans: Sequence[Scan],
    target: np.ndarray,
    predictions: np.ndarray,
    threshold: Mapping[str, Any] | None,
    mean: float,
    validation: tuple[np.ndarray, np.ndarray],
    how: estimates.How,
    *,
    chose: bool,
) -> dict[str, Any]:
    """Return "groups" of a fold; of a binary task "calibration" and "operating_points", of ages "bias_correction".

    Args:
      task: the task.
      scans: [n] of the fold, at least one.
      target: [n].
      predictions: [n, k], in the target's unit.
      threshold: of a binary task, as `evaluate.choose_threshold` gives it.
      mean: mean target of the training fold.
      validation: target [v] and predictions [v, k] of the validation fold, to which corrections are fitted.
      how: of the intervals.
      chose: the fold is validation, so that what was chosen on it is optimistic here.
    """
    subjects = [s.subject for s in scans]
    value = threshold["value"] if threshold else None
    found: dict[str, Any] = {"groups": groups.describe(task, scans, target, predictions, value, mean, how)}
    if task.kind == "binary":
        assert threshold is not None
        found["calibration"] = _calibration(subjects, target, predictions[:, 0], how)
        found["operating_points"] = operating_points.describe(
            task, subjects, target, predictions[:, 0], threshold, how, chose=chose
        )
    if task.kind == "regression" and task.target == "age":
        line = brain_age.fit(validation[0], validation[1][:, 0])
        found["bias_correction"] = {
            "optimistic": chose,
            **brain_age.describe(line, target, predictions[:, 0], mean),
        }
    return found


def _calibration(
    subjects: Sequence[str], target: np.ndarray, probability: np.ndarray, how: estimates.How
) -> dict[str, Any]:
    """Return "slope", "intercept" and "brier" with their intervals, and the "curve" of reliability."""
    fits = {"slope": calibration.slope, "intercept": calibration.intercept}
    lines = {name: fit(target, probability, level=how.level) for name, fit in fits.items()}
    alone = estimates.independent(subjects)

    def statistic(rows: np.ndarray) -> dict[str, float]:
        refitted = {} if alone else {name: fit(target[rows], probability[rows])[0] for name, fit in fits.items()}
        return {**refitted, "brier": calibration.brier(target[rows], probability[rows])}

    entries = estimates.described(
        {**{name: line[0] for name, line in lines.items()}, "brier": calibration.brier(target, probability)},
        {name: (line[1], line[2], "Wald") for name, line in lines.items()} if alone else {},
        statistic,
        lambda name: calibration.undefined_reason(name, target, probability),
        subjects,
        target,
        how,
    )
    curve = calibration.reliability(target, probability, level=how.level)
    # Exact intervals take scans for independent.
    return {**entries, "curve": curve if alone else [{**p, "low": None, "high": None} for p in curve]}
