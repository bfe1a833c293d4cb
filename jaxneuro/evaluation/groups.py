"""Metrics by site, sex and age, and the worst site."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxneuro.evaluation import estimates
from jaxneuro.manifest import MISSING, Scan
from jaxneuro.tasks import Task

#: What groups are told by, the main metric first.
NAMES = {"binary": ("roc_auc", "sensitivity", "specificity"), "multiclass": ("accuracy",), "regression": ("mae",)}
#: A site of fewer scans is not called the worst: the worst of many small ones is noise.
MINIMUM = 20


def describe(
    task: Task,
    scans: Sequence[Scan],
    target: np.ndarray,
    predictions: np.ndarray,
    threshold: float | None,
    mean: float,
    how: estimates.How,
) -> dict[str, Any]:
    """Return metrics within each site, sex and decade of age, and the site with the worst main metric.

    Args:
      task: the task.
      scans: [n].
      target: [n].
      predictions: [n, k], in the target's unit.
      threshold: of a binary task.
      mean: mean target of the training fold.
      how: of the intervals.

    Returns:
      "site", "sex" and "age": group to "scans", "subjects", "class_counts" and "metrics"; empty where no scan states
      it. "worst_site": as `worst` gives it.
    """
    stated = {"site": [s.site for s in scans], "sex": [s.sex for s in scans], "age": [decade(s.age) for s in scans]}
    found: dict[str, Any] = {}
    for factor, members in stated.items():
        found[factor] = {}
        for group in sorted(set(members)) if set(members) != {MISSING} else ():
            here = np.array([m == group for m in members])
            subjects = [s.subject for s, inside in zip(scans, here, strict=True) if inside]
            found[factor][group] = {
                "scans": len(subjects),
                "subjects": len(set(subjects)),
                "class_counts": {c: int((target[here] == i).sum()) for i, c in enumerate(task.classes)} or None,
                "metrics": estimates.of_task(
                    task, subjects, target[here], predictions[here], threshold, mean, how,
                    names=NAMES[task.kind], where="group",
                ),
            }  # fmt: skip
    return found | {"worst_site": worst(task, found["site"])}


def decade(age: float) -> str:
    """Return the decade of an age in years, such as "60-69", or "n/a"."""
    return MISSING if math.isnan(age) else f"{math.floor(age / 10) * 10}-{math.floor(age / 10) * 10 + 9}"


def worst(task: Task, sites: Mapping[str, Mapping[str, Any]], *, minimum: int = MINIMUM) -> dict[str, Any]:
    """Return the site with the worst main metric of a task, and its interval.

    It is chosen for being the worst, so its value is pessimistic, the more so the more sites there are.

    Args:
      task: the task.
      sites: as `describe` gives them.
      minimum: a site has at least so many scans to be chosen.

    Returns:
      "site", "metric", "minimum_scans", "scans", "value", "low", "high"; with fewer than 2 sites to choose from, "site"
      is None and there is a "reason" in place of numbers.
    """
    metric = NAMES[task.kind][0]
    values = {
        site: entry["metrics"][metric]["value"]
        for site, entry in sites.items()
        if site != MISSING and entry["scans"] >= minimum and entry["metrics"][metric]["value"] is not None
    }
    said: dict[str, Any] = {"site": None, "metric": metric, "minimum_scans": minimum}
    if len(values) < 2:
        return said | {"reason": f"{len(values)} sites have {minimum} scans and a defined {metric}; expected 2 or more"}
    site = (max if metric == "mae" else min)(values, key=lambda s: values[s])
    ends = {end: sites[site]["metrics"][metric][end] for end in ("value", "low", "high")}
    return said | {"site": site, "scans": sites[site]["scans"], **ends}
