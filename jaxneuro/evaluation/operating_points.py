"""What a binary task's sensitivity and specificity are at thresholds chosen by different rules."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxneuro.evaluation import estimates, metrics
from jaxneuro.tasks import Task

_NAMES = ("sensitivity", "specificity", "balanced_accuracy")


def describe(
    task: Task,
    subjects: Sequence[str],
    target: np.ndarray,
    probability: np.ndarray,
    threshold: Mapping[str, Any],
    how: estimates.How,
    *,
    chose: bool,
) -> dict[str, dict[str, Any]]:
    """Return sensitivity, specificity and balanced accuracy at the run's threshold, at 0.5, and at the best one here.

    The last is chosen by Youden's index on the very scans that it is tested on, so its values are optimistic.

    Args:
      task: a binary task.
      subjects: [n], the subject of each scan.
      target: [n], 0 or 1.
      probability: [n], of class 1.
      threshold: of the run, as `evaluate.choose_threshold` gives it.
      how: of the intervals.
      chose: the fold is validation: a threshold that was chosen there is optimistic here too.

    Returns:
      "validation", "half", "here", each with "threshold", "rule", "optimistic" and "metrics"; without a threshold, for
      there is one class, with a "reason" and no metrics.
    """
    best = metrics.youden_threshold(target, probability)
    chosen_on = threshold["chosen_on"]
    rule = threshold["rule"] + (f" on {chosen_on}" if chosen_on else "")
    points = {
        "validation": (float(threshold["value"]), rule, chose and chosen_on is not None),
        "half": (0.5, "0.5", False),
        "here": (best, "Youden's index on these scans", True),
    }
    found: dict[str, dict[str, Any]] = {}
    for name, (value, rule, optimistic) in points.items():
        found[name] = {"threshold": value, "rule": rule, "optimistic": optimistic}
        if math.isnan(value):
            reason = metrics.undefined_reason("Youden's index", task.kind, target, task.classes)
            found[name] |= {"threshold": None, "metrics": {}, "reason": reason}
            continue
        found[name]["metrics"] = estimates.of_task(
            task, subjects, target, probability[:, None], value, math.nan, how, names=_NAMES
        )
    return found
